"""A made-up drive as a bag: two cameras, one radar, transforms, odometry and key frames; small and quick to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from micro import micro_recipe

from crkd_core.config import recipe_from_dict, recipe_to_dict
from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import save_checkpoint
from crkd_core.types import RADAR_DTYPE, Boxes3D, Detections, FloatArray
from crkd_ros import topics
from crkd_ros.conversions import (
    CameraModel,
    camera_info_message,
    compressed_image_message,
    detection_messages,
    odometry_message,
    point_cloud_message,
    tf_message,
    transform_stamped_message,
)
from rosbag_tools.bags import LATCHED, new_bag
from rosbag_tools.typestore import bag_messages

START = 1_600_000_000_000_000_000
MS = 1_000_000
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
MOUNTINGS = {
    "cam_front": transform(FORWARD, [1.5, 0.0, 1.5]),
    "cam_front_left": transform(yaw_rotation(0.9) @ FORWARD, [1.5, 0.5, 1.5]),
    "radar_front": transform(np.eye(3), [3.5, 0.0, 0.5]),
    "lidar_top": transform(yaw_rotation(-np.pi / 2), [1.0, 0.0, 1.8]),
}
CAMERAS = {"cam_front": -36.6, "cam_front_left": -44.2}
PARAMETERS: dict[str, Any] = {"cameras": list(CAMERAS), "radars": ["radar_front"]}
"""What the detector has to be told about this rig."""

Change = Callable[[str, int, Any], Any]
"""(topic, number of the message on it, message) -> the message to write, or None to lose it."""


def pose_at(stamp: int) -> FloatArray:
    """The vehicle at a stamp: a left turn at 8 m/s."""
    t = (stamp - START) * 1e-9
    yaw = 0.3 * t
    return transform(yaw_rotation(yaw), [100 + 8 / 0.3 * np.sin(yaw), 50 - 8 / 0.3 * np.cos(yaw), 0.0])


def write_drive(path: Path, *, seconds: float = 1.5, change: Change | None = None) -> Path:
    """Write the bag; ``change`` may alter or lose messages."""
    events = sorted(_events(seconds), key=lambda event: (event[0], event[1]))
    numbers: dict[str, int] = {}
    with new_bag(path, overwrite=True) as bag:
        for topic, kind in _topics().items():
            bag.add_topic(topic, kind, **({"qos": LATCHED} if topic == topics.TF_STATIC else {}))
        for stamp, _, topic, message in events:
            numbers[topic] = numbers.get(topic, -1) + 1
            written = change(topic, numbers[topic], message) if change is not None else message
            if written is not None:
                bag.write(topic, stamp, written)
    return path


def write_checkpoint(folder: Path) -> Path:
    """A detector with random weights that always finds something."""
    torch.manual_seed(0)
    values = recipe_to_dict(micro_recipe())
    values["model"]["head"] |= {"max_boxes": 20, "post_max_boxes": 4}
    recipe = recipe_from_dict(values, source="micro")
    return save_checkpoint(folder, FusionDetector(recipe), recipe, provenance={"seed": 0})


def _topics() -> dict[str, str]:
    kinds = {
        topics.TF_STATIC: "tf2_msgs/msg/TFMessage",
        topics.TF: "tf2_msgs/msg/TFMessage",
        topics.ODOMETRY: "nav_msgs/msg/Odometry",
        topics.GROUND_TRUTH: "vision_msgs/msg/Detection3DArray",
        topics.points_topic("radar_front"): "sensor_msgs/msg/PointCloud2",
    }
    for camera in CAMERAS:
        kinds[topics.image_topic(camera)] = "sensor_msgs/msg/CompressedImage"
        kinds[topics.camera_info_topic(camera)] = "sensor_msgs/msg/CameraInfo"
    return kinds


def _events(seconds: float) -> list[tuple[int, int, str, Any]]:
    """(stamp, order at one stamp, topic, message)."""
    messages, rng = bag_messages(), np.random.default_rng(0)
    statics = [
        transform_stamped_message(messages, T, stamp=START, parent="base_link", child=name)
        for name, T in MOUNTINGS.items()
    ]
    events: list[tuple[int, int, str, Any]] = [(START, 0, topics.TF_STATIC, tf_message(messages, statics))]
    model = CameraModel(np.array([[60.0, 0, 48], [0, 60, 36], [0, 0, 1]]), 96, 72)
    for i in range(round(seconds * 12)):
        for camera, offset in CAMERAS.items():
            stamp = START + round((100 + offset + i * 1000 / 12) * MS)
            jpeg = cv2.imencode(".jpg", rng.integers(0, 255, (72, 96, 3), dtype=np.uint8))[1].tobytes()
            info = camera_info_message(messages, model, stamp=stamp, frame_id=camera)
            image = compressed_image_message(messages, jpeg, stamp=stamp, frame_id=camera)
            events.append((stamp, 2, topics.camera_info_topic(camera), info))
            events.append((stamp, 3, topics.image_topic(camera), image))
    for i in range(round(seconds * 13)):
        stamp = START + round((30 + i * 1000 / 13) * MS)
        points = np.zeros(20, dtype=RADAR_DTYPE)
        points["x"], points["y"] = rng.uniform(2, 40, 20), rng.uniform(-20, 20, 20)
        cloud = point_cloud_message(messages, points, stamp=stamp, frame_id="radar_front")
        events.append((stamp, 3, topics.points_topic("radar_front"), cloud))
    for i in range(round(seconds * 50) + 10):
        events += _pose(START + i * 20 * MS)
    nothing = Boxes3D.empty()
    for i in range(round(seconds * 2)):
        stamp = START + (100 + 500 * i) * MS
        truth = Detections(nothing, np.zeros(0), np.zeros(0, dtype=np.int64), "base_link", stamp)
        events.append((stamp, 4, topics.GROUND_TRUTH, detection_messages(messages, truth)[0]))
    return events


def _pose(stamp: int) -> list[tuple[int, int, str, Any]]:
    messages, T = bag_messages(), pose_at(stamp)
    moving = transform_stamped_message(messages, T, stamp=stamp, parent="map", child="base_link")
    zero = np.zeros(3)
    odometry = odometry_message(messages, T, stamp=stamp, world="map", base="base_link", linear=zero, angular=zero)
    return [(stamp, 1, topics.TF, tf_message(messages, [moving])), (stamp, 1, topics.ODOMETRY, odometry)]
