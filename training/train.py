#!/usr/bin/env python3
"""Train a detector from a recipe, on nuScenes-format data or on simulated drives.

    training/train.py student_tiny --synthscenes 4000 --out runs/tiny
    training/train.py student_r50 --dataroot DATA --version v1.0-trainval --split train --out runs/student_r50
    training/train.py student_study --frames FOLDER --out runs/student_study    # of training/pack_synthscenes.py

Writes into --out: the checkpoint `model/`, the resume state `last.ckpt`, logs for TensorBoard and CSV, `run.json` (what
ran) and, with --evaluate-scenes, `results.json` (nuScenes result format); the figures go into `model/model.json`. With
--evaluate-every, the averaged weights are scored on the way, too: `best/` is the best checkpoint by NDS,
`evaluations.csv` lists the figures. Loss curves are the same with and without.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.config import Recipe, load_recipe, plain_values, recipe_from_dict, recipe_to_dict
from crkd_core.data.dataset import FrameSource, TrainingSet
from crkd_core.data.frames import NuScenesFrames
from crkd_core.data.packed import PackedFrames, packed_frames
from crkd_core.data.simulated import prerendered, simulated_keys
from crkd_core.data.synthscenes.config import SynthConfig, check_image_width, check_training_seeds
from crkd_core.distillation.distiller import Distiller
from crkd_core.runtime.checkpoint import save_checkpoint
from crkd_core.training.ceiling import ceiling
from crkd_core.training.ground_truth import MissingExtraError, require_devkit
from crkd_core.training.loop import first_step, train
from crkd_core.training.metrics import Metrics
from crkd_core.training.nuscenes_data import Prepared, nuscenes_frames, objects_to_paste, remarks
from crkd_core.training.options import TrainingOptions, samples_per_step
from crkd_core.training.processes import from_first, has_begun, note_begun, own_device, processes, wait_for_all
from crkd_core.training.report import metrics_table
from crkd_core.training.resume import RESUME_FILE, steps_done
from crkd_core.training.scoring import BestCheckpoint, ScoredFrames
from crkd_core.training.submission import write_results

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def options(description: str) -> ArgumentParser:
    """The command line of a training script; ``distill.py`` adds its own."""
    parser = ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a shipped recipe, or the path of a .yaml file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="changes, e.g. train.steps=100"
    )
    data = parser.add_argument_group("training data (nuScenes format, or simulated)")
    data.add_argument("--dataroot", type=Path, help="data set in nuScenes format")
    data.add_argument("--version", default="v1.0-trainval", help="its version folder (default: %(default)s)")
    choice = data.add_mutually_exclusive_group()
    choice.add_argument("--split", help="train, mini_train, or another split (default: all complete samples)")
    choice.add_argument("--scenes", nargs="+", help="scene names")
    data.add_argument("--prepared", type=Path, metavar="DIR", help="what training/prepare.py has made of --dataroot")
    data.add_argument("--image-cache", action="store_true", help="train on the smaller images in --prepared")
    data.add_argument("--synthscenes", type=int, default=0, metavar="N", help="simulate N drives, seeds 0..N-1")
    data.add_argument("--frames", type=Path, metavar="FOLDER", help="simulated frames of training/pack_synthscenes.py")
    data.add_argument(
        "--frames-per-drive", type=int, default=4, help="key frames of each simulated drive (default: %(default)s)"
    )
    data.add_argument(
        "--image-width", type=int, default=448, help="width of simulated images, pixels (default: %(default)s)"
    )
    data.add_argument(
        "--no-augment", action="store_true", help="no augmentation; samples are kept in memory (small sets)"
    )
    test = parser.add_argument_group("evaluation when done, and on the way")
    scored = test.add_mutually_exclusive_group()
    scored.add_argument("--evaluate-scenes", nargs="*", help="scenes to detect and score (named none: all)")
    scored.add_argument("--evaluate-split", help="or a split")
    test.add_argument("--evaluate-root", type=Path, help="another data set (default: --dataroot)")
    test.add_argument("--evaluate-version", help="its version folder (default: --version)")
    test.add_argument(
        "--evaluate-every", type=int, default=0, metavar="STEPS",
        help="also on the way; the best checkpoint by NDS is kept in <out>/best",
    )  # fmt: skip
    work = parser.add_argument_group("how to run")
    work.add_argument("--seed", type=int, default=0)
    work.add_argument("--workers", type=int, default=2, help="data loading processes (default: %(default)s)")
    work.add_argument("--precision", choices=sorted(PRECISION), default="bf16" if torch.cuda.is_available() else "fp32")
    work.add_argument(
        "--pretrained", type=Path, metavar="FILE", help="ImageNet weights of the camera backbone (.pth, .safetensors)"
    )
    work.add_argument("--resume", action="store_true", help="go on from <out>/last.ckpt")
    work.add_argument(
        "--save-every", type=int, default=500, metavar="STEPS", help="between resume states (default: %(default)s)"
    )
    work.add_argument(
        "--log-every", type=int, default=50, metavar="STEPS", help="between logged losses (default: %(default)s)"
    )
    work.add_argument("--max-minutes", type=finite, default=0.0, help="stop after this time, resumable; 0: no limit")
    work.add_argument("--half", action="store_true", help="store the checkpoint's kernels as float16")
    work.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the data, train nothing")
    work.add_argument("--no-progress", action="store_true", help="no progress bars (logs of unattended runs)")
    return parser


def main() -> int:
    """Train a recipe that learns from annotations alone."""
    args = options(__doc__).parse_args()
    recipe = changed(load_recipe(args.recipe), args.set)
    if recipe.distillation is not None:
        raise UserError(
            f"recipe {recipe.name}: learns from a teacher; use training/distill.py, or --set distillation=null"
        )
    return train_and_evaluate(args, recipe)


def train_and_evaluate(
    args: argparse.Namespace,
    recipe: Recipe,
    *,
    distiller: Distiller | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
) -> int:
    """Train, save, evaluate; every process of a distributed run comes through here.

    Args:
        args: see ``options``.
        recipe: what to train.
        distiller: a teacher to learn from as well.
        start: weights to start from.
    """
    group = processes()
    say = print if group.first else silent
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips
    check_options(args)
    options = training_options(args, resume=goes_on(args))
    if args.dry_run:
        say(yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False))
    else:
        first_step(recipe, options)  # a run that cannot go on is refused before anything is read or written
    teacher = distiller.teacher.recipe if distiller is not None else None
    frames = training_frames(args, recipe, teacher)
    what = f"{recipe.name}: {len(frames)} samples, {recipe.train.steps} steps of {samples_per_step(recipe.train)}"
    say("\n".join([*remarks(frames), what]))
    if args.dry_run:
        return 0
    samples = training_set(args, recipe, frames, teacher)
    note_begun()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    provenance = {**provenance_of(args, frames), "processes": group.world_size}
    if group.first:
        (args.out / "run.json").write_text(json.dumps({**provenance, "recipe": recipe_to_dict(recipe)}, indent=1))
    started = time.time()
    scored = scored_frames(args, recipe)
    best = None
    if args.evaluate_every and scored is not None:
        best = BestCheckpoint(args.out, recipe, scored, provenance=provenance, half=args.half, say=print)
    model = train(recipe, samples, options, distiller=distiller, start=start, evaluate=best)
    provenance = {
        **provenance,
        "minutes": round((time.time() - started) / 60, 2),
        "steps": steps_done(args.out),
    }
    folder = args.out / "model"
    if group.first:
        save_checkpoint(folder, model, recipe, provenance=provenance, half=args.half)
    say(f"checkpoint: {folder}")
    if scored is not None:
        wait_for_all()
        metrics = evaluated(args, scored, recipe)
        if metrics is not None:
            figures = {"mAP": metrics.official.mAP, "NDS": metrics.official.NDS}
            save_checkpoint(folder, model, recipe, metrics=figures, provenance=provenance, half=args.half)
            if best is not None:
                best.offer(model, provenance["steps"], metrics)
    return 0


def silent(*_: object) -> None:
    """What all processes but the first print."""


def training_options(args: argparse.Namespace, *, resume: bool) -> TrainingOptions:
    """Where and how to run."""
    return TrainingOptions(
        out=args.out,
        seed=args.seed,
        workers=args.workers,
        precision=PRECISION[args.precision],
        resume=resume,
        save_every=args.save_every,
        log_every=args.log_every,
        max_minutes=args.max_minutes,
        progress=not args.no_progress,
        pretrained=args.pretrained,
        evaluate_every=args.evaluate_every,
    )


def goes_on(args: argparse.Namespace) -> bool:
    """Whether the run goes on from its resume state: when told to, or after a failure in the same launch of torchrun.

    The first process looks for all: what others see of a shared folder may be older.

    Raises:
        UserError: the folder holds a run of which this is no part.
    """
    there, begun = from_first(((args.out / RESUME_FILE).exists(), has_begun()))
    if there and not (args.resume or begun):
        raise UserError(f"{args.out}: holds a run already; add --resume to go on, or choose another --out")
    return bool(args.resume or there)


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that cannot be, before anything is read or written."""
    if sum(map(bool, (args.dataroot, args.synthscenes, args.frames))) != 1:
        raise UserError("training data: name one of --dataroot DIR, --synthscenes N and --frames FOLDER")
    if (args.prepared or args.image_cache) and not args.dataroot:
        raise UserError("--prepared and --image-cache belong to --dataroot; simulated images are small already")
    if args.save_every < 1 or args.log_every < 1:
        raise UserError(f"--save-every, --log-every: expected 1 or more, got {args.save_every}, {args.log_every}")
    check_image_width(args.image_width)
    if args.synthscenes < 0 or args.frames_per_drive < 1 or args.workers < 0:
        raise UserError(
            "expected --synthscenes and --workers of 0 or more, --frames-per-drive of 1 or more; "
            f"got {args.synthscenes}, {args.workers}, {args.frames_per_drive}"
        )
    evaluates = args.evaluate_scenes is not None or args.evaluate_split is not None
    if args.evaluate_every < 0 or (args.evaluate_every and not evaluates):
        raise UserError("--evaluate-every: expected 1 or more, with --evaluate-scenes that say what is evaluated")
    if args.evaluate_every:
        require_devkit()
    if evaluates and not (args.evaluate_root or args.dataroot):
        raise UserError("--evaluate-scenes: of which data set? name it with --evaluate-root DIR")
    own_device()  # refuses more processes than GPUs


