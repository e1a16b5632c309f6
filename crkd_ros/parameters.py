"""Parameters of the detector: one list of specifications for the node, the launch file and the offline tools.

A parameter file is an ordinary ROS 2 one (``<node>: ros__parameters: ...``). The node declares ``SPECS`` and the
specifications of its sensors; ``load_parameters`` reads the same file without ROS. Both end in ``from_values``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from crkd_core.cli import UserError
from crkd_core.config import recipe_folder
from crkd_core.geometry.transforms import transform
from crkd_core.runtime.rig import AssemblerConfig
from crkd_core.types import FloatArray

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


REPLAY_DEADLINE = 500_000_000
"""In a replay a sensor is given up when the others are ahead of it by this much, ns: more than topics overtake each
other on their way through a graph. Waiting costs nothing there."""


class ParameterError(UserError):
    """A parameter that cannot be used: which one, what was expected, what was given."""


@dataclass(frozen=True)
class Spec:
    """One parameter: its name, default (which fixes its type), meaning, and what it may be.

    Attributes:
        range: inclusive bounds of a number.
        choices: allowed strings.
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
        is_list = isinstance(self.default, list) and isinstance(value, (list, tuple))
        if is_list and all(isinstance(v, str) for v in value):
            return [v for v in value if v]
        if type(value) is not type(self.default) or isinstance(value, list):
            raise ParameterError(
                f"parameter {self.name}: expected {_type_name(self.default)}, got {value!r} ({type(value).__name__})"
            )
        if self.choices is not None and value not in self.choices:
            raise ParameterError(f"parameter {self.name}: expected one of {', '.join(self.choices)}, got '{value}'")
        if self.range is not None and isinstance(value, (int, float)) and not self.range[0] <= value <= self.range[1]:
            raise ParameterError(f"parameter {self.name}: expected {self.range[0]:g}..{self.range[1]:g}, got {value:g}")
        return value


def _type_name(value: Value) -> str:
    return "a list of strings" if isinstance(value, list) else type(value).__name__


_HOUR_MS = 3.6e6

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
    Spec("autostart", True, "configure and activate at once, without a lifecycle manager"),
    Spec(
        "drop_frames",
        True,
        "true (live): the newest frame wins, others are dropped and counted; false (replay): "
        "reliable inputs, every frame is processed, waiting times are measured in message time",
    ),
    Spec("base_frame", "base_link", "vehicle frame; detections are in it"),
    Spec("world_frame", "map", "fixed frame in which the vehicle moves: map or odom"),
    Spec("bev_frame", "lidar_top", "frame of the network's BEV grid (x right, y forward), fixed to the vehicle"),
    Spec("T_base_from_bev", "", "for a vehicle without such a frame: 'x y z qx qy qz qw' in the vehicle frame"),
    Spec("pose_source", "tf", "where the vehicle pose comes from", choices=("tf", "odometry")),
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
    Spec("jump_ms", 1000.0, "stamps that go back by more than this mean that time began anew", range=(1.0, _HOUR_MS)),
    Spec("detections_topic", "detections", "vision_msgs/Detection3DArray"),
    Spec("velocities_topic", "detection_velocities", "velocity of each detection, in the order of the array"),
    Spec("markers_topic", "detection_markers", "visualization_msgs/MarkerArray"),
    Spec("manifest_topic", "detections/manifest", "std_msgs/String, JSON: what each answer was made of"),
    Spec("labels_topic", "detections/labels", "vision_msgs/LabelInfo, latched: class names"),
    Spec("diagnostics_period", 1.0, "seconds between two messages on /diagnostics", range=(0.1, 60.0)),
)


def camera_specs(name: str) -> tuple[Spec, ...]:
    """The parameters of one camera."""
    return (
        Spec(f"camera.{name}.image_topic", f"{name}/image_raw/compressed", "images"),
        Spec(f"camera.{name}.info_topic", f"{name}/camera_info", "sensor_msgs/CameraInfo"),
        Spec(f"camera.{name}.frame_id", "", "optical frame; empty: from the image's header"),
        Spec(
            f"camera.{name}.offset_ms",
            NUSCENES_OFFSETS.get(name, 0.0),
            "when its image is taken relative to the frame's instant",
            range=(-1000.0, 1000.0),
        ),
    )


