from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from crkd_core.types import RADAR_DTYPE, Boxes3D, Detections
from crkd_ros.conversions import (
    Messages,
    detection_messages,
    marker_array,
    odometry_message,
    point_cloud_message,
    ros_messages,
)
from crkd_ros.conversions.messages import PACKAGES
from rosbag_tools.typestore import bag_messages, typestore


def test_every_class_has_a_package() -> None:
    assert {field.name for field in fields(Messages)} - {"octets", "doubles"} == set(PACKAGES)


def test_fields_not_given_are_zero_or_empty(messages: Messages) -> None:
    marker = messages.Marker()
    assert (marker.id, marker.text, marker.frame_locked, len(marker.points)) == (0, "", False, 0)
    assert marker.pose.orientation.w == 1.0
    assert messages.PoseWithCovariance().covariance.tolist() == [0.0] * 36


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="colour"):
        bag_messages().Marker(colour=1)


@pytest.mark.ros
def test_both_kinds_say_the_same() -> None:
    from rclpy.serialization import deserialize_message, serialize_message

    boxes = Boxes3D(np.ones((2, 3)), np.full((2, 3), 2.0), np.array([0.1, -2.0]), np.array([[3.0, 1.0], [0.0, 0.0]]))
    found = Detections(boxes, np.array([0.5, 0.25]), np.array([0, 8]), "base_link", 12_345_678_901)

    def made(messages: Messages) -> list[Any]:
        cloud = point_cloud_message(messages, np.ones(3, dtype=RADAR_DTYPE), stamp=7, frame_id="radar_front")
        odometry = odometry_message(
            messages, np.eye(4), stamp=7, world="map", base="base_link", linear=np.ones(3), angular=np.zeros(3)
        )
        return [*detection_messages(messages, found), marker_array(messages, found), cloud, odometry]

    for ours, theirs in zip(made(bag_messages()), made(ros_messages()), strict=True):
        # Padding bytes are arbitrary: compare what a bag reader finds in what rclpy wrote, and the other way round.
        store, name = typestore(), ours.__msgtype__
        ours_as_bytes = bytes(store.serialize_cdr(ours, name))
        theirs_as_bytes = serialize_message(theirs)
        assert bytes(store.serialize_cdr(store.deserialize_cdr(theirs_as_bytes, name), name)) == ours_as_bytes, name
        assert deserialize_message(ours_as_bytes, type(theirs)) == deserialize_message(theirs_as_bytes, type(theirs)), (
            name
        )


def test_missing_ros_package_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def without_vision(name: str) -> Any:
        if name == "vision_msgs.msg":
            raise ImportError("No module named 'vision_msgs'")
        return real(name)

    pytest.importorskip("sensor_msgs")
    monkeypatch.setattr(importlib, "import_module", without_vision)
    ros_messages.cache_clear()
    with pytest.raises(Exception, match=r"'vision_msgs': cannot be imported.*ros-\$ROS_DISTRO-vision-msgs"):
        ros_messages()
    ros_messages.cache_clear()
