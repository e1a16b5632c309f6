"""The little of a serialised message that is needed without deserialising it."""

from __future__ import annotations

import struct

from crkd_ros.conversions import ConversionError

LITTLE_ENDIAN = 1


def header_stamp(data: bytes) -> int:
    """Stamp (ns) of a serialised message whose first field is a ``std_msgs/Header``.

    Args:
        data: CDR with its four bytes of encapsulation.

    Raises:
        ConversionError: too short to hold a header, or no point in time.
    """
    if len(data) < 12:
        raise ConversionError(f"serialised message: expected a header, got {len(data)} bytes")
    order = "<" if data[1] & LITTLE_ENDIAN else ">"
    sec, nanosec = struct.unpack_from(f"{order}iI", data, 4)
    if nanosec >= 1_000_000_000:
        raise ConversionError(f"serialised message: expected a header, got a stamp with {nanosec} nanoseconds")
    return int(sec) * 1_000_000_000 + int(nanosec)
