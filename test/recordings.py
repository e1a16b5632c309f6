"""A small recorded drive, made up: one camera, one radar, a vehicle that turns, and a car that overtakes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from crkd_core.geometry.transforms import inverse, transform, yaw_rotation
from crkd_core.types import RADAR_DTYPE, Boxes3D, Detections
from crkd_ros import topics
from crkd_ros.answers import FrameReport, report_message
from crkd_ros.conversions import (
    CameraModel,
    ObjectAnnotation,
    SampleAnnotation,
    annotation_message,
    camera_info_message,
    compressed_image_message,
    detection_messages,
    odometry_message,
    point_cloud_message,
    tf_message,
    transform_stamped_message,
)
from crkd_ros.conversions.annotations import pose_rows
from rosbag_tools.bags import LATCHED, new_bag
from rosbag_tools.typestore import bag_messages

MS = 1_000_000
START = 1_700_000_000_000 * MS
KEY_FRAMES = tuple(START + 500 * MS * k for k in range(4))
LAST = KEY_FRAMES[-1]
K = np.array([[160.0, 0.0, 160.0], [0.0, 160.0, 90.0], [0.0, 0.0, 1.0]])
T_BASE_FROM_CAM = transform(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), (1.0, 0.0, 1.5))
T_BASE_FROM_RADAR = transform(np.eye(3), (3.5, 0.0, 0.5))
T_BASE_FROM_LIDAR = transform(yaw_rotation(-math.pi / 2), (0.94, 0.0, 1.84))
T_GLOBAL_FROM_MAP = transform(yaw_rotation(0.4), (300.0, -200.0, 0.0))
"""The annotations' frame need not be that of the recorded poses."""
CAR_SPEED = 12.0


def pose(stamp: int) -> np.ndarray:
    """``T_map_from_base``: 8 m/s ahead, turning left."""
    t = (stamp - START) * 1e-9
    return transform(yaw_rotation(0.3 * t), (8.0 * t, 0.6 * t * t, 0.0))


def car(stamp: int) -> Boxes3D:
    """The car, in the frame of the poses."""
    t = (stamp - START) * 1e-9
    return Boxes3D(
        np.array([[15.0 + CAR_SPEED * t, 4.0, 0.8]]),
        np.array([[4.6, 1.9, 1.6]]),
        np.zeros(1),
        np.array([[CAR_SPEED, 0.0]]),
    )


def car_seen(stamp: int, *, score: float = 0.9) -> Detections:
    """The car as a perfect detector answers at ``stamp``."""
    boxes = car(stamp).transformed(inverse(pose(stamp)))
    return Detections(boxes, np.array([score]), np.zeros(1, dtype=np.int64), topics.BASE_FRAME, stamp)


def annotation(stamp: int) -> SampleAnnotation:
    """The car and a bicycle rack, in the global frame."""
    (translation,), (size,), (rotation,), (velocity,) = car(stamp).transformed(T_GLOBAL_FROM_MAP).to_nuscenes()
    k = KEY_FRAMES.index(stamp)
    common = {"visibility": "v80-100", "num_radar_pts": 1, "num_lidar_pts": 9}
    return SampleAnnotation(
        sample_token=f"sample{k}",
        scene_name="scene-made-up",
        scene_token="scene",  # noqa: S106
        stamp=stamp,
        T_world_from_base=pose_rows(T_GLOBAL_FROM_MAP @ pose(stamp)),
        objects=(
            ObjectAnnotation(
                token=f"car{k}",
                instance_token="car",  # noqa: S106
                category="vehicle.car",
                attributes=("vehicle.moving",),
                translation=tuple(translation.tolist()),
                size=tuple(size.tolist()),
                rotation=tuple(rotation.tolist()),
                velocity=(*velocity.tolist(), 0.0),
                **common,
            ),
            ObjectAnnotation(
                token=f"rack{k}",
                instance_token="rack",  # noqa: S106
                category="static_object.bicycle_rack",
                attributes=(),
                translation=(0.0, 0.0, 0.0),
                size=(2.0, 6.0, 1.2),
                rotation=(1.0, 0.0, 0.0, 0.0),
                velocity=None,
                **common,
            ),
        ),
    )


