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
