"""Recorded detections against ground truth, by the official nuScenes metric."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from crkd_core.config import load_recipe
from crkd_core.geometry.transforms import inverse
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.training.ceiling import ceiling
from crkd_core.training.diagnosis import match_errors
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth
from crkd_core.training.groups import Grouping, evaluate_groups
from crkd_core.training.metrics import Metrics
from crkd_core.training.report import groups_table, latency_table, metrics_table
from crkd_core.training.submission import ResultEntry, results_entry, within_class_range
from crkd_core.types import Detections, FloatArray
from crkd_ros.answers import FrameReport
from rosbag_tools.recorded import (
    RecordedDetections,
    RecordingError,
    VehiclePoses,
)

TOLERANCE = 60 * MILLISECOND
"""Farthest detections in time that stand for a key frame."""


class KeyFrameMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Which detections stood for a key frame."""

    token: str
    stamp: int
    """Of the key frame, ns."""
    offset_ms: float | None
    """Stamp of the detections minus that of the key frame; None: no detections near enough."""
    reason: str = ""
    """Why there are none."""


class BagEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """A scored bag, as in ``metrics.json``."""

    metrics: Metrics
    ceiling: Metrics | None
    """Perfect head maps on the same key frames, see ``crkd_core.training.ceiling``."""
    key_frames: tuple[KeyFrameMatch, ...]
    answers: int
    """Detection messages in the bag."""
    states: dict[str, int]
    """How complete the answered frames were: NOMINAL, DEGRADED, STALE -> number."""
    latency_ms: dict[str, tuple[float, float, float]]
    """Stage -> median, 95th percentile and maximum, over all answers that report it."""
    groups: dict[str, Metrics] = {}
    """Condition or band of distance -> its part of the figures, see ``crkd_core.training.groups``."""
    errors: dict[str, tuple[float, ...]] = {}
    """Of every match within 2 m: distance (m), scale (1 - IoU), heading (rad), speed (m/s, where known)."""

    @property
    def unmatched(self) -> list[KeyFrameMatch]:
        """Key frames that counted as empty."""
        return [match for match in self.key_frames if match.offset_ms is None]

    def to_json(self) -> bytes:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def moved_to(detections: Detections, stamp: int, poses: VehiclePoses) -> Detections | None:
    """Detections as they would be at another time: moved by their velocities, seen from where the vehicle is then.

    Args:
        detections: in ``base_link`` at their stamp.
        stamp: target, ns.
        poses: of the vehicle.

    Returns:
        In ``base_link`` at ``stamp``, or None where the vehicle's pose at either time is not known.
    """
    T_world_from_then, T_world_from_now = poses.at(detections.stamp), poses.at(stamp)
    if T_world_from_then is None or T_world_from_now is None:
        return None
    boxes = detections.boxes.moved((stamp - detections.stamp) / SECOND)
    boxes = boxes.transformed(inverse(T_world_from_now) @ T_world_from_then)
    return Detections(boxes, detections.scores, detections.labels, detections.frame_id, stamp)


def key_frame_results(
    truth: Mapping[str, SampleTruth],
    detections: Sequence[Detections],
    poses: VehiclePoses,
    *,
    tolerance: int = TOLERANCE,
) -> tuple[dict[str, list[ResultEntry]], list[KeyFrameMatch]]:
    """Result entries of every key frame, from the nearest detections.

    Args:
        truth: token -> key frame.
        detections: in ``base_link``, by ascending stamp.
        poses: of the vehicle.
        tolerance: ns.

    Returns:
        Token -> result entries in the key frame's world (empty without detections near enough), and what was matched.
    """
    stamps = [d.stamp for d in detections]
    results: dict[str, list[ResultEntry]] = {}
    matches = []
    for token, sample in truth.items():
        results[token] = []
        after = bisect_left(stamps, sample.stamp)
        near = min(detections[max(0, after - 1) : after + 1], key=lambda d: abs(d.stamp - sample.stamp), default=None)
        if near is None or abs(near.stamp - sample.stamp) > tolerance:
            reason = f"no detections within {tolerance / MILLISECOND:.0f} ms"
            matches.append(KeyFrameMatch(token=token, stamp=sample.stamp, offset_ms=None, reason=reason))
            continue
        moved = moved_to(near, sample.stamp, poses)
        if moved is None:
            reason = "the vehicle's pose is not recorded at that time"
            matches.append(KeyFrameMatch(token=token, stamp=sample.stamp, offset_ms=None, reason=reason))
            continue
        in_range = moved.filtered(within_class_range(moved))
        results[token] = results_entry(in_range.transformed(sample.T_world_from_base, "world"), token)
        offset = (near.stamp - sample.stamp) / MILLISECOND
        matches.append(KeyFrameMatch(token=token, stamp=sample.stamp, offset_ms=offset))
    return results, matches


