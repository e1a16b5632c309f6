"""The distribution's helpers give what the built-in ones give; each test runs where its package can be imported."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ros_packages import needed

from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE
from crkd_ros.backends import BUILTIN, Backend, BackendError, backend_of
from crkd_ros.backends.distribution import MODULES, image_reader, points_reader
from crkd_ros.conversions import ConversionError, image_message, point_cloud_message, ros_messages

pytestmark = pytest.mark.ros
SLOP = 70_000_000


@pytest.fixture
def cv_bridge() -> Any:
    found = needed("cv_bridge")
    needed("cv_bridge.boost.cv_bridge_boost")
    return found


@pytest.fixture
def read_points() -> Any:
    return needed("sensor_msgs_py.point_cloud2").read_points


def mosaic(encoding: str) -> Any:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 256, size=(12, 16), dtype=np.uint8)
    messages = ros_messages()
    return messages.Image(height=12, width=16, encoding=encoding, step=16, data=messages.octets(data.tobytes()))


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_cv_bridge_gives_the_same_pixels(cv_bridge: Any, encoding: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, size=(7, 6, 3), dtype=np.uint8)
    if encoding == "mono8":
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    message = image_message(ros_messages(), pixels, stamp=1, frame_id="cam", encoding=encoding)
    read = image_reader(cv_bridge.CvBridge())
    np.testing.assert_array_equal(read(message, source="cam"), BUILTIN.rgb_image_of(message, source="cam"))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_cv_bridge_reads_mosaics_alike(cv_bridge: Any, pattern: str) -> None:
    message = mosaic(f"bayer_{pattern}8")
    read = image_reader(cv_bridge.CvBridge())
    np.testing.assert_array_equal(read(message, source="cam"), BUILTIN.rgb_image_of(message, source="cam"))


def test_what_cv_bridge_cannot_convert_is_a_conversion_error(cv_bridge: Any) -> None:
    read = image_reader(cv_bridge.CvBridge())
    with pytest.raises(ConversionError, match="cam: cv_bridge: "):
        read(mosaic("nonsense"), source="cam")
    short = mosaic("mono8")
    short.data = short.data[:20]
    with pytest.raises(ConversionError, match="cam: cv_bridge: "):
        read(short, source="cam")


@pytest.mark.parametrize("dtype", [RADAR_DTYPE, LIDAR_DTYPE])
@pytest.mark.parametrize("count", [0, 1, 37])
def test_sensor_msgs_py_gives_the_same_points(read_points: Any, dtype: np.dtype[np.void], count: int) -> None:
    points = np.frombuffer(np.random.default_rng(5).bytes(count * dtype.itemsize), dtype=dtype)
    message = point_cloud_message(ros_messages(), points, stamp=1, frame_id="radar")
    found = points_reader(read_points)(message, source="radar")
    assert found.dtype == dtype
    assert found.tobytes() == BUILTIN.points_of(message, source="radar").tobytes()


def test_rows_with_padding_are_refused_where_sensor_msgs_py_would_misread_them(read_points: Any) -> None:
    message = point_cloud_message(ros_messages(), np.zeros(4, dtype=LIDAR_DTYPE), stamp=1, frame_id="lidar")
    message.height, message.width, message.row_step = 2, 2, 45
    message.data = ros_messages().octets(bytes(90))
    assert len(BUILTIN.points_of(message, source="lidar")) == 4
    with pytest.raises(ConversionError, match="lidar: sensor_msgs_py does not read rows with padding"):
        points_reader(read_points)(message, source="lidar")


@pytest.mark.parametrize("damage", ["short", "type", "other message"])
def test_damaged_clouds_are_conversion_errors(read_points: Any, damage: str) -> None:
    message: Any = point_cloud_message(ros_messages(), np.zeros(4, dtype=LIDAR_DTYPE), stamp=1, frame_id="lidar")
    if damage == "short":
        message.data = message.data[:30]
    elif damage == "type":
        message.fields[0].datatype = 99
    else:
        message = SimpleNamespace(width=4, height=1, point_step=20, row_step=80)
    with pytest.raises(ConversionError, match="lidar: sensor_msgs_py: "):
        points_reader(read_points)(message, source="lidar")


def test_builtin_is_chosen_without_any_of_the_packages() -> None:
    assert backend_of("builtin", slop=SLOP) is BUILTIN


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="expected builtin or distribution, got 'mine'"):
        backend_of("mine", slop=SLOP)


@pytest.mark.parametrize("missing", MODULES)
def test_a_missing_package_is_named_with_the_fix(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(CvBridge=object))
    monkeypatch.setitem(sys.modules, "sensor_msgs_py.point_cloud2", SimpleNamespace(read_points=None))
    assert isinstance(backend_of("distribution", slop=SLOP), Backend)
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "sensor_msgs_py":
        monkeypatch.setitem(sys.modules, "sensor_msgs_py.point_cloud2", None)
    with pytest.raises(BackendError) as raised:
        backend_of("distribution", slop=SLOP)
    text = str(raised.value)
    assert text.startswith(f"parameter backend: 'distribution' needs the module '{missing}'")
    assert f"apt install ros-$ROS_DISTRO-{MODULES[missing].replace('_', '-')} and source" in text
    assert "set backend: builtin" in text
