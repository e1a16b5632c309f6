"""Stamps, headers, transforms and odometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crkd_core.geometry.transforms import quaternion_from_rotation, transform
from crkd_core.types import FloatArray
from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.messages import Messages

NANOSECONDS = 1_000_000_000
MIN_SECONDS, MAX_SECONDS = -(2**31), 2**31 - 1


def stamp_of(time: Any) -> int:
    """Nanoseconds of a ``builtin_interfaces/Time``."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def time_message(messages: Messages, stamp: int) -> Any:
    """``builtin_interfaces/Time`` of a stamp in nanoseconds.

    Raises:
        ConversionError: ROS cannot say it: its seconds have 32 bits.
    """
    sec, nanosec = divmod(int(stamp), NANOSECONDS)
    if not MIN_SECONDS <= sec <= MAX_SECONDS:
        raise ConversionError(f"stamp {stamp} ns: ROS 2 cannot represent it (expected a time before January 2038)")
    return messages.Time(sec=sec, nanosec=nanosec)


def duration_message(messages: Messages, seconds: float) -> Any:
    """``builtin_interfaces/Duration`` of a time span in seconds."""
    sec, nanosec = divmod(round(seconds * NANOSECONDS), NANOSECONDS)
    return messages.Duration(sec=sec, nanosec=nanosec)


def header_message(messages: Messages, stamp: int, frame_id: str) -> Any:
    """``std_msgs/Header`` with a stamp in nanoseconds."""
    return messages.Header(stamp=time_message(messages, stamp), frame_id=frame_id)


def transform_of(message: Any, *, source: str = "transform") -> FloatArray:
    """The (4, 4) ``T_parent_from_child`` of a Transform, TransformStamped, Pose or PoseWithCovariance.

    Args:
        message: any of the four.
        source: what the error message calls it.

    Raises:
        ConversionError: a quaternion without direction, or a value that is not finite.
    """
    if hasattr(message, "transform"):
        source = f"{source} {message.header.frame_id} -> {message.child_frame_id}"
        message = message.transform
    elif hasattr(message, "pose"):
        message = message.pose
    is_pose = hasattr(message, "position")
    p, q = (message.position, message.orientation) if is_pose else (message.translation, message.rotation)
    if not np.isfinite([p.x, p.y, p.z]).all():
        raise ConversionError(f"{source}: translation is not finite: ({p.x}, {p.y}, {p.z})")
    try:
        return transform([q.w, q.x, q.y, q.z], [p.x, p.y, p.z])
    except ValueError as error:
        raise ConversionError(f"{source}: {error}") from None


def transform_message(messages: Messages, T_parent_from_child: FloatArray) -> Any:
    """``geometry_msgs/Transform`` of a (4, 4) transform."""
    x, y, z = T_parent_from_child[:3, 3].tolist()
    return messages.Transform(
        translation=messages.Vector3(x=x, y=y, z=z), rotation=_quaternion(messages, T_parent_from_child)
    )


def pose_message(messages: Messages, T_frame_from_body: FloatArray) -> Any:
    """``geometry_msgs/Pose`` of a body in a frame, from a (4, 4) transform."""
    x, y, z = T_frame_from_body[:3, 3].tolist()
    return messages.Pose(position=messages.Point(x=x, y=y, z=z), orientation=_quaternion(messages, T_frame_from_body))


def transform_stamped_message(
    messages: Messages, T_parent_from_child: FloatArray, *, stamp: int, parent: str, child: str
) -> Any:
    """``geometry_msgs/TransformStamped``: ``parent`` is its header's frame, ``child`` its child frame."""
    return messages.TransformStamped(
        header=header_message(messages, stamp, parent),
        child_frame_id=child,
        transform=transform_message(messages, T_parent_from_child),
    )


def tf_message(messages: Messages, transforms: Sequence[Any]) -> Any:
    """``tf2_msgs/TFMessage`` of TransformStamped messages."""
    return messages.TFMessage(transforms=list(transforms))


def odometry_message(
    messages: Messages,
    T_world_from_base: FloatArray,
    *,
    stamp: int,
    world: str,
    base: str,
    linear: FloatArray,
    angular: FloatArray,
) -> Any:
    """``nav_msgs/Odometry``.

    Args:
        messages: the kind to make.
        T_world_from_base: (4, 4) pose of the vehicle.
        stamp: ns.
        world: frame of the pose.
        base: frame of the vehicle, in which the twist is given.
        linear: (3,) m/s in ``base``.
        angular: (3,) rad/s in ``base``.
    """
    (vx, vy, vz), (wx, wy, wz) = linear.tolist(), angular.tolist()
    twist = messages.Twist(linear=messages.Vector3(x=vx, y=vy, z=vz), angular=messages.Vector3(x=wx, y=wy, z=wz))
    return messages.Odometry(
        header=header_message(messages, stamp, world),
        child_frame_id=base,
        pose=messages.PoseWithCovariance(pose=pose_message(messages, T_world_from_base)),
        twist=messages.TwistWithCovariance(twist=twist),
    )


def pose_of_odometry(message: Any, *, source: str = "odometry") -> FloatArray:
    """The (4, 4) ``T_world_from_base`` of a ``nav_msgs/Odometry``; world is its header's frame, base its child frame.

    Raises:
        ConversionError: a quaternion without direction, or a value that is not finite.
    """
    return transform_of(message.pose, source=source)


def _quaternion(messages: Messages, T: FloatArray) -> Any:
    w, x, y, z = quaternion_from_rotation(T[:3, :3]).tolist()
    return messages.Quaternion(x=x, y=y, z=z, w=w)
