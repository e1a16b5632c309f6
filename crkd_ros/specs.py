"""Every parameter of the detector: name, default, meaning, and what it may be.

The one list behind the node's declarations, the checks of a parameter file, the launch arguments and the JSON schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crkd_core.cli import UserError
from crkd_core.runtime.tracker import MAX_DISTANCES
from crkd_core.types import DETECTION_CLASSES

Value = bool | int | float | str | list[str]

# When each camera of a nuScenes-like rig fires relative to the LiDAR's key instant, ms (the LiDAR triggers them as it
# sweeps past; medians of nuScenes, each within +-4 ms).
NUSCENES_OFFSETS = {
    "cam_front_left": -44.2,
    "cam_front": -36.6,
    "cam_front_right": -28.7,
    "cam_back_right": -21.0,
    "cam_back": -11.6,
    "cam_back_left": -1.7,
}
DEFAULT_CAMERAS = ["cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right"]
DEFAULT_RADARS = ["radar_front", "radar_front_left", "radar_front_right", "radar_back_left", "radar_back_right"]


class ParameterError(UserError):
    """A parameter that cannot be used: which one, what was expected, what was given."""


@dataclass(frozen=True)
class Spec:
    """One parameter: its name, default (which fixes its type), meaning, and what it may be.

    Attributes:
        range: inclusive bounds of a number.
        choices: allowed strings; of a list, of which at least one is expected.
        changeable: whether it may be set while the node runs.
    """

    name: str
    default: Value
    description: str
    range: tuple[float, float] | None = None
    choices: tuple[str, ...] | None = None
    changeable: bool = False

    def checked(self, value: Any) -> Value:
        """``value`` in the parameter's type.

        Raises:
            ParameterError: wrong type, out of range, or not among the choices.
        """
        if isinstance(self.default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if (
            isinstance(self.default, list)
            and isinstance(value, (list, tuple))
            and all(isinstance(v, str) for v in value)
        ):
            return self._checked_list([v for v in value if v])
        if type(value) is not type(self.default) or isinstance(value, list):
            raise ParameterError(
                f"parameter {self.name}: expected {_type_name(self.default)}, got {value!r} ({type(value).__name__})"
            )
        if self.choices is not None and value not in self.choices:
            raise ParameterError(f"parameter {self.name}: expected one of {', '.join(self.choices)}, got '{value}'")
        if self.range is not None and isinstance(value, (int, float)) and not self.range[0] <= value <= self.range[1]:
            raise ParameterError(f"parameter {self.name}: expected {self.range[0]:g}..{self.range[1]:g}, got {value:g}")
        return value

    def _checked_list(self, values: list[str]) -> list[str]:
        wrong = [value for value in values if value not in (self.choices or values)]
        if wrong or (self.choices and not values):
            got = f"'{wrong[0]}'" if wrong else "none"
            raise ParameterError(f"parameter {self.name}: expected some of {', '.join(self.choices or ())}, got {got}")
        return values


def _type_name(value: Value) -> str:
    return "a list of strings" if isinstance(value, list) else type(value).__name__


_HOUR_MS = 3.6e6

RADAR_TYPES = ("sensor_msgs/msg/PointCloud2", "radar_msgs/msg/RadarScan", "radar_msgs/msg/RadarTracks")

SPECS: tuple[Spec, ...] = (
    Spec("checkpoint", "", "folder with model.safetensors and model.json"),
    Spec("recipe", "", "name the checkpoint's recipe must have; empty: any"),
    Spec("device", "auto", "auto (CUDA where there is one), cpu, cuda or cuda:N"),
    Spec("precision", "fp32", "arithmetic of the network", choices=("fp32", "fp16", "bf16")),
    Spec(
        "score_threshold",
        -1.0,
        "detections below it are not published; negative: the recipe's, also the least",
        range=(-1.0, 1.0),
        changeable=True,
    ),
    *(
        Spec(
            f"class_threshold.{name}",
            0.0,
            f"as score_threshold, for {name.replace('_', ' ')}s; the higher of the two counts",
            range=(0.0, 1.0),
            changeable=True,
        )
        for name in DETECTION_CLASSES
    ),
    Spec("classes", list(DETECTION_CLASSES), "published classes", choices=DETECTION_CLASSES, changeable=True),
    Spec("tracker.enabled", False, "whether objects get numbers that last, in Detection3D.id"),
    Spec("tracker.max_age_ms", 500.0, "an object not seen for longer is given up", range=(0.0, 60000.0)),
    *(
        Spec(
            f"tracker.max_distance.{name}",
            distance,
            "how far a detection may be from where its object is expected, m",
            range=(0.0, 100.0),
        )
        for name, distance in MAX_DISTANCES.items()
    ),
    Spec("autostart", True, "configure and activate at once, without a lifecycle manager"),
    Spec(
        "drop_frames",
        True,
        "true (live): the newest frame wins, others are dropped and counted; false (replay): "
        "reliable inputs, every frame is processed, waiting times are measured in message time",
    ),
    Spec(
        "replay_queue",
        16,
        "with drop_frames: false, frames that may wait for the detector; more are left to the middleware",
        range=(1, 1000),
    ),
    Spec("base_frame", "base_link", "vehicle frame; detections are in it"),
    Spec("world_frame", "map", "fixed frame in which the vehicle moves: map or odom"),
    Spec("bev_frame", "lidar_top", "frame of the network's BEV grid (x right, y forward), fixed to the vehicle"),
    Spec("T_base_from_bev", "", "for a vehicle without such a frame: 'x y z qx qy qz qw' in the vehicle frame"),
    Spec("pose_source", "tf", "where the vehicle pose comes from", choices=("tf", "odometry")),
    Spec(
        "backend",
        "builtin",
        "who converts images and point clouds, matches messages and keeps transforms: builtin (as the offline tools "
        "do), or distribution (cv_bridge, sensor_msgs_py, message_filters, tf2_ros)",
        choices=("builtin", "distribution"),
    ),
    Spec("tf_topic", "/tf", "moving transforms"),
    Spec("tf_static_topic", "/tf_static", "fixed transforms"),
    Spec("odometry_topic", "odom", "vehicle pose, with pose_source: odometry"),
    Spec("cameras", DEFAULT_CAMERAS, "camera names; the model knows a camera by its name in upper case"),
    Spec("radars", DEFAULT_RADARS, "radar names; the model knows a radar by its name in upper case"),
    Spec("image_transport", "compressed", "type of the image topics", choices=("compressed", "raw")),
    Spec(
        "reference",
        "instant",
        "what a frame refers to. camera: each image of trigger_camera, at its stamp; instant: "
        "the same, at its stamp minus its offset_ms; topic: each message of reference_topic",
        choices=("camera", "instant", "topic"),
    ),
    Spec("trigger_camera", "cam_front", "the reference camera"),
    Spec("reference_topic", "lidar_top/points", "with reference: topic, a topic whose messages have a header"),
    Spec("reference_type", "sensor_msgs/msg/PointCloud2", "message type of reference_topic"),
    Spec("deadline_ms", 120.0, "how long a frame waits for its sensors after its trigger", range=(0.0, 10000.0)),
    Spec("camera_slop_ms", 50.0, "an image further from its time than this is not used", range=(0.0, 10000.0)),
    Spec(
        "camera_min_period_ms",
        50.0,
        "least time between two images of a camera; 0: unknown, wait for the next image to be sure that none is nearer",
        range=(0.0, 10000.0),
    ),
    Spec("radar_slop_ms", 38.0, "a sweep may be this much newer than the frame's instant", range=(0.0, 10000.0)),
    Spec(
        "radar_min_period_ms",
        65.0,
        "least time between two sweeps of a radar; 0: unknown, wait for the next sweep",
        range=(0.0, 10000.0),
    ),
    Spec(
        "radar_staleness_ms",
        420.0,
        "a sweep that much older than its radar's newest is not used",
        range=(0.0, _HOUR_MS),
    ),
    Spec(
        "radar_max_age_ms", 160.0, "a radar whose newest sweep is older makes a frame DEGRADED", range=(0.0, _HOUR_MS)
    ),
    Spec(
        "silent_ms",
        1000.0,
        "a sensor that sent nothing for so long is not waited for; 0: always wait",
        range=(0.0, _HOUR_MS),
    ),
    Spec(
        "stale_after_ms",
        1000.0,
        "without a trigger for so long, an empty array is published; 0: never",
        range=(0.0, _HOUR_MS),
    ),
    Spec(
        "synchronizer_slop_ms",
        70.0,
        "with backend: distribution, how far apart the messages of a frame may be",
        range=(1.0, 10000.0),
    ),
    Spec("jump_ms", 1000.0, "stamps that go back by more than this mean that time began anew", range=(1.0, _HOUR_MS)),
    Spec("detections_topic", "detections", "vision_msgs/Detection3DArray"),
    Spec("velocities_topic", "detection_velocities", "velocity of each detection, in the order of the array"),
    Spec("markers_topic", "detection_markers", "visualization_msgs/MarkerArray"),
    Spec("manifest_topic", "detections/manifest", "std_msgs/String, JSON: what each answer was made of"),
    Spec("labels_topic", "detections/labels", "vision_msgs/LabelInfo, latched: class names"),
    Spec(
        "vision_info_topic", "detections/vision_info", "vision_msgs/VisionInfo, latched: the recipe, its labels' topic"
    ),
    Spec(
        "timing_topic",
        "detections/timing",
        "std_msgs/Float64, milliseconds a frame, on a topic below it for each stage (timing/network, ...)",
    ),
    Spec(
        "mosaic_topic",
        "detections/mosaic/compressed",
        "sensor_msgs/CompressedImage (JPEG): all cameras, with boxes; drawn beside the detector",
    ),
    Spec("mosaic_width", 1280, "of the mosaic, pixels", range=(160, 7680)),
    Spec("mosaic_rate", 5.0, "pictures a second, at most; frames in between are not drawn", range=(0.1, 100.0)),
    Spec("diagnostics_period", 1.0, "seconds between two messages on /diagnostics", range=(0.1, 60.0)),
)


def camera_specs(name: str) -> tuple[Spec, ...]:
    """The parameters of one camera."""
    return (
        Spec(f"camera.{name}.image_topic", f"{name}/image_raw/compressed", "images"),
        Spec(f"camera.{name}.info_topic", f"{name}/camera_info", "sensor_msgs/CameraInfo"),
        Spec(f"camera.{name}.rectified", False, "its images are rectified: K is taken from P of the camera_info"),
        Spec(f"camera.{name}.frame_id", "", "optical frame; empty: from the image's header"),
        Spec(
            f"camera.{name}.T_base_from_cam",
            "",
            "mounting, 'x y z qx qy qz qw' of the optical frame in the vehicle frame; empty: from /tf_static",
        ),
        Spec(
            f"camera.{name}.offset_ms",
            NUSCENES_OFFSETS.get(name, 0.0),
            "when its image is taken relative to the frame's instant",
            range=(-1000.0, 1000.0),
        ),
        Spec(f"camera.{name}.slop_ms", -1.0, "its own camera_slop_ms; negative: that one", range=(-1.0, 10000.0)),
    )


def radar_specs(name: str) -> tuple[Spec, ...]:
    """The parameters of one radar."""
    return (
        Spec(f"radar.{name}.topic", f"{name}/points", "sweeps"),
        Spec(f"radar.{name}.type", RADAR_TYPES[0], "message type of the sweeps", choices=RADAR_TYPES),
        Spec(f"radar.{name}.frame_id", "", "sensor frame; empty: from the message's header"),
        Spec(
            f"radar.{name}.T_base_from_radar",
            "",
            "mounting, 'x y z qx qy qz qw' of the sensor in the vehicle frame; empty: from /tf_static",
        ),
        Spec(f"radar.{name}.slop_ms", -1.0, "its own radar_slop_ms; negative: that one", range=(-1.0, 10000.0)),
        Spec(
            f"radar.{name}.staleness_ms", -1.0, "its own radar_staleness_ms; negative: that one", range=(-1.0, _HOUR_MS)
        ),
    )


def specs_for(cameras: list[str], radars: list[str]) -> tuple[Spec, ...]:
    """All specifications of a rig."""
    sensors = [spec for name in cameras for spec in camera_specs(name)]
    return (*SPECS, *sensors, *(spec for name in radars for spec in radar_specs(name)))
