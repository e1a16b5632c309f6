"""The names of frames and topics, in one place: what a converted bag contains and what the node expects by default.

Sensors are named as in nuScenes, in lower case (``cam_front``, ``radar_back_left``, ``lidar_top``); the name of a
sensor is also its frame. Every message carries the acquisition time of its sensor, and is recorded at that time.

======================================  ==================================  ============================================
topic                                   type                                content
======================================  ==================================  ============================================
``/<camera>/image_raw/compressed``      sensor_msgs/CompressedImage         JPEG bytes as the camera delivered them
``/<camera>/camera_info``               sensor_msgs/CameraInfo              intrinsics, same stamp as the image
``/<radar>/points``                     sensor_msgs/PointCloud2             18 named fields, 43 packed bytes a return
``/lidar_top/points``                   sensor_msgs/PointCloud2             x, y, z, intensity, ring
``/tf_static``                          tf2_msgs/TFMessage                  base_link -> every sensor; latched
``/tf``                                 tf2_msgs/TFMessage                  map -> base_link
``/odom``                               nav_msgs/Odometry                   the same pose, with the twist in base_link
``/ground_truth/detections``            vision_msgs/Detection3DArray        annotated boxes of the ten classes
``/ground_truth/velocities``            sensor_msgs/PointCloud2             their velocities, same order and stamp
``/ground_truth/markers``               visualization_msgs/MarkerArray      the same, to look at
``/annotations``                        std_msgs/String                     JSON: complete annotation of a key frame
``/annotations/unrecorded``             std_msgs/String                     the same, of key frames without data; first
``/scene``                              std_msgs/String                     JSON: name, log, categories, ...; latched
``/map``                                nav_msgs/OccupancyGrid              0: drivable or walkable, 100: not; latched
``/imu``                                sensor_msgs/Imu                     accelerations and rates in base_link
``/can_bus/pose``                       nav_msgs/Odometry                   pose and twist as the CAN bus has them
``/can_bus/acceleration``               geometry_msgs/AccelStamped          the acceleration that goes with them
``/can_bus/<name>``                     diagnostic_msgs/DiagnosticArray     values of any other CAN message
``/detections``                         vision_msgs/Detection3DArray        what the detector found, base_link
``/detection_velocities``               sensor_msgs/PointCloud2             their velocities, same order and stamp
``/detection_markers``                  visualization_msgs/MarkerArray      the same, to look at
``/detections/manifest``                std_msgs/String                     JSON: what each answer was made of
``/detections/labels``                  vision_msgs/LabelInfo               class names; latched
``/detections/vision_info``             vision_msgs/VisionInfo              recipe, and the labels' topic; latched
``/detections/timing/<stage>``          std_msgs/Float64                    milliseconds a frame; live only
``/detections/mosaic/compressed``       sensor_msgs/CompressedImage         all cameras with boxes; live only
``/diagnostics``                        diagnostic_msgs/DiagnosticArray     state, rates, ages, times, memory; live only
======================================  ==================================  ============================================
"""

from __future__ import annotations

MAP_FRAME = "map"
BASE_FRAME = "base_link"
BEV_FRAME = "lidar_top"
"""The network's frame. A vehicle without a LiDAR publishes it as a virtual frame on ``/tf_static``."""

TF = "/tf"
TF_STATIC = "/tf_static"
ODOMETRY = "/odom"

GROUND_TRUTH = "/ground_truth/detections"
GROUND_TRUTH_VELOCITIES = "/ground_truth/velocities"
GROUND_TRUTH_MARKERS = "/ground_truth/markers"
ANNOTATIONS = "/annotations"
UNRECORDED_ANNOTATIONS = f"{ANNOTATIONS}/unrecorded"
SCENE = "/scene"

MAP = "/map"
IMU = "/imu"
CAN_POSE = "/can_bus/pose"
CAN_ACCELERATION = "/can_bus/acceleration"

DETECTIONS = "/detections"
DETECTION_VELOCITIES = "/detection_velocities"
DETECTION_MARKERS = "/detection_markers"
MANIFEST = f"{DETECTIONS}/manifest"
LABELS = f"{DETECTIONS}/labels"


def image_topic(camera: str) -> str:
    """The topic of a camera's compressed images."""
    return f"/{camera}/image_raw/compressed"


def camera_info_topic(camera: str) -> str:
    """The topic of a camera's intrinsics."""
    return f"/{camera}/camera_info"


def points_topic(sensor: str) -> str:
    """The topic of a radar's or LiDAR's point clouds."""
    return f"/{sensor}/points"


def can_topic(name: str) -> str:
    """The topic of a CAN message without a ROS type of its own, such as ``vehicle_monitor``."""
    return f"/can_bus/{name}"
