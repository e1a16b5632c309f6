"""Score a bag of detections with the official nuScenes metric.

For each annotated key frame the nearest detections in time are taken, moved to the key frame's stamp by their own
velocities and the vehicle's motion, and scored. Key frames without detections near enough count as empty.
Ground truth comes from the bag that was played (its /annotations topic), or from a nuScenes root.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.drawing.sheet import SheetOptions
from crkd_core.drawing.style import Image
from crkd_core.runtime.poses import MILLISECOND, SECOND, PoseBuffer
from crkd_core.training.ground_truth import SampleTruth, load_devkit, tokens_of_scenes, truth_from_nuscenes
from crkd_core.training.groups import GROUPINGS
from crkd_core.training.html_report import error_histograms, report_html
from crkd_core.types import FloatArray
from crkd_ros import topics
from rosbag_tools.bag_evaluation import TOLERANCE, BagEvaluation, evaluate_bag, report_text
from rosbag_tools.bags import Bag, open_bag
from rosbag_tools.moments import CLOUD_TYPE, IMAGE_TYPES
from rosbag_tools.recorded import (
    RecordedDetections,
    RecordingError,
    VehiclePoses,
    detections_in,
    mounting,
    mountings,
    truth_in,
    vehicle_poses,
)
from rosbag_tools.render_bag import MIN_SCORE, open_drive, sheets, with_cameras_of
from rosbag_tools.scene_tables import version_of

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
    parser.add_argument(
        "--by", nargs="+", choices=GROUPINGS, default=(), help="also score drives of one condition, objects by range"
    )
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the figures to this file")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a report with pictures to this file, which needs no other"
    )
    parser.add_argument("--pictures", type=int, default=4, help="key frames shown in the report (default: %(default)s)")
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
            truth = truth_in(bag)
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
        by=args.by,
        progress=not args.no_progress,
    )
    print(report_text(evaluation, missing_velocities=len(recorded.detections) - recorded.with_velocities))
    if args.out is not None:
        _write("--out", args.out, evaluation.to_json())
        print(f"figures: {args.out}")
    if args.html is not None:
        _write("--html", args.html, _html(args, recorded, evaluation).encode())
        print(f"report: {args.html}")
    return 0


def _write(option: str, path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{option} {path}: cannot be written: {error.strerror}") from None


def _html(args: argparse.Namespace, recorded: RecordedDetections, evaluation: BagEvaluation) -> str:
    facts = [
        f"{len(evaluation.key_frames)} key frames, {len(evaluation.unmatched)} of them without detections; "
        f"{evaluation.answers} answers"
        + "".join(f", {count} {state}" for state, count in sorted(evaluation.states.items()))
    ]
    with open_bag(args.input or args.detections) as bag:
        return report_html(
            f"{args.detections.stem}: detections against ground truth",
            facts,
            evaluation.metrics,
            groups=evaluation.groups,
            latency_ms=evaluation.latency_ms,
            histograms=error_histograms(evaluation.errors),
            pictures=_pictures(bag, recorded, evaluation, args.pictures),
        )


def _pictures(bag: Bag, recorded: RecordedDetections, evaluation: BagEvaluation, count: int) -> list[tuple[str, Image]]:
    """Sheets of some key frames that have detections, evenly spread; none where the bag has no sensors."""
    matches = [match for match in evaluation.key_frames if match.offset_ms is not None]
    if count < 1 or not any(topic.type in (*IMAGE_TYPES, CLOUD_TYPE) for topic in bag.topics.values()):
        return []
    try:
        drive = open_drive(bag, recorded)
    except RecordingError as error:
        print(f"no pictures: {error}")
        return []
    wanted = np.linspace(0, len(matches) - 1, min(count, len(matches))).round().astype(int)
    stamps = np.array(drive.moments)
    moments = sorted({int(stamps[np.abs(stamps - matches[i].stamp).argmin()]) for i in wanted})
    options = with_cameras_of(drive, SheetOptions(width=1280, min_score=MIN_SCORE))
    return [
        (f"t = {(stamp - drive.moments[0]) / SECOND:.1f} s; ground truth in green", picture)
        for stamp, picture in sheets(drive, moments, options)
    ]


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
