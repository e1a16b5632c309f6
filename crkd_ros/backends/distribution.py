"""cv_bridge, sensor_msgs_py, tf2_ros and message_filters of a sourced ROS distribution, behind our own functions.

Nothing of them is imported before a function here is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.runtime.rig import AssemblerConfig, Rig
from crkd_ros.backends.backend import Assembler, Backend, BackendError, OnJump
from crkd_ros.backends.synchronizer import SynchronizedAssembler
from crkd_ros.backends.tf2_buffer import Tf2Buffer
from crkd_ros.conversions import ConversionError

MODULES = {
    "cv_bridge": "cv_bridge",
    "message_filters": "message_filters",
    "sensor_msgs_py": "sensor_msgs_py",
    "tf2_ros": "tf2_ros_py",
    "tf_transformations": "tf_transformations",
}
"""Python module -> the ROS package that provides it."""


def distribution(*, slop: int) -> Backend:
    """The distribution's helpers.

    Args:
        slop: how far apart matched messages may be, ns.

    Raises:
        BackendError: one of the packages cannot be imported.
    """
    filters = package("message_filters")

    def assembler(config: AssemblerConfig, rig: Rig, on_jump: OnJump) -> Assembler:
        return SynchronizedAssembler(config, rig, filters=filters, slop=slop, on_jump=on_jump)

    tf2, rotations = package("tf2_ros"), package("tf_transformations")
    return Backend(
        name="distribution",
        rgb_image_of=image_reader(package("cv_bridge").CvBridge()),
        points_of=points_reader(package("sensor_msgs_py.point_cloud2").read_points),
        transforms=partial(Tf2Buffer, tf2, rotations),
        assembler=assembler,
    )


def package(module: str) -> Any:
    """A module of a package that a ROS distribution provides.

    Raises:
        BackendError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        apt = MODULES[top].replace("_", "-")
        raise BackendError(
            f"parameter backend: 'distribution' needs the module '{top}', which cannot be imported ({error}); "
            f"apt install ros-$ROS_DISTRO-{apt} and source the distribution, or set backend: builtin"
        ) from None


def image_reader(bridge: Any) -> Callable[..., NDArray[np.uint8]]:
    """``rgb_image_of`` by a ``cv_bridge.CvBridge``: any encoding that it converts to rgb8; always a copy."""

    def rgb_image_of(message: Any, *, source: str) -> NDArray[np.uint8]:
        try:
            return np.asarray(bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"), dtype=np.uint8)
        except (TypeError, ValueError, RuntimeError) as error:  # CvBridgeError is a TypeError
            raise ConversionError(f"{source}: cv_bridge: {error}") from None

    return rgb_image_of


def points_reader(read_points: Callable[[Any], NDArray[np.void]]) -> Callable[..., NDArray[np.void]]:
    """``points_of`` by ``sensor_msgs_py.point_cloud2.read_points``: rclpy messages only."""

    def points_of(message: Any, *, source: str) -> NDArray[np.void]:
        row_bytes = int(message.width) * int(message.point_step)
        if int(message.height) > 1 and int(message.row_step) != row_bytes:
            # It takes no notice of row_step: the points would be garbage.
            raise ConversionError(
                f"{source}: sensor_msgs_py does not read rows with padding ({message.row_step} bytes, expected "
                f"{row_bytes}); set backend: builtin"
            )
        try:
            return read_points(message)
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ConversionError(f"{source}: sensor_msgs_py: {type(error).__name__}: {error}") from None

    return points_of
