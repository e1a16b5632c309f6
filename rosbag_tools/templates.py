"""CDR bytes of the messages a bag has thousands of: serialised once, then only what changes is written into a copy.

Serialising a message object costs more time than reading the file it is made of. The places of the fields that change
are found by serialising with two values and looking where the bytes differ, so that no layout is written down here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from crkd_core.types import FloatArray
from crkd_ros import topics
from crkd_ros.conversions import (
    CameraModel,
    camera_info_message,
    compressed_image_message,
    odometry_message,
    point_cloud_message,
    tf_message,
    time_message,
    transform_stamped_message,
)
from rosbag_tools.typestore import bag_messages, serialised

_STAMP = struct.Struct("<iI")
_UINT32 = struct.Struct("<I")
_POSE = struct.Struct("<7d")
_TWIST = struct.Struct("<6d")


def _place(serialise: Callable[[int], bytes]) -> int:
    """Offset of the little-endian field whose value 0 or -1 (all bits) makes the only difference."""
    zero, ones = (np.frombuffer(serialise(value), dtype=np.uint8) for value in (0, 0xFFFFFFFF))
    return int(np.flatnonzero(zero != ones)[0])


def _stamp_bytes(stamp: int) -> bytes:
    time = time_message(bag_messages(), stamp)
    return _STAMP.pack(time.sec, time.nanosec)


class CameraInfoTemplate:
    """``sensor_msgs/CameraInfo`` of one camera at any time."""

    def __init__(self, camera: CameraModel, frame_id: str) -> None:
        message = camera_info_message(bag_messages(), camera, stamp=0, frame_id=frame_id)
        self._bytes = serialised(message)

    def at(self, stamp: int) -> bytes:
        """CDR of the message at ``stamp`` (ns)."""
        return b"".join((self._bytes[:4], _stamp_bytes(stamp), self._bytes[12:]))


class ImageTemplate:
    """``sensor_msgs/CompressedImage`` of one camera."""

    def __init__(self, frame_id: str) -> None:
        self._frame_id = frame_id
        self._heads: dict[bytes, bytes] = {}

    def at(self, stamp: int, content: bytes) -> bytes:
        """CDR of an encoded image at ``stamp`` (ns).

        Raises:
            ConversionError: neither JPEG nor PNG.
        """
        kind = content[:8]
        kind = kind if kind.startswith(b"\x89PNG") else kind[:3]
        if kind not in self._heads:
            message = compressed_image_message(bag_messages(), content, stamp=0, frame_id=self._frame_id)
            self._heads[kind] = serialised(message)[: -len(content) - 4]
        head = self._heads[kind]
        return b"".join((head[:4], _stamp_bytes(stamp), head[12:], _UINT32.pack(len(content)), content))


class CloudTemplate:
    """``sensor_msgs/PointCloud2`` of one sensor."""

    def __init__(self, dtype: np.dtype[np.void], frame_id: str) -> None:
        def sized(width: int) -> bytes:
            message = point_cloud_message(bag_messages(), np.zeros(0, dtype=dtype), stamp=0, frame_id=frame_id)
            message.width = width
            return serialised(message)

        self._step = dtype.itemsize
        empty = sized(0)
        self._width = _place(sized)
        # ... row_step, length of the data, is_dense
        self._head, self._tail = empty[:-9], empty[-1:]

    def at(self, stamp: int, points: bytes) -> bytes:
        """CDR of a cloud at ``stamp`` (ns) of packed points."""
        head, size = bytearray(self._head), len(points)
        head[4:12] = _stamp_bytes(stamp)
        _UINT32.pack_into(head, self._width, size // self._step)
        return b"".join((head, _UINT32.pack(size), _UINT32.pack(size), points, self._tail))


class PoseTemplate:
    """The vehicle's pose, as ``tf2_msgs/TFMessage`` and as ``nav_msgs/Odometry``."""

    def __init__(self) -> None:
        messages, unit, zero = bag_messages(), np.eye(4), np.zeros(3)
        world, base = topics.MAP_FRAME, topics.BASE_FRAME
        moved = transform_stamped_message(messages, unit, stamp=0, parent=world, child=base)
        self._tf = serialised(tf_message(messages, [moved]))
        self._odometry = serialised(
            odometry_message(messages, unit, stamp=0, world=world, base=base, linear=zero, angular=zero)
        )

    def at(self, stamp: int, pose_of_base: FloatArray, twist_of_base: FloatArray) -> tuple[bytes, bytes]:
        """CDR of both.

        Args:
            stamp: ns.
            pose_of_base: (7,) translation and quaternion (x, y, z, w) of the vehicle in the map.
            twist_of_base: (6,) m/s and rad/s along the vehicle's axes.
        """
        pose, twist = _POSE.pack(*pose_of_base.tolist()), _TWIST.pack(*twist_of_base.tolist())
        when = _stamp_bytes(stamp)
        tf = b"".join((self._tf[:8], when, self._tf[16:-56], pose))
        # pose, 36 covariances, twist, 36 covariances: eight bytes each, at the end
        head, covariance, end = self._odometry[12:-680], self._odometry[-624:-336], self._odometry[-288:]
        return tf, b"".join((self._odometry[:4], when, head, pose, covariance, twist, end))
