"""From an assembled frame to what is published about it: detections, and a report of what they were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from crkd_core.config import recipe_folder
from crkd_core.data.errors import DataError
from crkd_core.data.images import decoded
from crkd_core.runtime.assembler import AssembledFrame, FrameState
from crkd_core.runtime.checkpoint import read_sidecar
from crkd_core.runtime.detector import Detector
from crkd_core.runtime.tracker import Tracker
from crkd_core.types import Boxes3D, CameraImage, Detections, FloatArray, Manifest, SensorFrame
from crkd_ros.conversions import ConversionError, Messages, marker_array
from crkd_ros.conversions.detections import detection_array, velocity_cloud
from crkd_ros.parameters import DetectorParameters

OUTPUT_TYPES = {
    "detections_topic": "vision_msgs/msg/Detection3DArray",
    "velocities_topic": "sensor_msgs/msg/PointCloud2",
    "markers_topic": "visualization_msgs/msg/MarkerArray",
    "manifest_topic": "std_msgs/msg/String",
}
"""What every answer is published as: parameter with the topic's name -> message type."""

Detect = Callable[[SensorFrame], Detections]


class FrameReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one answer was made of; JSON in a ``std_msgs/String`` beside the detections."""

    stamp: int
    """Reference stamp, ns; that of the detections."""
    state: str
    """NOMINAL, DEGRADED or STALE."""
    reasons: tuple[str, ...]
    """What is missing and why."""
    sensors: dict[str, tuple[int, ...]]
    """Sensor -> stamps used, ns, newest first."""
    calibration: str
    """Digest over intrinsics, mountings and BEV frame; empty when STALE."""
    poses: str
    """Digest over the vehicle poses at all stamps used; empty when STALE."""
    detections: int
    """Number of boxes."""
    timings_ms: dict[str, float] = {}
    """Stage -> milliseconds; empty offline, so that a bag's content does not depend on the machine."""

    @property
    def manifest(self) -> Manifest:
        """The part that decides about the network's input."""
        return Manifest(self.stamp, self.sensors, self.calibration)


@dataclass(frozen=True)
class Answer:
    """Detections of one frame (none when STALE) and how they came about.

    Attributes:
        detections: what was found.
        report: what it was made of.
        ids: the number of each detection's object; empty without a tracker.
    """

    detections: Detections
    report: FrameReport
    ids: tuple[int, ...] = ()


def shipped_checkpoint() -> Path:
    """The folder of the weights that come with the package."""
    return recipe_folder().parents[1] / "weights" / "student_tiny"


def make_detector(parameters: DetectorParameters) -> Detector:
    """The detector that the parameters describe; without ``checkpoint``, the one with the shipped weights.

    Raises:
        CheckpointError: no such checkpoint, a damaged one, or one of another recipe.
        DeviceError: no such device, or a precision it cannot compute.
        RecipeError: the checkpoint of a teacher, which needs a LiDAR.
    """
    checkpoint = parameters.text("checkpoint") or shipped_checkpoint()
    _ = read_sidecar(checkpoint).recipe.live_sweeps  # refuses a teacher before it asks for its extra libraries
    return Detector(
        checkpoint,
        device=parameters.text("device"),
        precision=parameters.text("precision"),  # type: ignore[arg-type]  # one of the parameter's choices
        recipe=parameters.text("recipe") or None,
    )


def warm_up(detect: Detect, parameters: DetectorParameters) -> None:
    """The first frame pays for allocations and kernel selection; better now than when it counts."""
    black = np.zeros((900, 1600, 3), dtype=np.uint8)
    K = np.array([[1266.0, 0.0, 800.0], [0.0, 1266.0, 450.0], [0.0, 0.0, 1.0]])
    camera = CameraImage(black, K, np.eye(4), np.eye(4), stamp=0)
    detect(SensorFrame(dict.fromkeys(parameters.cameras, camera), {}, 0, np.eye(4), np.eye(4)))


