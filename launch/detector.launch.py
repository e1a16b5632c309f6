"""Start the detector: ``ros2 launch crkd_ros detector.launch.py device:=cuda precision:=fp16 use_sim_time:=true``.

Values come from ``params_file``; an argument that is given wins over it. ``--show-args`` lists them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# Arguments that are node parameters of the same name; empty: as in the parameter file.
PARAMETERS = {
    "checkpoint": "folder with model.safetensors and model.json",
    "recipe": "name the checkpoint's recipe must have",
    "device": "auto, cpu, cuda or cuda:N",
    "precision": "fp32, fp16 or bf16",
    "score_threshold": "detections below it are not published",
    "autostart": "false: wait for a lifecycle manager",
    "drop_frames": "false: lossless replay",
    "base_frame": "vehicle frame",
    "world_frame": "fixed frame: map or odom",
    "bev_frame": "frame of the BEV grid",
    "T_base_from_bev": "instead of bev_frame: 'x y z qx qy qz qw'",
    "pose_source": "tf or odometry",
    "tf_topic": "moving transforms",
    "tf_static_topic": "fixed transforms",
    "odometry_topic": "nav_msgs/Odometry",
    "cameras": "camera names: '[cam_front, cam_back]'",
    "radars": "radar names: '[radar_front]'",
    "image_transport": "compressed or raw",
    "reference": "instant, camera or topic",
    "trigger_camera": "the reference camera",
    "reference_topic": "with reference:=topic",
    "reference_type": "message type of reference_topic",
    "deadline_ms": "how long a frame waits for its sensors",
    "detections_topic": "vision_msgs/Detection3DArray",
    "velocities_topic": "velocity of each detection",
    "markers_topic": "visualization_msgs/MarkerArray",
    "manifest_topic": "what each answer was made of",
    "labels_topic": "class names, latched",
    "vision_info_topic": "vision_msgs/VisionInfo, latched",
    "timing_topic": "milliseconds a frame, on a topic for each stage",
    "mosaic_topic": "all cameras, with boxes",
}
# Topics of a whole group of sensors; {} stands for the sensor's name. Each is a parameter of every sensor of the group.
PATTERNS = {
    "image_topics": ("camera", "image_topic", "image topics: '{}/image_raw/compressed'"),
    "info_topics": ("camera", "info_topic", "camera_info topics: '{}/camera_info'"),
    "radar_topics": ("radar", "topic", "radar topics: '{}/points'"),
}
# Parameters that a YAML reader would not take for the text they are.
TEXTS = ("T_base_from_bev", "checkpoint", "recipe")


def generate_launch_description() -> LaunchDescription:
    """All arguments, and the node that is made of them."""
    shipped = str(Path(get_package_share_directory("crkd_ros")) / "config" / "detector.yaml")
    arguments = [
        DeclareLaunchArgument("params_file", default_value=shipped, description="ROS 2 parameter file of the node"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of node and relative topics"),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="follow /clock", choices=["true", "false"]
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error"),
    ]
    described = {**PARAMETERS, **{name: text for name, (_, _, text) in PATTERNS.items()}}
    arguments += [
        DeclareLaunchArgument(name, default_value="", description=f"{text} (empty: as in params_file)")
        for name, text in described.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=detector_node)])


def detector_node(context: LaunchContext) -> list[Node]:
    """The node, once the arguments are known."""

    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    values: dict[str, Any] = {"use_sim_time": argument("use_sim_time") == "true"}
    for name in PARAMETERS:
        if text := argument(name):
            values[name] = text if name in TEXTS else yaml.safe_load(text)
    params_file = argument("params_file")
    for name, (group, parameter, _) in PATTERNS.items():
        if pattern := argument(name):
            for sensor in values.get(f"{group}s") or sensors_of(params_file, f"{group}s"):
                values[f"{group}.{sensor}.{parameter}"] = pattern.replace("{}", sensor)
    return [
        Node(
            package="crkd_ros",
            executable="detector_node",
            name="detector",
            namespace=argument("namespace"),
            parameters=[params_file, values],
            arguments=["--ros-args", "--log-level", argument("log_level")],
            output="screen",
        )
    ]


def sensors_of(params_file: str, group: str) -> list[str]:
    """Sensor names in a parameter file, whatever its node is called; the defaults where it does not say."""
    from crkd_ros.parameters import load_parameters

    sensors = load_parameters(params_file).values[group]
    return sensors if isinstance(sensors, list) else []