def latencies(reports: Sequence[FrameReport]) -> dict[str, tuple[float, float, float]]:
    """Stage -> (median, 95th percentile, maximum) in ms, over the reports that have it."""
    stages: dict[str, list[float]] = {}
    for report in reports:
        for stage, value in report.timings_ms.items():
            stages.setdefault(stage, []).append(value)
    return {
        stage: (float(np.median(values)), float(np.percentile(values, 95)), max(values))
        for stage, values in stages.items()
    }


def evaluate_bag(
    recorded: RecordedDetections,
    truth: Mapping[str, SampleTruth],
    poses: VehiclePoses,
    *,
    tolerance: int = TOLERANCE,
    recipe: str | None = None,
    T_base_from_bev: FloatArray | None = None,
    by: Collection[Grouping] = (),
    progress: bool = False,
) -> BagEvaluation:
    """Score recorded detections.

    Args:
        recorded: what the detector answered.
        truth: token -> key frame.
        poses: of the vehicle.
        tolerance: farthest detections in time that stand for a key frame, ns.
        recipe: name or path of the detector's recipe, to compute the ceiling; None: no ceiling.
        T_base_from_bev: mounting of its BEV frame; needed for the ceiling.
        by: also score parts, by condition or by range.
        progress: show progress bars.

    Raises:
        RecordingError: there is no key frame, or not one has detections near enough.
        MissingExtraError: nuscenes-devkit is not installed.
    """
    if not truth:
        raise RecordingError("evaluation: the ground truth has no key frame")
    results, matches = key_frame_results(truth, recorded.detections, poses, tolerance=tolerance)
    if all(match.offset_ms is None for match in matches):
        raise RecordingError(
            f"evaluation: none of the {len(matches)} key frames can be scored ({matches[0].reason}); key frames: "
            f"{_span([m.stamp for m in matches])}, detections: {_span(recorded.stamps)}. Are they of the same drive?"
        )
    best = None
    if recipe is not None and T_base_from_bev is not None:
        best = ceiling(truth, load_recipe(recipe), T_base_from_bev, progress=progress)
    return BagEvaluation(
        metrics=evaluate(results, truth, progress=progress),
        ceiling=best,
        key_frames=tuple(matches),
        answers=len(recorded.detections),
        states=dict(Counter(report.state for report in recorded.reports)),
        latency_ms=latencies(recorded.reports),
        groups=evaluate_groups(results, truth, by, progress=progress) if by else {},
        errors=match_errors(results, truth),
    )


def report_text(evaluation: BagEvaluation, *, missing_velocities: int = 0) -> str:
    """What a terminal shows."""
    lines = [metrics_table(evaluation.metrics, ceiling=evaluation.ceiling), ""]
    offsets = [abs(m.offset_ms) for m in evaluation.key_frames if m.offset_ms is not None]
    lines.append(
        f"key frames: {len(offsets)} of {len(evaluation.key_frames)} scored with detections "
        f"{np.median(offsets):.0f} ms away in the median, {max(offsets):.0f} ms at most"
    )
    start = evaluation.key_frames[0].stamp
    lines += [
        f"  counted as empty: {match.token} (at {(match.stamp - start) / SECOND:.1f} s): {match.reason}"
        for match in evaluation.unmatched[:10]
    ]
    if len(evaluation.unmatched) > 10:
        lines.append(f"  counted as empty: and {len(evaluation.unmatched) - 10} more")
    if missing_velocities:
        lines.append(f"answers without recorded velocities (taken as 0): {missing_velocities} of {evaluation.answers}")
    if evaluation.states:
        lines.append("answers: " + ", ".join(f"{n} {state}" for state, n in sorted(evaluation.states.items())))
    if evaluation.groups:
        lines += ["", groups_table(evaluation.groups)]
    if evaluation.latency_ms:
        lines += ["", latency_table(evaluation.latency_ms)]
    return "\n".join(lines)


def _span(stamps: Sequence[int]) -> str:
    return f"{min(stamps) / SECOND:.1f} to {max(stamps) / SECOND:.1f} s" if stamps else "none"