def changed(recipe: Recipe, changes: list[str]) -> Recipe:
    """The recipe with KEY=VALUE changes; keys are dotted paths, values YAML."""
    values = recipe_to_dict(recipe)
    for change in changes:
        path, equals, text = change.partition("=")
        *sections, key = path.split(".")
        section: Any = values
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if not equals or not isinstance(section, dict) or key not in section:
            raise UserError(f"--set {change}: expected KEY=VALUE with a key of the recipe, such as train.steps=100")
        try:
            section[key] = plain_values(text)
        except yaml.YAMLError:
            raise UserError(f"--set {change}: the value is not readable as YAML") from None
    return recipe_from_dict(values, source="--set " + " ".join(changes)) if changes else recipe


def training_frames(args: argparse.Namespace, recipe: Recipe, teacher: Recipe | None) -> FrameSource:
    """The samples to train on, with what a teacher beside the student reads."""
    if args.dataroot:
        return nuscenes_frames(
            args.dataroot,
            args.version,
            recipe,
            teacher=teacher,
            split=args.split,
            scenes=args.scenes,
            prepared=prepared_data(args),
            smaller_images=args.image_cache,
        )
    if args.frames:
        check_training_seeds(PackedFrames(args.frames).contents.seeds)  # what must not be, before what is missing
        return packed_frames(args.frames, recipe, teacher=teacher)
    seeds = range(args.synthscenes)
    check_training_seeds(seeds)
    keys = simulated_keys(seeds, frames_per_drive=args.frames_per_drive)
    if args.dry_run:
        return keys  # type: ignore[return-value]  # only counted
    return prerendered(
        keys,
        image_width=args.image_width,
        radar_sweeps=recipe.radar_sweeps,
        lidar_sweeps=(teacher or recipe).lidar_sweeps,
        cameras=recipe.model.camera is not None,
        jobs=max(1, args.workers),
        progress=not args.no_progress,
    )