def radar_specs(name: str) -> tuple[Spec, ...]:
    """The parameters of one radar."""
    return (
        Spec(f"radar.{name}.topic", f"{name}/points", "sensor_msgs/PointCloud2"),
        Spec(f"radar.{name}.frame_id", "", "sensor frame; empty: from the message's header"),
    )


@dataclass(frozen=True)
class CameraParameters:
    """One camera: topics, frame (empty: from the header), and its phase, ns."""

    image_topic: str
    info_topic: str
    frame_id: str
    offset: int


@dataclass(frozen=True)
class RadarParameters:
    """One radar: topic and frame (empty: from the header)."""

    topic: str
    frame_id: str


@dataclass(frozen=True)
class DetectorParameters:
    """Validated parameters. Sensors are keyed by the name the model knows them by (upper case)."""

    values: Mapping[str, Value]
    cameras: Mapping[str, CameraParameters]
    radars: Mapping[str, RadarParameters]
    T_base_from_bev: FloatArray | None

    def text(self, name: str) -> str:
        """A string parameter."""
        return str(self.values[name])

    def number(self, name: str) -> float:
        """A numeric parameter."""
        value = self.values[name]
        assert isinstance(value, (int, float))
        return float(value)

    def flag(self, name: str) -> bool:
        """A boolean parameter."""
        return bool(self.values[name])

    def nanoseconds(self, name: str) -> int:
        """A parameter in milliseconds, as ns."""
        return round(self.number(name) * 1e6)

    @property
    def trigger(self) -> str | None:
        """The sensor whose images open frames; None with ``reference: topic``."""
        return None if self.text("reference") == "topic" else self.text("trigger_camera").upper()

    def assembler(self, *, sweeps: int, replay: bool) -> AssemblerConfig:
        """What the frame assembler needs.

        Args:
            sweeps: radar sweeps the model uses.
            replay: waiting times in message time, no sensor is given up; else on the receiver's clock.
        """
        deadline = self.nanoseconds("deadline_ms")
        return AssemblerConfig(
            cameras={name: camera.offset for name, camera in self.cameras.items()},
            radars=tuple(self.radars),
            sweeps=sweeps,
            trigger=self.trigger,
            at_instant=self.text("reference") == "instant",
            camera_slop=self.nanoseconds("camera_slop_ms"),
            camera_min_period=self.nanoseconds("camera_min_period_ms"),
            radar_slop=self.nanoseconds("radar_slop_ms"),
            radar_min_period=self.nanoseconds("radar_min_period_ms"),
            radar_staleness=self.nanoseconds("radar_staleness_ms"),
            radar_max_age=self.nanoseconds("radar_max_age_ms"),
            deadline=max(deadline, REPLAY_DEADLINE) if replay else deadline,
            deadline_clock="messages" if replay else "now",
            silent=0 if replay else self.nanoseconds("silent_ms"),
            stale_after=0 if replay else self.nanoseconds("stale_after_ms"),
            jump=self.nanoseconds("jump_ms"),
            # A replay may run ahead of the slowest topic by more than a live stream does.
            camera_capacity=256 if replay else 16,
        )


def specs_for(cameras: list[str], radars: list[str]) -> tuple[Spec, ...]:
    """All specifications of a rig."""
    sensors = [spec for name in cameras for spec in camera_specs(name)]
    return (*SPECS, *sensors, *(spec for name in radars for spec in radar_specs(name)))


def from_values(given: Mapping[str, object], *, source: str = "parameters") -> DetectorParameters:
    """Validated parameters from flat names and values; what is not given has its default.

    Raises:
        ParameterError: unknown name, wrong value, or values that contradict each other; begins with ``source``.
    """
    try:
        return _from_values(given)
    except ParameterError as error:
        raise ParameterError(f"{source}: {error}") from None


