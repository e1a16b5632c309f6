#!/usr/bin/env python3
"""Score a checkpoint, or a nuScenes result file, with the official nuScenes detection metric.

    training/evaluate.py runs/student_r50/model --dataroot DATA --version v1.0-trainval --split val --out runs/eval
    training/evaluate.py runs/overfit/model --dataroot DATA --version v1.0-mini --scenes scene-0916
    training/evaluate.py --results results.json --dataroot DATA --version v1.0-mini --split mini_val
    training/evaluate.py runs/crkd_r50/model ... --out runs/eval --compare runs/eval_student/metrics.json
    training/evaluate.py runs/crkd_r50/model --dataroot DATA --version v1.0-test --split test --out submission
    torchrun --nproc-per-node 4 training/evaluate.py ...          # the processes share the detection

A checkpoint is run on every sample of the selection whose camera and radar key frames are all there, and scored on
these samples; the rest is reported. A result file is scored on all samples of the selection that it holds. Besides the
official figures the table shows the means over the classes that have ground truth, and the ceiling: what perfect
outputs of the same head would score after decoding and non-maximum suppression. --by adds the means of parts: of the
drives of each condition (night, rain, ... by the scenes' descriptions), of the objects in bands of distance.

Writes into --out: `results.json` (for the official server and the devkit), `metrics.json`, `curves.png` (precision over
recall) and `report.html`, which needs no other file: figures, curves, histograms of errors, and pictures of the key
frames with most mistakes. `--split test`, whose ground truth is not public, is detected on and not scored.
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
from crkd_core.training.curves import ClassCurves, curves_picture
from crkd_core.training.detect import detect_samples
from crkd_core.training.diagnosis import match_errors
from crkd_core.training.error_pictures import error_sheets
from crkd_core.training.evaluation import evaluate_with_curves
from crkd_core.training.ground_truth import (
    SampleTruth,
    load_devkit,
    tokens_of_scenes,
    tokens_of_split,
    truth_from_nuscenes,
)
from crkd_core.training.groups import GROUPINGS, evaluate_groups
from crkd_core.training.html_report import error_histograms, report_html
from crkd_core.training.metrics import Metrics, read_metrics
from crkd_core.training.nuscenes_data import chosen_scenes
from crkd_core.training.processes import own_device, processes
from crkd_core.training.report import comparison_table, groups_table, metrics_table
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
    parser.add_argument("--compare", type=Path, metavar="JSON", help="metrics.json of another run, shown side by side")
    parser.add_argument("--pictures", type=int, default=4, help="key frames in the report (default: %(default)s)")
    work = parser.add_argument_group("how to run a checkpoint")
    work.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    work.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="default: %(default)s")
    work.add_argument("--score-threshold", type=finite, help="in place of the recipe's, higher or lower")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write results and figures there")
    parser.add_argument("--dry-run", action="store_true", help="say what would be scored, and stop")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    return parser.parse_args()


def main() -> int:
    """Detect, score, report."""
    args = arguments()
    if (args.checkpoint is None) == (args.results is None):
        raise UserError("what to score: name either a checkpoint or --results JSON")
    if args.compare is not None:
        read_metrics(args.compare)  # before hours of detection
    index = load_index(args.dataroot, args.version)  # tells clearly what is wrong with the tables, where something is
    if args.split == "test":
        return submit(args, index)
    devkit = load_devkit(args.dataroot, args.version)
    wanted = selection(devkit, args)
    detector = None
    if args.results is not None:
        meta, results = read_submission(args.results)
        flags = {flag: bool(meta.get(flag, False)) for flag in ("use_camera", "use_radar", "use_lidar")}
        tokens = [token for token in wanted if token in results]
    else:
        detector = loaded(args)
        flags = used_sensors(detector.recipe)
        tokens = complete(index, wanted, detector.recipe)
        results = {}
    say(f"{len(tokens)} of {len(wanted)} samples of the selection can be scored")
    if not tokens:
        what = "are in the result file" if args.results else "have all their camera and radar files"
        raise UserError(f"none of the {len(wanted)} samples of the selection {what}")
    if args.dry_run:
        return 0
    progress = not args.no_progress
    frames = frames_of(index, tokens, detector.recipe if detector else None)
    if detector is not None:
        results = detect_samples(detector, frames, progress=progress)
    if not processes().first:
        return 0
    truth = truth_from_nuscenes(devkit, tokens, progress=progress)
    best = best_possible(args, detector.recipe if detector else None, index, truth)
    report(args, frames, {token: results[token] for token in tokens}, truth, flags, best)
    return 0


def report(
    args: argparse.Namespace,
    frames: NuScenesFrames,
    results: dict[str, list[ResultEntry]],
    truth: dict[str, SampleTruth],
    flags: dict[str, bool],
    best: Metrics | None,
) -> None:
    """Score, print, write."""
    progress = not args.no_progress
    metrics, curves = evaluate_with_curves(results, truth, progress=progress)
    print(metrics_table(metrics, ceiling=best))
    groups = evaluate_groups(results, truth, args.by, progress=progress)
    if groups:
        print(f"\nmeans over the classes with ground truth\n{groups_table(groups)}")
    if args.compare is not None:
        print(f"\nother: {args.compare}\n{comparison_table(metrics, read_metrics(args.compare))}")
    if args.out is not None:
        write(args.out, results, flags, {"metrics": metrics, "ceiling": best, "groups": groups})
        draw(args, frames, results, truth, metrics, curves, groups)


def submit(args: argparse.Namespace, index: NuScenesIndex) -> int:
    """Detect on every sample of the test split and write the file for the server.

    Raises:
        UserError: nothing to detect with, nowhere to write, or samples without all their files.
    """
    if args.checkpoint is None or args.out is None:
        raise UserError("--split test: has no public ground truth; name a checkpoint and --out for its result file")
    detector = loaded(args)
    tokens = [sample.token for scene in chosen_scenes(index, split="test") for sample in scene.samples]
    left_out = len(tokens) - len(complete(index, tokens, detector.recipe))
    if left_out:
        raise UserError(f"--split test: {left_out} of {len(tokens)} samples lack files, and the server wants all")
    say(f"{len(tokens)} samples of the test split, not scored: their ground truth is not public")
    if args.dry_run:
        return 0
    frames = frames_of(index, tokens, detector.recipe)
    results = detect_samples(detector, frames, progress=not args.no_progress)
    if processes().first:
        write_submission(args.out / "results.json", results, tokens=tokens, **used_sensors(detector.recipe))
        print(f"written: {args.out / 'results.json'}")
    return 0


def say(words: str) -> None:
    """Print, once however many processes run."""
    if processes().first:
        print(words)


def loaded(args: argparse.Namespace) -> Detector:
    """The detector of this process."""
    device = own_device() if args.device == "auto" else args.device
    return Detector(args.checkpoint, device=device, precision=args.precision, score_threshold=args.score_threshold)


def frames_of(index: NuScenesIndex, tokens: list[str], recipe: Recipe | None) -> NuScenesFrames:
    """The samples with what a recipe reads; for pictures alone without one."""
    samples = [index.sample(token) for token in tokens]
    if recipe is None:
        return NuScenesFrames(index, samples)
    return NuScenesFrames(index, samples, radar_sweeps=recipe.radar_sweeps, lidar_sweeps=recipe.lidar_sweeps)


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


def draw(
    args: argparse.Namespace,
    frames: NuScenesFrames,
    results: dict[str, list[ResultEntry]],
    truth: dict[str, SampleTruth],
    metrics: Metrics,
    curves: dict[str, ClassCurves],
    groups: dict[str, Metrics],
) -> None:
    """Write curves.png and report.html."""
    title = str(args.checkpoint or args.results)
    shown = {name: own for name, own in curves.items() if metrics.classes[name].truths}
    curves_picture(shown, args.out / "curves.png", title=title)
    scenes = len({sample.scene for sample in truth.values()})
    page = report_html(
        title,
        [f"{metrics.samples} key frames of {scenes} scenes of {args.version}"],
        metrics,
        groups=groups,
        latency_ms={},
        histograms=error_histograms(match_errors(results, truth)),
        pictures=error_sheets(frames, results, truth, count=args.pictures),
        curves=shown,
    )
    (args.out / "report.html").write_text(page)


if __name__ == "__main__":
    run(main)
