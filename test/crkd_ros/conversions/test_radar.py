from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from crkd_core.runtime.radar_motion import is_relative
from crkd_core.types import RADAR_DTYPE
from crkd_ros.conversions import ConversionError, Messages, point_cloud_message, radar_points_of
from rosbag_tools.bags import open_bag

RETURN_TEXT = "float32 range\nfloat32 azimuth\nfloat32 elevation\nfloat32 doppler_velocity\nfloat32 amplitude\n"
SCAN_TEXT = "std_msgs/Header header\nradar_msgs/RadarReturn[] returns\n"


def cloud(messages: Messages, **columns: Any) -> Any:
    """A point cloud of these columns, float32 unless they say otherwise."""
    arrays = {name: np.atleast_1d(np.asarray(values)) for name, values in columns.items()}
    types = {name: a.dtype if a.dtype.kind == "i" and a.itemsize < 8 else np.dtype("<f4") for name, a in arrays.items()}
    points = np.zeros(len(next(iter(arrays.values()))), dtype=list(types.items()))
    for name, values in arrays.items():
        points[name] = values
    return point_cloud_message(messages, points, stamp=0, frame_id="radar_front")


def test_small_integers_in_float_columns_are_accepted(messages: Messages, sent: Callable[[Any], Any]) -> None:
    as_floats = np.dtype([(name, "<f4") for name in RADAR_DTYPE.names])
    points = np.full(3, 7, dtype=as_floats)
    found = radar_points_of(sent(point_cloud_message(messages, points, stamp=0, frame_id="r")), source="radar_front")
    assert found.dtype == RADAR_DTYPE
    assert found["dyn_prop"].tolist() == [7, 7, 7]


@pytest.mark.parametrize("value", [1.5, 300.0, np.nan])
def test_values_a_column_cannot_hold_are_refused(messages: Messages, value: float) -> None:
    as_floats = np.dtype([(name, "<f4") for name in RADAR_DTYPE.names])
    points = np.ones(3, dtype=as_floats)
    points["dyn_prop"][1] = value
    with pytest.raises(ConversionError, match="radar_front: field 'dyn_prop' holds values that int8"):
        radar_points_of(point_cloud_message(messages, points, stamp=0, frame_id="r"), source="radar_front")


def test_field_with_several_values_a_point_is_refused(messages: Messages) -> None:
    message = cloud(messages, x=[1.0], y=[2.0], vx_comp=[0.0], vy_comp=[0.0], extra=[0.0])
    message.fields[0].count = 2
    with pytest.raises(ConversionError, match="radar_front: field 'x' holds 2 values a point"):
        radar_points_of(message, source="radar_front")


def test_missing_velocity_is_named_with_the_fields_found(messages: Messages) -> None:
    names = [name for name in RADAR_DTYPE.names if name != "vx_comp"]
    without = point_cloud_message(
        messages, np.ones(4, dtype=[(name, RADAR_DTYPE[name]) for name in names]), stamp=0, frame_id="r"
    )
    with pytest.raises(
        ConversionError, match=r"radar_front: field 'vx_comp' missing \(found x, y, z, dyn_prop, id, rcs"
    ):
        radar_points_of(without, source="radar_front")


def test_empty_cloud_without_fields_is_no_points(messages: Messages, sent: Callable[[Any], Any]) -> None:
    found = radar_points_of(sent(messages.PointCloud2(height=1, width=0)), source="radar_front")
    assert (len(found), found.dtype) == (0, RADAR_DTYPE)


def test_missing_columns_are_filled_by_the_documented_rule(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = sent(cloud(messages, vy_comp=[2.0], y=[4.0], x=[3.0], vx_comp=[1.0]))
    [point] = radar_points_of(message, source="radar_front")
    assert (point["x"], point["y"], point["z"], point["rcs"]) == (3, 4, 0, 0)
    assert (point["vx_comp"], point["vy_comp"]) == (1, 2)
    assert np.isnan([point["vx"], point["vy"]]).all()
    states = [point[name] for name in ("dyn_prop", "is_quality_valid", "ambig_state", "invalid_state", "pdh0")]
    assert states == [4, 1, 3, 0, 1]


def test_range_azimuth_and_elevation_place_a_return(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = cloud(
        messages, azimuth=[np.pi / 2, 0.0], range=[10.0, 20.0], elevation=[0.0, np.pi / 6], doppler=[-3.0, 2.0]
    )
    points = radar_points_of(sent(message), source="radar_front", accept_relative=True)
    np.testing.assert_allclose(points["x"], [0, 20 * np.cos(np.pi / 6)], atol=1e-5)
    np.testing.assert_allclose(points["y"], [10, 0], atol=1e-5)
    np.testing.assert_allclose(points["z"], [0, 10], atol=1e-5)
    np.testing.assert_allclose(points["vx"], [0, 2 * np.cos(np.pi / 6)], atol=1e-6)
    np.testing.assert_allclose(points["vy"], [-3, 0], atol=1e-6)
    assert is_relative(points)


@pytest.mark.parametrize("name", ["doppler", "doppler_velocity", "radial_velocity", "radial_speed"])
def test_radial_velocity_is_known_by_several_names(messages: Messages, name: str) -> None:
    message = cloud(messages, x=[3.0], y=[4.0], **{name: [10.0]})
    [point] = radar_points_of(message, source="radar_front", accept_relative=True)
    assert (point["vx"], point["vy"]) == pytest.approx((6.0, 8.0))


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"x": [1.0], "vx": [0.0], "vy": [0.0]}, r"field 'y' missing \(found x, vx, vy\); 'range' and 'azimuth'"),
        ({"range": [1.0], "doppler": [0.0]}, r"fields 'x', 'y' missing \(found range, doppler\)"),
        ({"x": [1.0], "y": [1.0], "vx": [1.0]}, r"fields 'vx_comp', 'vy_comp' missing .*; 'vx' and 'vy', or one of"),
    ],
)
def test_without_position_or_velocity_a_radar_is_refused(messages: Messages, columns: Any, text: str) -> None:
    with pytest.raises(ConversionError, match=f"radar_front: {text}"):
        radar_points_of(cloud(messages, **columns), source="radar_front", accept_relative=True)


