"""The quick way to serialise gives the library's bytes."""

from __future__ import annotations

import numpy as np
import pytest

from crkd_core.geometry.transforms import quaternion_from_rotation, transform
from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE
from crkd_ros.conversions import (
    CameraModel,
    camera_info_message,
    compressed_image_message,
    odometry_message,
    point_cloud_message,
    tf_message,
    transform_stamped_message,
)
from rosbag_tools.templates import CameraInfoTemplate, CloudTemplate, ImageTemplate, PoseTemplate
from rosbag_tools.typestore import bag_messages, serialised

STAMP = 1_538_984_233_512_345_678
M = bag_messages()


@pytest.mark.parametrize("frame", ["a", "ab", "abc", "abcd", "cam_front_left"])
def test_templates_give_the_bytes_of_the_library(frame: str) -> None:
    camera = CameraModel(np.array([[500.0, 0, 32], [0, 501, 24], [0, 0, 1]]), 64, 48)
    expected = serialised(camera_info_message(M, camera, stamp=STAMP, frame_id=frame))
    assert CameraInfoTemplate(camera, frame).at(STAMP) == expected
    image = ImageTemplate(frame)
    for content in (b"\xff\xd8\xff\xe0" + bytes(1001), b"\x89PNG\r\n\x1a\n" + bytes(7), b"\xff\xd8\xff\xe1x"):
        expected = serialised(compressed_image_message(M, content, stamp=STAMP, frame_id=frame))
        assert image.at(STAMP, content) == expected
    for dtype in (RADAR_DTYPE, LIDAR_DTYPE):
        for count in (0, 1, 17):
            points = np.zeros(count, dtype=dtype)
            points["x"] = np.arange(count)
            expected = serialised(point_cloud_message(M, points, stamp=STAMP, frame_id=frame))
            assert CloudTemplate(dtype, frame).at(STAMP, points.tobytes()) == expected


def test_pose_template_gives_transform_and_odometry() -> None:
    T = transform([0.5, 0.1, -0.3, 0.2], [1, 2, 3])
    linear, angular = np.array([1.0, 2, 3]), np.array([4.0, 5, 6])
    w, x, y, z = quaternion_from_rotation(T[:3, :3])
    tf, odometry = PoseTemplate().at(STAMP, np.array([1, 2, 3, x, y, z, w]), np.concatenate([linear, angular]))
    moved = transform_stamped_message(M, T, stamp=STAMP, parent="map", child="base_link")
    assert tf == serialised(tf_message(M, [moved]))
    assert odometry == serialised(
        odometry_message(M, T, stamp=STAMP, world="map", base="base_link", linear=linear, angular=angular)
    )
