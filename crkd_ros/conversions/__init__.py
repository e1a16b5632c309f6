"""Messages to and from the vocabulary of ``crkd_core.types``.

The functions read attributes only, so they take the messages of rclpy and of the rosbags library alike; those that make
a message are given the classes to make it of (``Messages``).
"""

from crkd_ros.conversions.annotations import (
    ANNOTATION_SCHEMA,
    ObjectAnnotation,
    SampleAnnotation,
    annotation_message,
    annotation_of,
)
from crkd_ros.conversions.detections import detection_messages, detections_of, marker_array
from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.geometry import (
    duration_message,
    header_message,
    odometry_message,
    pose_of_odometry,
    stamp_of,
    tf_message,
    time_message,
    transform_message,
    transform_of,
    transform_stamped_message,
)
from crkd_ros.conversions.images import (
    CameraModel,
    camera_info_message,
    camera_model_of,
    compressed_image_message,
    encoded_image_of,
    image_message,
    image_of,
    rgb_image_of,
)
from crkd_ros.conversions.messages import Messages, message_class, ros_messages
from crkd_ros.conversions.points import lidar_points_of, point_cloud_message, points_of
from crkd_ros.conversions.radar import radar_points_of
from crkd_ros.conversions.scenes import SceneDescription, SensorDescription, scene_message, scene_of

__all__ = [
    "ANNOTATION_SCHEMA",
    "CameraModel",
    "ConversionError",
    "Messages",
    "ObjectAnnotation",
    "SampleAnnotation",
    "SceneDescription",
    "SensorDescription",
    "annotation_message",
    "annotation_of",
    "camera_info_message",
    "camera_model_of",
    "compressed_image_message",
    "detection_messages",
    "detections_of",
    "duration_message",
    "encoded_image_of",
    "header_message",
    "image_message",
    "image_of",
    "lidar_points_of",
    "marker_array",
    "message_class",
    "odometry_message",
    "point_cloud_message",
    "points_of",
    "pose_of_odometry",
    "radar_points_of",
    "rgb_image_of",
    "ros_messages",
    "scene_message",
    "scene_of",
    "stamp_of",
    "tf_message",
    "time_message",
    "transform_message",
    "transform_of",
    "transform_stamped_message",
]