def training_set(args: argparse.Namespace, recipe: Recipe, frames: FrameSource, teacher: Recipe | None) -> TrainingSet:
    """The frames as training samples, with objects to paste if the recipe wants them."""
    augment = not args.no_augment
    database = None
    if augment and isinstance(frames, NuScenesFrames):
        database = objects_to_paste(frames, recipe, prepared_data(args))
    lidar = None if teacher is None else teacher.model.lidar
    return TrainingSet(frames, recipe, seed=args.seed, augment=augment, database=database, teacher=lidar)


def prepared_data(args: argparse.Namespace) -> Prepared | None:
    """What training/prepare.py has made, if named."""
    return None if args.prepared is None else Prepared(args.prepared, args.version)


def scored_frames(args: argparse.Namespace, recipe: Recipe) -> ScoredFrames | None:
    """What the run is evaluated on; None: nothing."""
    if args.evaluate_scenes is None and args.evaluate_split is None:
        return None
    root, split, scenes = args.evaluate_root or args.dataroot, args.evaluate_split, args.evaluate_scenes
    version = args.evaluate_version or args.version
    return ScoredFrames(nuscenes_frames(root, version, recipe, split=split, scenes=scenes))


def evaluated(args: argparse.Namespace, scored: ScoredFrames, recipe: Recipe) -> Metrics | None:
    """Detect on the evaluation scenes, write results.json, and score it where nuscenes-devkit is installed.

    Every process detects its share; the first one scores, the others have None.
    """
    results = scored.detected(args.out / "model", progress=not args.no_progress)
    if not processes().first:
        return None
    write_results(args.out / "results.json", results, recipe)
    try:
        metrics = scored.metrics(results)
    except MissingExtraError as error:
        print(f"not scored: {error}", file=sys.stderr)
        return None
    best = ceiling(scored.truth, recipe, scored.frames[0].frame.T_base_from_bev)
    print(metrics_table(metrics, ceiling=best))
    metrics.save(args.out / "metrics.json")
    return metrics


def provenance_of(args: argparse.Namespace, frames: FrameSource) -> dict[str, Any]:
    """What one needs to run this again."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    provenance = {
        "command": f"training/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}",
        "commit": described.stdout.strip() or "unknown",
        "seed": args.seed,
        "precision": args.precision,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }
    if args.synthscenes:
        provenance["synthscenes"] = SynthConfig().config_hash()
    if isinstance(frames, PackedFrames):
        provenance["synthscenes"] = frames.contents.synthscenes
    return provenance


if __name__ == "__main__":
    run(main)
