from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE
from crkd_ros.conversions import (
    ConversionError,
    Messages,
    lidar_points_of,
    point_cloud_message,
    points_of,
    radar_points_of,
    stamp_of,
)

STAMP = 1_538_984_233_560_834_000


def random_points(dtype: np.dtype[np.void], n: int = 37) -> NDArray[np.void]:
    """Random bytes in every column but the floats, which are finite."""
    rng = np.random.default_rng(5)
    points = np.frombuffer(rng.bytes(n * dtype.itemsize), dtype=dtype).copy()
    for name in dtype.names:
        if dtype[name].kind == "f":
            points[name] = rng.normal(scale=50, size=n)
    return points


def cloud_with(messages: Messages, dtype: np.dtype[np.void], n: int = 4) -> Any:
    return point_cloud_message(messages, np.ones(n, dtype=dtype), stamp=STAMP, frame_id="radar_front")


@pytest.mark.parametrize(("dtype", "read"), [(RADAR_DTYPE, radar_points_of), (LIDAR_DTYPE, lidar_points_of)])
@pytest.mark.parametrize("n", [0, 1, 37])
def test_points_pass_through_byte_for_byte(
    messages: Messages, sent: Callable[[Any], Any], dtype: np.dtype[np.void], read: Callable[..., Any], n: int
) -> None:
    points = random_points(dtype, n)
    message = sent(point_cloud_message(messages, points, stamp=STAMP, frame_id="radar_front"))
    assert bytes(message.data) == points.tobytes()
    found = read(message, source="radar_front")
    assert found.dtype == dtype
    assert found.tobytes() == points.tobytes()
    assert (stamp_of(message.header.stamp), message.header.frame_id) == (STAMP, "radar_front")


def test_radar_message_is_packed_in_43_bytes(messages: Messages) -> None:
    message = cloud_with(messages, RADAR_DTYPE)
    assert (message.point_step, message.row_step, message.width, message.height) == (43, 4 * 43, 4, 1)
    assert [field.name for field in message.fields] == list(RADAR_DTYPE.names)


def test_points_packed_alike_are_not_copied(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = sent(cloud_with(messages, RADAR_DTYPE))
    found = radar_points_of(message, source="radar_front")
    assert np.shares_memory(found.view(np.uint8), np.frombuffer(message.data, dtype=np.uint8))


def test_columns_are_found_by_name_whatever_order_and_padding(messages: Messages, sent: Callable[[Any], Any]) -> None:
    shuffled = np.dtype(
        {
            "names": list(RADAR_DTYPE.names)[::-1],
            "formats": [RADAR_DTYPE[name] for name in RADAR_DTYPE.names[::-1]],
            "offsets": list(range(8, 8 + 8 * 18, 8)),
            "itemsize": 160,
        }
    )
    points = random_points(RADAR_DTYPE)
    moved = np.zeros(len(points), dtype=shuffled)
    for name in RADAR_DTYPE.names:
        moved[name] = points[name]
    message = sent(point_cloud_message(messages, moved, stamp=STAMP, frame_id="radar_front"))
    np.testing.assert_array_equal(radar_points_of(message, source="radar_front"), points)


def test_big_endian_cloud_is_read(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = cloud_with(messages, LIDAR_DTYPE)
    swapped = random_points(LIDAR_DTYPE, 4)
    message.data = messages.octets(swapped.astype(swapped.dtype.newbyteorder(">")).tobytes())
    message.is_bigendian = True
    np.testing.assert_array_equal(lidar_points_of(sent(message), source="lidar_top"), swapped)


def test_rows_with_padding_are_read(messages: Messages, sent: Callable[[Any], Any]) -> None:
    points = random_points(LIDAR_DTYPE, 6)
    message = cloud_with(messages, LIDAR_DTYPE)
    message.height, message.width, message.row_step = 2, 3, 3 * 20 + 4
    rows = [points[:3].tobytes(), points[3:].tobytes()]
    message.data = messages.octets(bytes(4).join(rows))  # the padding of the last row may be absent
    np.testing.assert_array_equal(lidar_points_of(sent(message), source="lidar_top"), points)


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


def test_missing_column_is_named_with_those_found(messages: Messages) -> None:
    names = [name for name in RADAR_DTYPE.names if name != "vx_comp"]
    without = np.dtype([(name, RADAR_DTYPE[name]) for name in names])
    with pytest.raises(
        ConversionError, match=r"radar_front: field 'vx_comp' missing \(found x, y, z, dyn_prop, id, rcs"
    ):
        radar_points_of(cloud_with(messages, without), source="radar_front")


def test_empty_cloud_without_fields_is_no_points(messages: Messages, sent: Callable[[Any], Any]) -> None:
    found = radar_points_of(sent(messages.PointCloud2(height=1, width=0)), source="radar_front")
    assert (len(found), found.dtype) == (0, RADAR_DTYPE)


def test_truncated_cloud_is_refused(messages: Messages) -> None:
    message = cloud_with(messages, RADAR_DTYPE)
    message.data = messages.octets(bytes(100))
    with pytest.raises(ConversionError, match="radar_front: 4 x 1 points of 43 bytes need 172 bytes, got 100"):
        radar_points_of(message, source="radar_front")


def test_field_outside_the_point_is_refused(messages: Messages) -> None:
    message = cloud_with(messages, LIDAR_DTYPE)
    message.fields[4].offset = 18
    with pytest.raises(ConversionError, match="lidar_top: fields do not fit into a point of 20 bytes"):
        points_of(message, source="lidar_top")


def test_unknown_field_type_is_refused(messages: Messages) -> None:
    message = cloud_with(messages, LIDAR_DTYPE)
    message.fields[0].datatype = 42
    with pytest.raises(ConversionError, match="lidar_top: field 'x' has datatype 42"):
        points_of(message, source="lidar_top")
