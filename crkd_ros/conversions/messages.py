"""The message classes a conversion builds its result from: rclpy's or rosbags', under the same names."""

from __future__ import annotations

import array
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from crkd_core.types import FloatArray
from crkd_ros.conversions.errors import ConversionError

Make = Callable[..., Any]
"""Makes a message from keyword arguments; fields not given are zero or empty."""

Octets = bytes | bytearray | memoryview

PACKAGES: dict[str, str] = {
    "Time": "builtin_interfaces",
    "Duration": "builtin_interfaces",
    "Header": "std_msgs",
    "String": "std_msgs",
    "ColorRGBA": "std_msgs",
    "Point": "geometry_msgs",
    "Vector3": "geometry_msgs",
    "Quaternion": "geometry_msgs",
    "Pose": "geometry_msgs",
    "PoseWithCovariance": "geometry_msgs",
    "Transform": "geometry_msgs",
    "TransformStamped": "geometry_msgs",
    "Twist": "geometry_msgs",
    "TwistWithCovariance": "geometry_msgs",
    "Odometry": "nav_msgs",
    "CameraInfo": "sensor_msgs",
    "CompressedImage": "sensor_msgs",
    "Image": "sensor_msgs",
    "PointCloud2": "sensor_msgs",
    "PointField": "sensor_msgs",
    "TFMessage": "tf2_msgs",
    "BoundingBox3D": "vision_msgs",
    "Detection3D": "vision_msgs",
    "Detection3DArray": "vision_msgs",
    "ObjectHypothesis": "vision_msgs",
    "ObjectHypothesisWithPose": "vision_msgs",
    "Marker": "visualization_msgs",
    "MarkerArray": "visualization_msgs",
}
"""Message name -> the package that defines it."""


@dataclass(frozen=True)
class Messages:
    """One kind of message classes.

    Attributes:
        octets: bytes-like -> the value of a ``uint8[]`` field, without a slow copy.
        doubles: float64 array -> the value of a ``float64[]`` field.
    """

    octets: Callable[[Octets], Any]
    doubles: Callable[[FloatArray], Any]
    Time: Make
    Duration: Make
    Header: Make
    String: Make
    ColorRGBA: Make
    Point: Make
    Vector3: Make
    Quaternion: Make
    Pose: Make
    PoseWithCovariance: Make
    Transform: Make
    TransformStamped: Make
    Twist: Make
    TwistWithCovariance: Make
    Odometry: Make
    CameraInfo: Make
    CompressedImage: Make
    Image: Make
    PointCloud2: Make
    PointField: Make
    TFMessage: Make
    BoundingBox3D: Make
    Detection3D: Make
    Detection3DArray: Make
    ObjectHypothesis: Make
    ObjectHypothesisWithPose: Make
    Marker: Make
    MarkerArray: Make


@cache
def ros_messages() -> Messages:
    """The classes of the sourced ROS distribution, or of the wheels in this environment.

    Raises:
        ConversionError: a message package cannot be imported.
    """

    def found(name: str, package: str) -> Make:
        try:
            make: Make = getattr(importlib.import_module(f"{package}.msg"), name)
        except ImportError as error:
            raise ConversionError(
                f"ROS message package '{package}': cannot be imported ({error}); source a ROS 2 distribution that has "
                f"it (apt install ros-$ROS_DISTRO-{package.replace('_', '-')}), or set the environment up with make"
            ) from None
        return make

    makers = {name: found(name, package) for name, package in PACKAGES.items()}
    return Messages(octets=_array_of_octets, doubles=_array_of_doubles, **makers)


def message_class(msgtype: str) -> Any:
    """The Python class of a message type such as ``std_msgs/msg/String``.

    Raises:
        ConversionError: no such package or message here.
    """
    package, _, name = msgtype.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError, ValueError):
        raise ConversionError(
            f"message type '{msgtype}': not found; expected package/msg/Name of a package that is sourced"
        ) from None


def _array_of_octets(data: Octets) -> array.array[int]:
    # rclpy checks any other sequence element by element, and copies bytes three times as slowly.
    octets = array.array("B")
    octets.frombytes(data)
    return octets


def _array_of_doubles(values: FloatArray) -> array.array[float]:
    return array.array("d", np.ascontiguousarray(values, dtype=np.float64).tobytes())
