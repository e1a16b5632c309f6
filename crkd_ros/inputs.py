"""The topics that a detector reads, by its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from crkd_ros.parameters import DetectorParameters

Role = Literal["image", "camera_info", "radar", "tf", "tf_static", "odometry", "reference"]


@dataclass(frozen=True)
class Input:
    """One topic the pipeline reads.

    Attributes:
        topic: absolute name.
        type: ROS message type, ``package/msg/Name``.
        role: what it is used for; ``tf_static`` is latched.
        sensor: the name of the camera or radar; empty for the others.
    """

    topic: str
    type: str
    role: Role
    sensor: str = ""


def absolute(topic: str, namespace: str = "/") -> str:
    """The absolute name of a topic as a node of that namespace resolves it."""
    return topic if topic.startswith("/") else f"{namespace.rstrip('/')}/{topic}"


def inputs_of(parameters: DetectorParameters, *, namespace: str = "/") -> list[Input]:
    """Every topic that a detector with these parameters reads."""
    name = partial(absolute, namespace=namespace)
    image_type = "sensor_msgs/msg/" + ("Image" if parameters.text("image_transport") == "raw" else "CompressedImage")
    inputs = [Input(name(parameters.text("tf_static_topic")), "tf2_msgs/msg/TFMessage", "tf_static")]
    if parameters.text("pose_source") == "tf":
        inputs.append(Input(name(parameters.text("tf_topic")), "tf2_msgs/msg/TFMessage", "tf"))
    else:
        inputs.append(Input(name(parameters.text("odometry_topic")), "nav_msgs/msg/Odometry", "odometry"))
    for sensor, camera in parameters.cameras.items():
        inputs.append(Input(name(camera.info_topic), "sensor_msgs/msg/CameraInfo", "camera_info", sensor))
        inputs.append(Input(name(camera.image_topic), image_type, "image", sensor))
    for sensor, radar in parameters.radars.items():
        inputs.append(Input(name(radar.topic), radar.type, "radar", sensor))
    if parameters.text("reference") == "topic":
        inputs.append(Input(name(parameters.text("reference_topic")), parameters.text("reference_type"), "reference"))
    return inputs