def write_drive(path: Path, *, without: Sequence[str] = (), damaged_image: bool = False) -> Path:
    """A bag of 1.5 s: camera and radar at 10 Hz, poses at 50 Hz, annotations at 2 Hz.

    Args:
        path: of the bag.
        without: topics to leave out.
        damaged_image: every image is cut off after a few bytes.
    """
    m = bag_messages()
    rows = []
    statics = {"cam_front": T_BASE_FROM_CAM, "radar_front": T_BASE_FROM_RADAR, "lidar_top": T_BASE_FROM_LIDAR}
    mounted = [
        transform_stamped_message(m, T, stamp=START, parent="base_link", child=name) for name, T in statics.items()
    ]
    rows.append((START - 200 * MS, topics.TF_STATIC, tf_message(m, mounted)))
    for stamp in range(START - 200 * MS, LAST + 200 * MS, 20 * MS):
        moved = transform_stamped_message(m, pose(stamp), stamp=stamp, parent="map", child="base_link")
        rows.append((stamp, topics.TF, tf_message(m, [moved])))
        odometry = odometry_message(
            m, pose(stamp), stamp=stamp, world="odom", base="base_link", linear=np.zeros(3), angular=np.zeros(3)
        )
        rows.append((stamp, topics.ODOMETRY, odometry))
    jpeg = cv2.imencode(".jpg", np.full((180, 320, 3), 90, dtype=np.uint8))[1].tobytes()
    for stamp in range(START, LAST + 1, 100 * MS):
        model = CameraModel(K, 320, 180)
        info = camera_info_message(m, model, stamp=stamp, frame_id="cam_front")
        rows.append((stamp, topics.camera_info_topic("cam_front"), info))
        content = jpeg[:40] if damaged_image else jpeg
        image = compressed_image_message(m, content, stamp=stamp, frame_id="cam_front")
        rows.append((stamp, topics.image_topic("cam_front"), image))
        points = np.zeros(2, dtype=RADAR_DTYPE)
        points["x"] = (10.0, 30.0)
        cloud = point_cloud_message(m, points, stamp=stamp + 7 * MS, frame_id="radar_front")
        rows.append((stamp + 7 * MS, topics.points_topic("radar_front"), cloud))
    rows += [(stamp, topics.ANNOTATIONS, annotation_message(m, annotation(stamp))) for stamp in KEY_FRAMES]
    kinds = {
        topics.TF_STATIC: "tf2_msgs/msg/TFMessage",
        topics.TF: "tf2_msgs/msg/TFMessage",
        topics.ODOMETRY: "nav_msgs/msg/Odometry",
        topics.camera_info_topic("cam_front"): "sensor_msgs/msg/CameraInfo",
        topics.image_topic("cam_front"): "sensor_msgs/msg/CompressedImage",
        topics.points_topic("radar_front"): "sensor_msgs/msg/PointCloud2",
        topics.ANNOTATIONS: "std_msgs/msg/String",
    }
    with new_bag(path) as bag:
        for topic, kind in kinds.items():
            if topic not in without:
                bag.add_topic(topic, kind, **({"qos": LATCHED} if topic == topics.TF_STATIC else {}))
        for stamp, topic, message in sorted(rows, key=lambda row: row[0]):
            if topic not in without:
                bag.write(topic, stamp, message)
    return path


def write_detections(
    path: Path, answers: Sequence[Detections], *, velocities: bool = True, reports: bool = True
) -> Path:
    """A bag of a detector's answers, each recorded 80 ms after its stamp."""
    m = bag_messages()
    with new_bag(path) as bag:
        bag.add_topic(topics.DETECTIONS, "vision_msgs/msg/Detection3DArray")
        if velocities:
            bag.add_topic(topics.DETECTION_VELOCITIES, "sensor_msgs/msg/PointCloud2")
        if reports:
            bag.add_topic(topics.MANIFEST, "std_msgs/msg/String")
        for k, found in enumerate(answers):
            array, cloud = detection_messages(m, found)
            recorded = found.stamp + 80 * MS
            bag.write(topics.DETECTIONS, recorded, array)
            if velocities:
                bag.write(topics.DETECTION_VELOCITIES, recorded, cloud)
            if reports:
                report = FrameReport(
                    stamp=found.stamp,
                    state="DEGRADED" if k == 0 else "NOMINAL",
                    reasons=("radar_front: no message yet",) if k == 0 else (),
                    sensors={},
                    calibration="",
                    poses="",
                    detections=len(found),
                    timings_ms={"network": 10.0 + k, "total": 20.0 + k},
                )
                bag.write(topics.MANIFEST, recorded, report_message(m, report))
    return path
