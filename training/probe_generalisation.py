#!/usr/bin/env python3
"""Compare a detector's own losses on frames that it was trained on with those on others.

    training/pack_synthscenes.py --seeds 0:36 --radar-sweeps 6 --lidar-sweeps 4 --lidar-step 3 --out seen
    training/pack_synthscenes.py --seeds 9600:9636 --radar-sweeps 6 --lidar-sweeps 4 --lidar-step 3 --out unseen
    training/probe_generalisation.py runs/study/{student,student_on,crkd}-seed0/model --seen seen --unseen unseen

Where both are high and alike, it still learns what labels alone teach; where they are apart, it knows its frames by
heart, and a teacher could keep it from that. Every frame, without augmentation, in float32; means over samples of
batches of --batch, in each of which the losses are divided by the objects.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmark_machine import machine  # type: ignore[import-not-found]
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.data.dataset import collate_training
from crkd_core.data.encode import encode_training
from crkd_core.data.packed import PackedFrames, packed_frames
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint, read_sidecar
from crkd_core.training.detection_training import summed
from crkd_core.training.processes import own_device
from crkd_core.training.report import markdown_table

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
    # All is opened before anything is computed: a wrong path or frames without a sensor are known at once.
    recipes = [read_sidecar(path).recipe for path in args.models]
    frames = [tuple(packed_frames(folder, recipe) for folder in (args.seen, args.unseen)) for recipe in recipes]
    seen, unseen = (one.contents.seeds for one in frames[0])
    if both := set(seen) & set(unseen):
        raise UserError(
            f"--unseen {args.unseen}: expected other drives than in --seen, got {len(both)} that are in both"
        )
    settings = {"seen drives": span(seen), "unseen drives": span(unseen), "samples per batch": args.batch}
    print(json.dumps({"machine": machine(), "precision": "fp32", **settings}))
    columns = [f"{kind}, {where}" for kind in KINDS for where in ("seen", "unseen", "gap")]
    print("\n" + markdown_table(["detector", *columns], []))
    for path, pair in zip(args.models, frames, strict=True):
        model = load_checkpoint(path)[0].to(own_device())
        known, others = (own_losses(model, one, args.batch) for one in pair)
        figures = [one for kind in KINDS for one in (known[kind], others[kind], others[kind] - known[kind])]
        cells = [f"{model.recipe.name} ({path})", *(f"{figure:.3f}" for figure in figures)]
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def span(seeds: Sequence[int]) -> str:
    """Seeds of drives in short."""
    return f"{min(seeds)} to {max(seeds)}, {len(seeds)} of them"


@torch.no_grad()
def own_losses(model: FusionDetector, frames: PackedFrames, batch_size: int) -> dict[str, float]:
    """The weighted losses of the head, those of its tasks added up: means over samples of those of their batches."""
    sums = dict.fromkeys(KINDS, 0.0)
    for first in tqdm(range(0, len(frames), batch_size), disable=None, leave=False):
        chosen = range(first, min(first + batch_size, len(frames)))
        samples = [encode_training(frames[i], model.recipe, None) for i in chosen]
        batch = collate_training(samples).to(own_device())
        targets = center_targets(batch.boxes, batch.labels, model.recipe)
        losses = summed(center_loss(model(batch.inputs).joined, targets, model.recipe.model.head))
        for kind in KINDS:
            sums[kind] += losses[kind] * len(samples)
    return {kind: total / len(frames) for kind, total in sums.items()}


if __name__ == "__main__":
    run(main)
