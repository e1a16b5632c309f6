"""Stamps read from serialised messages."""

import pytest

from crkd_ros.cdr import header_stamp
from crkd_ros.conversions import ConversionError, header_message
from rosbag_tools.typestore import bag_messages, typestore

STAMP = 1_600_000_000_123_456_789


@pytest.mark.parametrize("little_endian", [True, False])
def test_stamp_of_a_serialised_message(little_endian: bool):
    messages = bag_messages()
    message = messages.PointCloud2(header=header_message(messages, STAMP, "somewhere"))
    data = typestore().serialize_cdr(message, "sensor_msgs/msg/PointCloud2", little_endian=little_endian)
    assert header_stamp(bytes(data)) == STAMP


def test_too_short_message_is_refused():
    with pytest.raises(ConversionError, match="expected a header, got 3 bytes"):
        header_stamp(b"\x00\x01\x00")


def test_message_that_begins_with_something_else_is_refused():
    with pytest.raises(ConversionError, match="nanoseconds"):
        header_stamp(b"\x00\x01\x00\x00" + b"\xff" * 16)
