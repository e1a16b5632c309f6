"""Score a bag of detections with the official nuScenes metric.

For each annotated key frame the nearest detections in time are taken, moved to the key frame's stamp by their own
velocities and the vehicle's motion, and scored. Key frames without detections near enough count as empty.
Ground truth comes from the bag that was played (its /annotations topic), or from a nuScenes root.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.config import load_recipe
from crkd_core.geometry.transforms import inverse
from crkd_core.runtime.poses import MILLISECOND, SECOND, PoseBuffer
from crkd_core.training.ceiling import ceiling
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth, load_devkit, tokens_of_scenes, truth_from_nuscenes
from crkd_core.training.metrics import Metrics
from crkd_core.training.report import latency_table, metrics_table
from crkd_core.training.submission import ResultEntry, results_entry, within_class_range
from crkd_core.types import Detections, FloatArray
from crkd_ros import topics
from crkd_ros.answers import FrameReport
from rosbag_tools.bags import open_bag
from rosbag_tools.recorded import (
    RecordedDetections,
    RecordingError,
    VehiclePoses,
    annotations_in,
    detections_in,
    mounting,
    mountings,
    truth_of,
    vehicle_poses,
)
from rosbag_tools.scene_tables import version_of

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
    if evaluation.latency_ms:
        lines += ["", latency_table(evaluation.latency_ms)]
    return "\n".join(lines)


def _span(stamps: Sequence[int]) -> str:
    return f"{min(stamps) / SECOND:.1f} to {max(stamps) / SECOND:.1f} s" if stamps else "none"


# ------------------------------------------------------------------------------------------------------- command line


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="evaluate_bag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("detections", type=Path, help="bag with the detector's answers (folder, .mcap or .db3)")
    parser.add_argument(
        "--input", type=Path, metavar="BAG", help="bag that was played: poses and annotations (default: DETECTIONS)"
    )
    parser.add_argument("--topic", default=topics.DETECTIONS, help="topic of the detections (default: %(default)s)")
    truth = parser.add_argument_group("ground truth from a nuScenes root instead of the bag's annotations")
    truth.add_argument("--dataroot", type=Path, help="data set in nuScenes format; poses then come from it, too")
    truth.add_argument("--version", help="its version folder (default: the only one there)")
    truth.add_argument("--scene", help="the scene that was played")
    parser.add_argument(
        "--tolerance-ms",
        type=finite,
        default=TOLERANCE / MILLISECOND,
        metavar="MS",
        help="farthest detections in time that stand for a key frame (default: %(default)s)",
    )
    parser.add_argument("--ceiling", metavar="RECIPE", help="also score perfect outputs of this recipe's head")
    parser.add_argument("--bev-frame", default=topics.BEV_FRAME, help="the ceiling's BEV frame (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the figures to this file")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def score(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _arguments(argv)
    if (args.dataroot is None) != (args.scene is None):
        raise UserError("ground truth: --dataroot and --scene belong together")
    if args.tolerance_ms < 0:
        raise UserError(f"--tolerance-ms: expected 0 or more, got {args.tolerance_ms}")
    with open_bag(args.detections) as bag:
        recorded = detections_in(bag, topic=args.topic)
    T_base_from_bev: FloatArray | None = None
    if args.dataroot is not None:
        truth, poses, T_base_from_bev = _from_root(args)
    else:
        with open_bag(args.input or args.detections) as bag:
            if args.input is None and not bag.has(topics.ANNOTATIONS):
                raise RecordingError(
                    f"bag {bag.path}: no {topics.ANNOTATIONS}; name the bag that was played by --input"
                )
            truth = {annotation.sample_token: truth_of(annotation) for annotation in annotations_in(bag)}
            poses = vehicle_poses(bag)
            T_base_from_bev = mounting(mountings(bag), args.bev_frame)
    if args.ceiling and T_base_from_bev is None:
        raise RecordingError(f"ceiling: frame '{args.bev_frame}' is not on {topics.TF_STATIC}; name it by --bev-frame")
    evaluation = evaluate_bag(
        recorded,
        truth,
        poses,
        tolerance=round(args.tolerance_ms * MILLISECOND),
        recipe=args.ceiling,
        T_base_from_bev=T_base_from_bev,
        progress=not args.no_progress,
    )
    print(report_text(evaluation, missing_velocities=len(recorded.detections) - recorded.with_velocities))
    if args.out is not None:
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_bytes(evaluation.to_json())
        except OSError as error:
            raise UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
        print(f"figures: {args.out}")
    return 0


def _from_root(args: argparse.Namespace) -> tuple[dict[str, SampleTruth], VehiclePoses, FloatArray]:
    from crkd_core.data.nuscenes import REFERENCE_CHANNEL, load_index

    version = version_of(args.dataroot, args.version)
    index = load_index(args.dataroot, version)  # tells clearly what is wrong with the tables, where something is
    scene = index.scene(args.scene)
    devkit = load_devkit(args.dataroot, version)
    truth = truth_from_nuscenes(devkit, tokens_of_scenes(devkit, [args.scene]), progress=not args.no_progress)
    poses = PoseBuffer(capacity=1 << 40)
    for channel in index.channels(scene):
        for record in index.records(scene, channel):
            poses.insert(record.stamp, record.T_world_from_base)
    reference = index.records(scene, REFERENCE_CHANNEL)[0]
    for sample in truth.values():
        poses.insert(sample.stamp, sample.T_world_from_base)
    return truth, VehiclePoses([poses]), reference.calibration.T_base_from_sensor


def main() -> NoReturn:
    """Entry point of ``evaluate_bag``."""
    run(score)


if __name__ == "__main__":
    main()
