#!/usr/bin/env python3
"""Score a checkpoint, or a nuScenes result file, with the official nuScenes detection metric.

    training/evaluate.py runs/student_r50/model --dataroot DATA --version v1.0-trainval --split val --out runs/eval
    training/evaluate.py runs/overfit/model --dataroot DATA --version v1.0-mini --scenes scene-0916
    training/evaluate.py --results results.json --dataroot DATA --version v1.0-mini --split mini_val

A checkpoint is run on every sample of the selection whose camera and radar key frames are all there, and scored on
these samples; the rest is reported. A result file is scored on all samples of the selection that it holds. Besides the
official figures the table shows the means over the classes that have ground truth, and the ceiling: what perfect
outputs of the same head would score after decoding and non-maximum suppression. --by adds the means of parts: of the
drives of each condition (night, rain, ... by the scenes' descriptions), of the objects in bands of distance.

Writes into --out: `results.json` (for the official server and the devkit) and `metrics.json`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.data.frames import NuScenesFrames, channels_read
from crkd_core.data.nuscenes import REFERENCE_CHANNEL, NuScenesIndex, load_index
from crkd_core.runtime.detector import Detector
from crkd_core.training.ceiling import ceiling
from crkd_core.training.detect import detect_samples
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import (
    SampleTruth,
    load_devkit,
    tokens_of_scenes,
    tokens_of_split,
    truth_from_nuscenes,
)
from crkd_core.training.groups import GROUPINGS, evaluate_groups
from crkd_core.training.metrics import Metrics
from crkd_core.training.report import groups_table, metrics_table
from crkd_core.training.submission import ResultEntry, read_submission, used_sensors, write_submission


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="folder with model.safetensors and model.json")
    parser.add_argument("--results", type=Path, metavar="JSON", help="score this result file instead of a checkpoint")
    parser.add_argument("--dataroot", type=Path, required=True, help="data set in nuScenes format")
    parser.add_argument("--version", default="v1.0-trainval", help="its version folder (default: %(default)s)")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--split", help="predefined split (val, mini_val, ...) or one of <version>/splits.json")
    which.add_argument("--scenes", nargs="+", metavar="SCENE", help="names of scenes")
    which.add_argument("--samples", type=Path, metavar="FILE", help="file with one sample token per line")
    parser.add_argument("--recipe", help="recipe of the ceiling (default: the checkpoint's; none for --results)")
    parser.add_argument("--no-ceiling", action="store_true", help="do not compute the ceiling")
    parser.add_argument("--by", nargs="+", choices=GROUPINGS, default=[], help="also score parts of the selection")
    work = parser.add_argument_group("how to run a checkpoint")
    work.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    work.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="default: %(default)s")
    work.add_argument("--score-threshold", type=finite, help="weakest box kept (default: the recipe's)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write results.json and metrics.json there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be scored, and stop")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    return parser.parse_args()


def main() -> int:
    """Detect, score, report."""
    args = arguments()
    if (args.checkpoint is None) == (args.results is None):
        raise UserError("what to score: name either a checkpoint or --results JSON")
    index = load_index(args.dataroot, args.version)  # tells clearly what is wrong with the tables, where something is
    devkit = load_devkit(args.dataroot, args.version)
    wanted = selection(devkit, args)
    detector = None
    if args.results is not None:
        meta, results = read_submission(args.results)
        flags = {flag: bool(meta.get(flag, False)) for flag in ("use_camera", "use_radar", "use_lidar")}
        tokens = [token for token in wanted if token in results]
    else:
        detector = Detector(
            args.checkpoint, device=args.device, precision=args.precision, score_threshold=args.score_threshold
        )
        flags = used_sensors(detector.recipe)
        tokens = complete(index, wanted, detector.recipe)
        results = {}
    print(f"{len(tokens)} of {len(wanted)} samples of the selection can be scored")
    if not tokens:
        what = "are in the result file" if args.results else "have all their camera and radar files"
        raise UserError(f"none of the {len(wanted)} samples of the selection {what}")
    if args.dry_run:
        return 0
    progress = not args.no_progress
    if detector is not None:
        frames = NuScenesFrames(
            index,
            [index.sample(token) for token in tokens],
            radar_sweeps=detector.recipe.radar_sweeps,
            lidar_sweeps=detector.recipe.lidar_sweeps,
        )
        results = detect_samples(detector, frames, progress=progress)
    truth = truth_from_nuscenes(devkit, tokens, progress=progress)
    best = best_possible(args, detector.recipe if detector else None, index, truth)
    metrics = evaluate(results, truth, progress=progress)
    print(metrics_table(metrics, ceiling=best))
    groups = evaluate_groups(results, truth, args.by, progress=progress)
    if groups:
        print(f"\nmeans over the classes with ground truth\n{groups_table(groups)}")
    if args.out is not None:
        scores = {"metrics": metrics, "ceiling": best, "groups": groups}
        write(args.out, {token: results[token] for token in tokens}, flags, scores)
    return 0


def selection(devkit: Any, args: argparse.Namespace) -> list[str]:
    """The sample tokens asked for."""
    if args.split:
        return tokens_of_split(devkit, args.split)
    if args.scenes:
        return tokens_of_scenes(devkit, args.scenes)
    try:
        tokens: list[str] = args.samples.read_text().split()
    except OSError as error:
        raise UserError(f"--samples {args.samples}: cannot be read: {error.strerror}") from None
    known = {sample["token"] for sample in devkit.sample}
    unknown = [token for token in tokens if token not in known]
    if unknown or not tokens:
        found = f"{len(unknown)} unknown sample tokens (first: {unknown[0]})" if unknown else "no token"
        raise UserError(f"--samples {args.samples}: expected tokens of {args.dataroot}/{args.version}, found {found}")
    return tokens


def complete(index: NuScenesIndex, wanted: list[str], recipe: Recipe) -> list[str]:
    """The samples with the key frame files of every sensor that the recipe reads; others are not needed."""
    present = {sample.token for sample in index.complete_samples(channels_read(index, recipe))}
    return [token for token in wanted if token in present]


def best_possible(
    args: argparse.Namespace, recipe: Recipe | None, index: NuScenesIndex, truth: dict[str, SampleTruth]
) -> Metrics | None:
    """The ceiling, where a recipe is known; by the BEV mounting of the first sample."""
    if args.recipe:
        recipe = load_recipe(args.recipe)
    reference = index.key_record(index.sample(next(iter(truth))), REFERENCE_CHANNEL)
    if recipe is None or reference is None or args.no_ceiling:
        return None
    return ceiling(truth, recipe, reference.calibration.T_base_from_sensor, progress=not args.no_progress)


def write(
    folder: Path,
    results: dict[str, list[ResultEntry]],
    flags: dict[str, bool],
    scores: dict[str, Any],
) -> None:
    """Write results.json and metrics.json."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.encode(scores)
        (folder / "metrics.json").write_bytes(msgspec.json.format(content, indent=1) + b"\n")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror}") from None
    if any(results.values()):
        write_submission(folder / "results.json", results, tokens=list(results), **flags)
    else:
        print("no box in any sample: no results.json (the official format wants at least one)", file=sys.stderr)
    print(f"written: {folder}")


if __name__ == "__main__":
    run(main)
