#!/usr/bin/env python3
"""Compare a detector's own losses on frames that it was trained on with those on others.

    training/pack_synthscenes.py --seeds 0:36 --radar-sweeps 6 --lidar-sweeps 4 --lidar-step 3 --out seen
    training/pack_synthscenes.py --seeds 9600:9636 --radar-sweeps 6 --lidar-sweeps 4 --lidar-step 3 --out unseen
    training/probe_generalisation.py runs/study/{student,student_on,crkd}-seed0/model --seen seen --unseen unseen

Where both are high and alike, it still learns what labels alone teach; where they are apart, it knows its frames by
heart, and a teacher could keep it from that. No augmentation, float32; means over batches of --batch samples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from benchmark_machine import machine  # type: ignore[import-not-found]
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.data.dataset import TrainingBatch, TrainingSet, collate_training
from crkd_core.data.packed import PackedFrames
from crkd_core.data.sampling import Position
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.training.loop import summed
from crkd_core.training.processes import own_device

KINDS = ("heatmap", "box")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="CHECKPOINT", help="of one detector each")
    for name, words in (("seen", "they were trained on"), ("unseen", "of other drives")):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FOLDER", help=f"packed frames {words}")
    parser.add_argument("--batch", type=int, default=8, help="samples (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """A row for each checkpoint."""
    args = arguments()
    if args.batch < 1:
        raise UserError(f"--batch: expected 1 or more, got {args.batch}")
    print(json.dumps({"machine": machine(), "precision": "fp32", "samples per batch": args.batch}))
    columns = [f"{kind}, {where}" for kind in KINDS for where in ("seen", "unseen", "gap")]
    print("\n| detector | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for folder in args.models:
        model, checkpoint = load_checkpoint(folder)
        both = [
            own_losses(model.to(own_device()), samples(where, model), args.batch) for where in (args.seen, args.unseen)
        ]
        figures = [number for kind in KINDS for number in with_gap(*(losses[kind] for losses in both))]
        name = f"{checkpoint.recipe.name} ({folder})"
        print(f"| {name} | " + " | ".join(f"{number:.3f}" for number in figures) + " |", flush=True)
    return 0


def with_gap(seen: float, unseen: float) -> tuple[float, float, float]:
    """Both, and how much more the second is."""
    return seen, unseen, unseen - seen


def samples(folder: Path, model: FusionDetector) -> TrainingSet:
    """Packed frames as the detector reads them, without augmentation."""
    frames = PackedFrames(folder, lidar_sweeps=model.recipe.lidar_sweeps)
    frames.check(model.recipe)
    return TrainingSet(frames, model.recipe, augment=False)


@torch.no_grad()
def own_losses(model: FusionDetector, of: TrainingSet, batch_size: int) -> dict[str, float]:
    """The weighted losses of the head, those of its tasks added up: means over batches."""
    found: list[dict[str, float]] = []
    for first in tqdm(range(0, len(of), batch_size), disable=None, leave=False):
        chosen = range(first, min(first + batch_size, len(of)))
        batch: TrainingBatch = collate_training([of[Position(0, i)] for i in chosen]).to(own_device())
        targets = center_targets(batch.boxes, batch.labels, model.recipe)
        found.append(summed(center_loss(model(batch.inputs).joined, targets, model.recipe.model.head)))
    return {kind: sum(losses[kind] for losses in found) / len(found) for kind in KINDS}


if __name__ == "__main__":
    run(main)