def test_relative_velocities_are_refused_where_they_are_not_asked_for(messages: Messages) -> None:
    with pytest.raises(ConversionError, match="fields 'vx_comp', 'vy_comp' missing"):
        radar_points_of(cloud(messages, x=[1.0], y=[1.0], vx=[1.0], vy=[0.0]), source="radar_front")


@pytest.mark.parametrize("name", ["x", "y", "z", "rcs", "vx_comp", "vy_comp"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_returns_that_are_not_finite_are_left_out(messages: Messages, name: str, value: float) -> None:
    points = np.zeros(3, dtype=RADAR_DTYPE)
    points["id"] = [1, 2, 3]
    points[name][1] = value
    found = radar_points_of(point_cloud_message(messages, points, stamp=0, frame_id="r"), source="radar_front")
    assert found["id"].tolist() == [1, 3]


@dataclass
class Scan:
    """A ``radar_msgs/RadarScan`` as far as the adapter looks at it."""

    returns: list[Any] = field(default_factory=list)


def echo(**values: float) -> Any:
    names = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
    return SimpleNamespace(**{name: values.get(name, 0.0) for name in names})


def check_scan(points: NDArray[np.void]) -> None:
    assert points.dtype == RADAR_DTYPE
    np.testing.assert_allclose(points["x"], [10, 0], atol=1e-5)
    np.testing.assert_allclose(points["y"], [0, 5], atol=1e-5)
    np.testing.assert_allclose(points["vx"], [-4, 0], atol=1e-6)
    np.testing.assert_allclose(points["vy"], [0, 2], atol=1e-6)
    assert points["rcs"].tolist() == [12.5, -3.0]
    assert np.isnan(points["vx_comp"]).all()


ECHOES = [
    {"range": 10.0, "doppler_velocity": -4.0, "amplitude": 12.5},
    {"range": 5.0, "azimuth": np.pi / 2, "doppler_velocity": 2.0, "amplitude": -3.0},
]


def test_radar_scan_is_read_without_radar_msgs() -> None:
    check_scan(radar_points_of(Scan([echo(**e) for e in ECHOES]), source="radar_front", accept_relative=True))


def test_radar_scan_of_a_bag_is_read_as_the_bag_describes_it(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    store.register(get_types_from_msg(RETURN_TEXT, "radar_msgs/msg/RadarReturn"))
    store.register(get_types_from_msg(SCAN_TEXT, "radar_msgs/msg/RadarScan"))
    make = store.types
    header = make["std_msgs/msg/Header"](make["builtin_interfaces/msg/Time"](1, 2), "radar_front")
    returns = [make["radar_msgs/msg/RadarReturn"](*(e.get(n, 0.0) for n in RETURN_TEXT.split()[1::2])) for e in ECHOES]
    data = store.serialize_cdr(make["radar_msgs/msg/RadarScan"](header, returns), "radar_msgs/msg/RadarScan")
    with Writer(tmp_path / "bag", version=9) as writer:
        writer.write(writer.add_connection("/scan", "radar_msgs/msg/RadarScan", typestore=store), 1, data)
    with open_bag(tmp_path / "bag") as bag:
        [row] = bag.messages()
    assert row.type == "radar_msgs/msg/RadarScan"
    check_scan(radar_points_of(row.message, source="radar_front", accept_relative=True))


def test_empty_scan_is_no_points() -> None:
    assert len(radar_points_of(Scan(), source="radar_front", accept_relative=True)) == 0


def test_radar_tracks_are_read_with_velocity_and_class() -> None:
    def track(classification: int) -> Any:
        position, velocity = SimpleNamespace(x=20.0, y=-2.0, z=0.5), SimpleNamespace(x=-5.0, y=1.0, z=0.0)
        return SimpleNamespace(position=position, velocity=velocity, classification=classification)

    message = SimpleNamespace(tracks=[track(0), track(1), track(2), track(32000)])
    points = radar_points_of(message, source="radar_front", accept_relative=True)
    assert points["dyn_prop"].tolist() == [4, 1, 0, 4]
    assert points[["x", "y", "z", "vx", "vy"]][0].item() == (20.0, -2.0, 0.5, -5.0, 1.0)