def _from_values(given: Mapping[str, object]) -> DetectorParameters:
    by_name = {spec.name: spec for spec in SPECS}
    names = {key: by_name[key].checked(given.get(key, by_name[key].default)) for key in ("cameras", "radars")}
    cameras, radars = (list(v) if isinstance(v, list) else [] for v in (names["cameras"], names["radars"]))
    specs = {spec.name: spec for spec in specs_for(cameras, radars)}
    unknown = sorted(given.keys() - specs.keys() - {"use_sim_time"})
    if unknown:
        near = difflib.get_close_matches(unknown[0], specs, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; config/detector.yaml has them all"
        raise ParameterError(f"parameter {unknown[0]}: unknown{hint}")
    values = {name: spec.checked(given.get(name, spec.default)) for name, spec in specs.items()}
    if not cameras and not radars:
        raise ParameterError("parameters cameras, radars: expected at least one sensor, got none")
    if len({name.upper() for name in cameras + radars}) != len(cameras + radars):
        raise ParameterError(f"parameters cameras, radars: a name occurs twice in {cameras + radars}")
    if values["reference"] != "topic" and values["trigger_camera"] not in cameras:
        raise ParameterError(
            f"parameter trigger_camera: expected one of cameras ({', '.join(cameras)}), "
            f"got '{values['trigger_camera']}'"
        )
    parameters = DetectorParameters(
        values=values,
        cameras={
            name.upper(): CameraParameters(
                str(values[f"camera.{name}.image_topic"]),
                str(values[f"camera.{name}.info_topic"]),
                str(values[f"camera.{name}.frame_id"]),
                round(float(values[f"camera.{name}.offset_ms"]) * 1e6),  # type: ignore[arg-type]  # a float, by its spec
            )
            for name in cameras
        },
        radars={
            name.upper(): RadarParameters(str(values[f"radar.{name}.topic"]), str(values[f"radar.{name}.frame_id"]))
            for name in radars
        },
        T_base_from_bev=_parse_transform(str(values["T_base_from_bev"])),
    )
    _check_topics(parameters)
    return parameters


def _check_topics(parameters: DetectorParameters) -> None:
    users: dict[str, str] = {}
    topics = [(c.image_topic, name) for name, c in parameters.cameras.items()]
    topics += [(r.topic, name) for name, r in parameters.radars.items()]
    for topic, name in topics:
        if not topic:
            raise ParameterError(f"parameter of {name}: expected a topic name, got ''")
        if topic in users:
            raise ParameterError(f"topic '{topic}': given to both {users[topic]} and {name}")
        users[topic] = name


def _parse_transform(text: str) -> FloatArray | None:
    if not text.strip():
        return None
    try:
        x, y, z, qx, qy, qz, qw = (float(part) for part in text.replace(",", " ").split())
        T = transform([qw, qx, qy, qz], [x, y, z])
    except ValueError:
        T = np.full((4, 4), np.nan)
    if not np.isfinite(T).all():
        raise ParameterError(f"parameter T_base_from_bev: expected seven numbers 'x y z qx qy qz qw', got '{text}'")
    return T


def default_parameters_file() -> Path:
    """The shipped ``config/detector.yaml``, in the source tree or installed."""
    return recipe_folder().parent / "detector.yaml"


def load_parameters(
    path: Path | str | None = None, overrides: Mapping[str, object] | None = None
) -> DetectorParameters:
    """Parameters from a ROS 2 parameter file (None: the shipped one), without ROS.

    Args:
        path: YAML with one ``ros__parameters`` mapping, whatever the node's name.
        overrides: flat names and values that win over the file.

    Raises:
        ParameterError: unreadable file, unknown name or wrong value.
    """
    file = Path(path) if path is not None else default_parameters_file()
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ParameterError(f"{file}: no such parameter file") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{file}: not a readable YAML file: {str(error).splitlines()[0]}") from None
    found = _find_parameters(content)
    if len(found) != 1:
        raise ParameterError(f"{file}: expected one 'ros__parameters' mapping, found {len(found)}")
    flat = _flat(found[0])
    from_values(flat, source=str(file))  # a mistake in the file is told as such, whatever the overrides are
    return from_values({**flat, **overrides}, source=f"{file} and overrides") if overrides else from_values(flat)


def _find_parameters(content: Any) -> list[dict[str, Any]]:
    if not isinstance(content, dict):
        return []
    own = [content["ros__parameters"]] if isinstance(content.get("ros__parameters"), dict) else []
    return own + [found for value in content.values() for found in _find_parameters(value)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
