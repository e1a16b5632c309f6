"""Values of the detector's parameters (``crkd_ros.specs``), for the node and the offline tools.

A parameter file is an ordinary ROS 2 one (``<node>: ros__parameters: ...``). The node declares ``SPECS`` and the
specifications of its sensors; ``load_parameters`` reads the same file without ROS. Both end in ``from_values``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from crkd_core.geometry.transforms import transform
from crkd_core.runtime.rig import AssemblerConfig
from crkd_core.runtime.tracker import Tracker, TrackerConfig
from crkd_core.types import DETECTION_CLASSES, FloatArray
from crkd_ros.specs import SPECS, ParameterError, Value, specs_for

REPLAY_DEADLINE = 500_000_000
"""In a replay a sensor is given up when the others are ahead of it by this much, ns: more than topics overtake each
other on their way through a graph. Waiting costs nothing there."""


@dataclass(frozen=True)
class CameraParameters:
    """One camera: topics, frame (empty: from the header), phase and own slop (ns), mounting (None: by tf)."""

    image_topic: str
    info_topic: str
    frame_id: str
    offset: int
    rectified: bool
    T_base_from_cam: FloatArray | None
    slop: int | None


@dataclass(frozen=True)
class RadarParameters:
    """One radar: topic, message type, frame (empty: from the header), own times (ns), mounting (None: by tf)."""

    topic: str
    type: str
    frame_id: str
    T_base_from_radar: FloatArray | None
    slop: int | None
    staleness: int | None


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

    def min_scores(self) -> FloatArray:
        """(10,) by label: the least score that is published; infinite where the class is not wanted."""
        least = self.number("score_threshold")
        wanted = self.values["classes"]
        assert isinstance(wanted, list)
        scores = {name: max(least, self.number(f"class_threshold.{name}")) for name in wanted}
        return np.array([scores.get(name, np.inf) for name in DETECTION_CLASSES])

    def changed(self, values: Mapping[str, Value]) -> DetectorParameters:
        """With other values of parameters that may change while the node runs."""
        return replace(self, values={**self.values, **values})

    def tracker(self) -> Tracker | None:
        """What gives objects their numbers, if that is wanted."""
        if not self.flag("tracker.enabled"):
            return None
        reach = np.array([self.number(f"tracker.max_distance.{name}") for name in DETECTION_CLASSES])
        return Tracker(TrackerConfig(reach, self.nanoseconds("tracker.max_age_ms")))

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
            own_slop={
                **{name: camera.slop for name, camera in self.cameras.items() if camera.slop is not None},
                **{name: radar.slop for name, radar in self.radars.items() if radar.slop is not None},
            },
            own_staleness={name: r.staleness for name, r in self.radars.items() if r.staleness is not None},
        )


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
        cameras={name.upper(): _camera(f"camera.{name}", values) for name in cameras},
        radars={name.upper(): _radar(f"radar.{name}", values) for name in radars},
        T_base_from_bev=_transform("T_base_from_bev", values),
    )
    _check_topics(parameters)
    return parameters


def _camera(prefix: str, values: Mapping[str, Value]) -> CameraParameters:
    return CameraParameters(
        image_topic=str(values[f"{prefix}.image_topic"]),
        info_topic=str(values[f"{prefix}.info_topic"]),
        frame_id=str(values[f"{prefix}.frame_id"]),
        offset=_nanoseconds(f"{prefix}.offset_ms", values),
        rectified=bool(values[f"{prefix}.rectified"]),
        T_base_from_cam=_transform(f"{prefix}.T_base_from_cam", values),
        slop=_own(f"{prefix}.slop_ms", values),
    )


def _radar(prefix: str, values: Mapping[str, Value]) -> RadarParameters:
    return RadarParameters(
        topic=str(values[f"{prefix}.topic"]),
        type=str(values[f"{prefix}.type"]),
        frame_id=str(values[f"{prefix}.frame_id"]),
        T_base_from_radar=_transform(f"{prefix}.T_base_from_radar", values),
        slop=_own(f"{prefix}.slop_ms", values),
        staleness=_own(f"{prefix}.staleness_ms", values),
    )


def _nanoseconds(name: str, values: Mapping[str, Value]) -> int:
    return round(float(values[name]) * 1e6)  # type: ignore[arg-type]  # a float, by its spec


def _own(name: str, values: Mapping[str, Value]) -> int | None:
    """A time of one sensor, ns; None: it has none of its own."""
    value = _nanoseconds(name, values)
    return value if value >= 0 else None


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


def _transform(name: str, values: Mapping[str, Value]) -> FloatArray | None:
    text = str(values[name])
    if not text.strip():
        return None
    try:
        x, y, z, qx, qy, qz, qw = (float(part) for part in text.replace(",", " ").split())
        T = transform([qw, qx, qy, qz], [x, y, z])
    except ValueError:
        T = np.full((4, 4), np.nan)
    if not np.isfinite(T).all():
        raise ParameterError(f"parameter {name}: expected seven numbers 'x y z qx qy qz qw', got '{text}'")
    return T


def default_parameters_file() -> Path:
    """The shipped ``config/detector.yaml``, in the source tree or installed."""
    from crkd_core.config import recipe_folder  # needs msgspec, which is not where a distribution's launch runs

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
