#!/usr/bin/env python3
"""Measure a training step: samples a second, memory, and where the time goes.

    training/pack_synthscenes.py --seeds 0:16 --image-width 1600 --radar-sweeps 6 --lidar-sweeps 10 --out frames
    training/benchmark_training.py student_r50 --frames frames --workers 14
    training/benchmark_training.py crkd_r50 --teacher teacher_r50 --batch 4 --frames frames --workers 14
    torchrun --nproc-per-node 2 training/benchmark_training.py student_r50 --frames frames --workers 14

Three speeds: that of training itself (the loop of train.py, all processes together), that of the loading processes
alone, and that of the device alone, which computes steps on one batch that lies there. The last one is divided into
parts; of a distilled student also what the losses of distillation cost, their share of the way back included: steps
with them and steps without, in turns, the teacher running in both. Weights are random, a teacher's too where a recipe
is named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from benchmark_machine import machine  # type: ignore[import-not-found]
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile
from train import PRECISION, changed

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.data.dataset import TrainingBatch, TrainingSet
from crkd_core.data.packed import packed_frames
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.training.detection_training import DetectionTraining
from crkd_core.training.loading import READ_AHEAD, training_loader
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions, autocast_dtype, samples_per_step
from crkd_core.training.processes import own_device, processes

WARM_UP = 10
"""Steps before anything is measured."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a shipped recipe, or the path of a .yaml file")
    parser.add_argument("--frames", type=Path, required=True, metavar="FOLDER", help="of training/pack_synthscenes.py")
    parser.add_argument("--teacher", metavar="RECIPE", help="recipe, or checkpoint folder, of a teacher beside it")
    parser.add_argument("--batch", type=int, help="samples per process and step (default: the recipe's)")
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="recipe changes")
    parser.add_argument("--steps", type=int, default=60, help="steps of each measurement (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loading processes (default: %(default)s)")
    default = "bf16" if torch.cuda.is_available() else "fp32"
    parser.add_argument("--precision", choices=sorted(PRECISION), default=default, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: %(default)s)")
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="also list the N most expensive kernels")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON there")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    for name, least in (("steps", 1), ("workers", 0), ("kernels", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name}: expected {least} or more, got {getattr(args, name)}")
    group = processes()
    recipe = changed(load_recipe(args.recipe), args.set)
    if args.batch is not None:
        recipe = changed(recipe, [f"train.batch_size={args.batch}"])
    needed = WARM_UP + READ_AHEAD * args.workers + args.steps
    if recipe.train.steps < needed:
        raise UserError(f"train.steps: expected at least {needed} to measure {args.steps}, got {recipe.train.steps}")
    torch.manual_seed(args.seed)
    teacher = paired(args.teacher, recipe)
    frames = packed_frames(args.frames, recipe, teacher=None if teacher is None else teacher.recipe)
    lidar = None if teacher is None else teacher.recipe.model.lidar
    samples = TrainingSet(frames, recipe, seed=args.seed, teacher=lidar)
    taught = None if teacher is None else Distiller(teacher, recipe)
    found: dict[str, Any] = {
        "machine": machine(),
        "recipe": recipe.name,
        "teacher": args.teacher,
        "samples_per_step": samples_per_step(recipe.train),
        "processes": group.world_size,
        "workers": args.workers,
        "precision": args.precision,
        "seed": args.seed,
    }
    found["training_samples_per_s"] = looped(recipe, samples, args, taught)
    found["memory_gb"] = torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else None
    if group.world_size == 1:
        found["loader_samples_per_s"], one = loaded(recipe, samples, args)
        found |= divided(recipe, one, args, taught)
    if group.first:
        print(json.dumps(found, indent=1))
        if args.out is not None:
            args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def paired(name: str | None, student: Recipe) -> FusionDetector | None:
    """The teacher of a student that is distilled."""
    if (name is None) != (student.distillation is None):
        raise UserError(f"--teacher: expected one with a recipe that distils, none with others; got {name}")
    if name is None:
        return None
    return load_checkpoint(Path(name))[0] if Path(name).is_dir() else FusionDetector(load_recipe(name))


# ------------------------------------------------------------------------------------------------------ whole and parts


class Speed(Callback):
    """Notes when the steps after the warm-up begin and end."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: dict[int, float] = {}

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Between two steps."""
        step = trainer.global_step
        if step in (WARM_UP, WARM_UP + self.steps) and step not in self.times:  # several batches may share a step
            finish()
            self.times[step] = time.perf_counter()

    def seconds(self) -> float:
        """Of ``steps`` steps."""
        return self.times[WARM_UP + self.steps] - self.times[WARM_UP]


