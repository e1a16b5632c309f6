#!/usr/bin/env python3
"""Look at CSRD without the rest of a detector: does the radar branch's activation come to show objects, or does it die?

    training/probe_radar_activation.py weights/student_tiny --balance released
    training/probe_radar_activation.py weights/student_tiny --balance corrected

The radar branch of a trained detector gets a fresh calibration block and learns from CSRD alone, on simulated key
frames, with the schedule of crkd_study. The truth stands in the teacher's place: no teacher could show objects better.
Prints, as it learns, what other key frames show: the share of cells with an activation, its mean where objects are and
elsewhere, and how well it tells these apart before its ReLU (area under the ROC curve; 0.5: not at all).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from benchmark_machine import machine  # type: ignore[import-not-found]
from torch import Tensor, nn
from train import changed

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import RadarDistillation, Recipe, load_recipe
from crkd_core.data.dataset import TrainingBatch, TrainingSet, collate_training
from crkd_core.data.simulated import prerendered, simulated_keys
from crkd_core.distillation.radar import radar_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.radar_encoder import RadarEncoder
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.training.schedule import learning_rate_factor, optimizer

BATCH = 8
FRAMES_PER_DRIVE = 4
LOOKED_AT = 32
"""Key frames that are not learned from."""
OBJECT = 0.3
"""Height of the truth's heat map above which a cell counts as an object's."""


@dataclass(frozen=True)
class Found:
    """What the activation shows; see the head of this file."""

    step: int
    active: float
    at_objects: float
    elsewhere: float
    roc_area: float

    def row(self) -> str:
        """Of a table."""
        return (
            f"| {self.step} | {self.active:.3f} | {self.at_objects:.3f} | {self.elsewhere:.3f} | {self.roc_area:.2f} |"
        )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a detector with radars")
    parser.add_argument(
        "--balance", choices=("released", "corrected"), default="corrected", help="default: %(default)s"
    )
    parser.add_argument("--learning-rate", type=float, help="default: that of crkd_study")
    parser.add_argument("--steps", type=int, default=400, help=f"of {BATCH} samples (default: %(default)s)")
    parser.add_argument("--drives", type=int, default=50, help=f"to learn from, {FRAMES_PER_DRIVE} key frames each")
    parser.add_argument("--every", type=int, default=100, help="steps between two looks (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and augmentation (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="simulating processes (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Simulate, train, look."""
    args = arguments()
    for name in ("steps", "drives", "every", "jobs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}: expected 1 or more, got {getattr(args, name)}")
    torch.manual_seed(args.seed)
    schedule = load_recipe("crkd_study").train
    if args.learning_rate is not None:
        schedule = msgspec.structs.replace(schedule, learning_rate=args.learning_rate)
    encoder, recipe = fresh_calibration(args.checkpoint)
    print(json.dumps({"machine": machine(), "precision": "fp32", "seed": args.seed, "rate": schedule.learning_rate}))
    held = LOOKED_AT // FRAMES_PER_DRIVE
    keys = simulated_keys(range(args.drives + held), frames_per_drive=FRAMES_PER_DRIVE)
    sweeps = encoder.config.sweeps
    frames = prerendered(keys, image_width=0, radar_sweeps=sweeps, cameras=False, jobs=args.jobs)
    learned, others = frames[: FRAMES_PER_DRIVE * args.drives], frames[FRAMES_PER_DRIVE * args.drives :]
    looked_at = list(batches(TrainingSet(others, recipe, seed=args.seed, augment=False), len(others) // BATCH))
    adamw = optimizer(encoder, schedule, samples=BATCH)
    rate = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: learning_rate_factor(step, schedule))
    config = RadarDistillation(balance=args.balance)
    print(f"\nCSRD, balance {args.balance}, learning rate {schedule.learning_rate:g}, {args.steps} steps of {BATCH}\n")
    print("| step | cells with activation | mean at objects | elsewhere | area under the ROC curve |")
    print("| ---: " * 5 + "|")
    print(look(encoder, looked_at, recipe, step=0).row(), flush=True)
    for step, batch in enumerate(batches(TrainingSet(learned, recipe, seed=args.seed), args.steps), start=1):
        _, activation = encoder(batch.inputs.radar, batch.inputs.radar_sample, BATCH)
        loss = radar_loss(activation, truth(batch, recipe).logit(eps=1e-4), config)
        adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), schedule.gradient_clip)
        adamw.step()
        rate.step()
        if step % args.every == 0 or step == args.steps:
            print(look(encoder, looked_at, recipe, step=step).row(), flush=True)
    return 0


def fresh_calibration(checkpoint: Path) -> tuple[RadarEncoder, Recipe]:
    """A detector's radar branch with a new calibration block, and the recipe of a detector of that branch alone."""
    detector, _ = load_checkpoint(checkpoint)
    if detector.radar is None:
        raise UserError(f"{checkpoint}: expected a detector with radars; '{detector.recipe.name}' has none")
    recipe = changed(load_recipe("radar_tiny"), ["model.radar.calibration=true"])
    assert recipe.model.radar is not None
    encoder = RadarEncoder(recipe.model.radar, detector.grid)
    encoder.point_layers.load_state_dict(detector.radar.point_layers.state_dict())
    return encoder.train(), recipe


def batches(samples: TrainingSet, count: int) -> Iterator[TrainingBatch]:
    """One after the other, epoch after epoch."""
    for i in range(count):
        places = [divmod(BATCH * i + j, len(samples)) for j in range(BATCH)]
        yield collate_training([samples[place] for place in places])


def truth(batch: TrainingBatch, recipe: Recipe) -> Tensor:
    """(B, 10, nx, ny): the heat maps that the teacher of a perfect world would answer."""
    return center_targets(batch.boxes, batch.labels, recipe).heatmap


@torch.no_grad()
def look(encoder: RadarEncoder, looked_at: list[TrainingBatch], recipe: Recipe, *, step: int) -> Found:
    """What the activation shows."""
    assert encoder.activation_head is not None
    encoder.eval()
    answers, objects = [], []
    for batch in looked_at:
        bev, _ = encoder(batch.inputs.radar, batch.inputs.radar_sample, BATCH)
        answers.append(encoder.activation_head[0](bev).flatten())
        objects.append((truth(batch, recipe).amax(1) > OBJECT).flatten())
    encoder.train()
    answer, seen = torch.cat(answers), torch.cat(objects)
    activation = answer.relu()
    return Found(
        step,
        float((activation > 0).float().mean()),
        float(activation[seen].mean()),
        float(activation[~seen].mean()),
        roc_area(answer, seen),
    )


def roc_area(answer: Tensor, seen: Tensor) -> float:
    """The probability that a cell with an object answers more than one without."""
    rank = torch.empty_like(answer, dtype=torch.float64)
    rank[answer.argsort()] = torch.arange(1.0, len(answer) + 1.0, dtype=torch.float64)
    positive, negative = int(seen.sum()), int((~seen).sum())
    return (float(rank[seen].sum()) - positive * (positive + 1) / 2) / (positive * negative)


if __name__ == "__main__":
    run(main)