def answer(
    detect: Detect,
    assembled: AssembledFrame,
    *,
    frame_id: str,
    min_scores: FloatArray | None = None,
    tracker: Tracker | None = None,
    strict: bool = False,
) -> Answer:
    """Run the detector on an assembled frame.

    An image that cannot be decoded is taken out of the frame, which becomes DEGRADED.

    Args:
        detect: the detector.
        assembled: a frame, or a STALE one without measurements.
        frame_id: frame of an empty result.
        min_scores: (10,) by label, detections below it are left out; None: all are kept.
        tracker: gives what is left the numbers of objects; None: there are none.
        strict: raise instead of going on without a damaged image.

    Raises:
        DataError: with ``strict``, an image that cannot be decoded; the message names the frame.
    """
    frame, state, reasons = assembled.frame, assembled.state, assembled.reasons
    ids: tuple[int, ...] = ()
    found = Detections(Boxes3D.empty(), np.zeros(0), np.zeros(0, dtype=np.int64), frame_id, assembled.stamp)
    if frame is not None:
        T_world_from_base = frame.T_world_from_base
        try:
            found = detect(frame)
        except DataError as error:
            if strict:
                raise DataError(f"frame at {assembled.stamp} ns: {error}") from None
            frame, damaged = without_damaged_images(frame)
            if not damaged:
                raise  # something else is wrong with the frame
            reasons = (*reasons, *damaged)
            state = FrameState.DEGRADED if frame is not None else FrameState.STALE
            if frame is not None:
                found = detect(frame)
        if min_scores is not None:
            found = found.filtered(found.scores >= min_scores[found.labels])
        found = replace(found, frame_id=frame_id)
        if tracker is not None:
            ids = tracker.update(found, T_world_from_base)
    manifest = frame.manifest if frame is not None else Manifest(assembled.stamp, {}, "")
    report = FrameReport(
        stamp=assembled.stamp,
        state=state.value,
        reasons=reasons,
        sensors=manifest.sensors,
        calibration=manifest.calibration,
        poses=pose_digest(frame) if frame is not None else "",
        detections=len(found),
    )
    return Answer(found, report, ids)


def without_damaged_images(frame: SensorFrame) -> tuple[SensorFrame | None, tuple[str, ...]]:
    """The frame without the images that cannot be decoded (None if nothing is left), and one reason for each."""
    damage = {name: _damage(camera, name) for name, camera in frame.cameras.items()}
    cameras = {name: camera for name, camera in frame.cameras.items() if damage[name] is None}
    left = replace(frame, cameras=cameras) if cameras or frame.radars else None
    return left, tuple(reason for reason in damage.values() if reason is not None)


def _damage(camera: CameraImage, name: str) -> str | None:
    try:
        decoded(camera, name)
    except DataError as error:
        return str(error)
    return None


def pose_digest(frame: SensorFrame) -> str:
    """Hex digest over the vehicle poses of a frame: with an equal manifest, it makes equal network inputs."""
    digest = hashlib.sha256(frame.T_world_from_base.tobytes())
    for _, camera in sorted(frame.cameras.items()):
        digest.update(camera.T_world_from_base.tobytes())
    for _, sweeps in sorted(frame.radars.items()):
        for sweep in sweeps:
            digest.update(sweep.T_world_from_base.tobytes())
    return digest.hexdigest()[:16]


def output_messages(messages: Messages, found: Answer, *, wanted: Container[str]) -> Iterator[tuple[str, Any]]:
    """What is published about a frame, in this order.

    Whoever has its detections can expect to have their velocities and what they were made of. Markers come last: making
    them takes longer than all the rest.

    Args:
        messages: the kind to make.
        found: the answer.
        wanted: the keys of ``OUTPUT_TYPES`` that are asked for; nothing is computed for the others.
    """
    if "manifest_topic" in wanted:
        yield "manifest_topic", report_message(messages, found.report)
    if "velocities_topic" in wanted:
        yield "velocities_topic", velocity_cloud(messages, found.detections)
    if "detections_topic" in wanted:
        yield "detections_topic", detection_array(messages, found.detections, ids=[str(i) for i in found.ids])
    if "markers_topic" in wanted:
        yield "markers_topic", marker_array(messages, found.detections, ids=found.ids)


def report_message(messages: Messages, report: FrameReport) -> Any:
    """``std_msgs/String`` with the report as JSON."""
    return messages.String(data=msgspec.json.encode(report, order="sorted").decode())


def report_of(message: Any, *, source: str = "manifest") -> FrameReport:
    """The report in a ``std_msgs/String``.

    Raises:
        ConversionError: not JSON, or a field that is missing, unknown or of the wrong type.
    """
    try:
        return msgspec.json.decode(message.data.encode(), type=FrameReport)
    except msgspec.DecodeError as error:
        raise ConversionError(f"{source}: {error}") from None