def looped(recipe: Recipe, samples: TrainingSet, args: argparse.Namespace, taught: Distiller | None) -> float:
    """Samples a second of training itself."""
    speed = Speed(args.steps)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingOptions(
            out=Path(folder),
            seed=args.seed,
            workers=args.workers,
            precision=PRECISION[args.precision],
            save_every=10**9,
            stop_after=WARM_UP + args.steps,
            progress=False,
        )
        train(recipe, samples, options, distiller=taught, callbacks=[speed])
    return float(samples_per_step(recipe.train) * args.steps / speed.seconds())


def loaded(recipe: Recipe, samples: TrainingSet, args: argparse.Namespace) -> tuple[float, TrainingBatch]:
    """Samples a second of the loading processes alone, and the first batch."""
    options = TrainingOptions(out=Path(), seed=args.seed, workers=args.workers)
    batches = iter(training_loader(samples, recipe, options, start_step=0))
    # What the processes have read ahead is not counted.
    ahead = [next(batches) for _ in range(WARM_UP + READ_AHEAD * args.workers)]
    begin = time.perf_counter()
    for _ in range(args.steps):
        next(batches)
    return recipe.train.batch_size * args.steps / (time.perf_counter() - begin), ahead[0]


def divided(recipe: Recipe, batch: TrainingBatch, args: argparse.Namespace, taught: Distiller | None) -> dict[str, Any]:
    """Milliseconds of the parts of a step on one batch, medians, and what the losses of distillation cost."""
    variants = [Steps(recipe, batch, args.precision, taught)]
    if taught is not None and taught.teaches:
        variants.append(Steps(recipe, batch, args.precision, Unheard(taught)))
    # In turns: what slows the machine down for some seconds is not taken for the losses.
    turns = [[steps.timed() for steps in variants] for _ in range(WARM_UP + args.steps)]
    parts, *without = (medians(one) for one in zip(*turns, strict=True))
    whole = sum(parts.values())
    found: dict[str, Any] = {"device_samples_per_s": 1000 * recipe.train.batch_size / whole, "step_ms": parts}
    if without:
        whole_without = sum(without[0].values())
        found["distillation_losses"] = {"ms": whole - whole_without, "share_of_step": 1 - whole_without / whole}
    if args.kernels:
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
            variants[0].timed()
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        print(record.key_averages().table(sort_by=order, row_limit=args.kernels, max_name_column_width=90))
    return found


class Steps:
    """Steps of training on one batch, part by part; without the loop around them."""

    def __init__(self, recipe: Recipe, batch: TrainingBatch, precision: str, distiller: Distiller | None) -> None:
        self.module = DetectionTraining(recipe, TrainingOptions(out=Path()), distiller=distiller)
        self.module.to(own_device()).train()
        self.lower = autocast_dtype(PRECISION[precision])
        if distiller is not None:
            distiller.onto(own_device(), self.lower)
        self.batch = batch.to(own_device())
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def timed(self) -> dict[str, float]:
        """One step; milliseconds of its parts."""
        watch, device = Watch(), own_device().partition(":")[0]
        with torch.autocast(device, self.lower) if self.lower != torch.float32 else nullcontext():
            losses = self.module.losses(replace(self.batch), begins=watch.begin)  # pixels are not normalised yet
            total = torch.stack(list(losses.values())).sum()
        watch.begin("backward")
        total.backward()
        watch.begin("clipping and optimiser")
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.module.recipe.train.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return watch.end()


class Unheard(Distiller):
    """A teacher that is asked, and whose answers nobody learns from."""

    def __init__(self, other: Distiller) -> None:
        self.config, self.teacher = other.config, other.teacher

    def losses(self, *_: Any) -> dict[str, torch.Tensor]:
        """None."""
        return {}


class Watch:
    """Times of parts that follow each other on the device, without waiting for it between them."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def begin(self, part: str) -> None:
        """A part begins, the one before ends."""
        self._marks.append((part, now()))

    def end(self) -> dict[str, float]:
        """The last part ends; milliseconds of each."""
        self.begin("")
        finish()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return {part: between(start, stop) for (part, start), (_, stop) in pairs}


def now() -> float | torch.cuda.Event:
    """A mark on the device's time line."""
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: float | torch.cuda.Event, stop: float | torch.cuda.Event) -> float:
    """Milliseconds from one mark to another."""
    if isinstance(start, float) or isinstance(stop, float):
        assert isinstance(start, float)
        assert isinstance(stop, float)
        return 1000 * (stop - start)
    return float(start.elapsed_time(stop))


def medians(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each part, warm-up left out."""
    kept = steps[WARM_UP:]
    return {part: statistics.median(step[part] for step in kept) for part in kept[0]}


def finish() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    run(main)
