#!/usr/bin/env python3
"""Look at how hard each loss of a distillation pulls at each part of the student, and whether with or against its own.

    training/probe_distillation.py crkd_study --teacher runs/teacher/model --student runs/student/model --frames FRAMES

Trains as training/distill.py does and stops at the steps of --at. There it prints, for every loss, its value and, for
every part of the detector, the norm of its gradient and the cosine between that and the gradient of the detector's own
losses: means over --batches batches. Weights of losses are chosen by such figures; a loss that pulls hard and against
the others, or not at all, is one to ask questions about.
"""

from __future__ import annotations

import argparse
import itertools
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from benchmark_machine import machine  # type: ignore[import-not-found]
from torch import Tensor, nn
from train import changed

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import load_recipe
from crkd_core.data.dataset import TrainingBatch, TrainingSet
from crkd_core.data.packed import packed_frames
from crkd_core.distillation.distiller import Distiller
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.training.detection_training import DetectionTraining
from crkd_core.training.loading import training_loader
from crkd_core.training.loop import start_from
from crkd_core.training.options import TrainingOptions
from crkd_core.training.processes import own_device
from crkd_core.training.report import markdown_table

PARTS = ("camera", "radar", "fuser", "decoder", "head")
OWN = "detection"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="of the student: a crkd_* recipe, or the path of a .yaml file")
    parser.add_argument("--teacher", type=Path, required=True, metavar="CHECKPOINT", help="of a teacher recipe")
    parser.add_argument("--student", type=Path, metavar="CHECKPOINT", help="weights to start from; default: fresh ones")
    parser.add_argument("--frames", type=Path, required=True, metavar="FOLDER", help="of training/pack_synthscenes.py")
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="KEY=VALUE", help="recipe changes")
    parser.add_argument("--at", type=int, nargs="+", default=[0, 100], metavar="STEP", help="default: 0 100")
    parser.add_argument("--batches", type=int, default=4, help="looked at each time (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loading processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Train, stop, look."""
    args = arguments()
    if args.batches < 1 or min(args.at) < 0:
        raise UserError(f"--batches, --at: expected 1, 0 or more, got {args.batches}, {min(args.at)}")
    recipe = changed(load_recipe(args.recipe), args.set)
    teacher, _ = load_checkpoint(args.teacher)
    frames = packed_frames(args.frames, recipe, teacher=teacher.recipe)
    torch.manual_seed(args.seed)
    distiller = Distiller(teacher, recipe)
    options = TrainingOptions(out=Path(), seed=args.seed, workers=args.workers)
    module = DetectionTraining(recipe, options, distiller=distiller)
    if args.student is not None:
        start_from(module.model, load_checkpoint(args.student)[0].state_dict())
    module.to(own_device()).train()
    distiller.onto(own_device(), torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    schedule = module.configure_optimizers()
    samples = TrainingSet(frames, recipe, seed=args.seed, teacher=teacher.recipe.model.lidar)
    batches = (batch.to(own_device()) for batch in training_loader(samples, recipe, options, start_step=0))
    precision = "bf16" if torch.cuda.is_available() else "fp32"
    print(json.dumps({"machine": machine(), "recipe": recipe.name, "precision": precision, "seed": args.seed}))
    for step in range(max(args.at) + 1):
        if step in args.at:
            print_table(step, [pulls(module, batch) for batch in itertools.islice(batches, args.batches)])
        losses = values(module, next(batches))
        schedule["optimizer"].zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), recipe.train.gradient_clip)
        schedule["optimizer"].step()
        schedule["lr_scheduler"]["scheduler"].step()
    return 0


def values(module: DetectionTraining, batch: TrainingBatch) -> dict[str, Tensor]:
    """The losses of a batch; those of the head's tasks added up, and last the detector's own ones together."""
    with lower_precision():
        losses = module.losses(batch)
    sums: dict[str, Tensor] = {}
    for name, loss in losses.items():
        kind = name.rpartition("/task")[0] or name
        sums[kind] = sums[kind] + loss if kind in sums else loss
    return sums


def lower_precision() -> AbstractContextManager[object]:
    """That of the study on a GPU."""
    return torch.autocast("cuda", torch.bfloat16) if torch.cuda.is_available() else nullcontext()


# -------------------------------------------------------------------------------------------------------------- look


def pulls(module: DetectionTraining, batch: TrainingBatch) -> dict[str, list[float]]:
    """Of each loss its value, then norm and cosine of its gradient for each part; of ``OWN`` as well."""
    losses = values(module, batch)
    losses = {OWN: torch.stack([loss for name, loss in losses.items() if name.startswith(OWN)]).sum(), **losses}
    gradients = {name: gradient(module, loss) for name, loss in losses.items()}
    own = gradients[OWN]
    found = {}
    for name, loss in losses.items():
        parts = [(float(g.norm()), cosine(g, o)) for g, o in zip(gradients[name], own, strict=True)]
        found[name] = [loss.item(), *itertools.chain.from_iterable(parts)]
    return found


def gradient(module: DetectionTraining, loss: Tensor) -> list[Tensor]:
    """One vector for each of ``PARTS``; zeros where the loss does not reach."""
    of_part = [[p for p in getattr(module.model, part).parameters() if p.requires_grad] for part in PARTS]
    parameters = list(itertools.chain.from_iterable(of_part))
    found = iter(torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True))
    return [torch.cat([next(found).flatten() for _ in one]) for one in of_part]


def cosine(one: Tensor, other: Tensor) -> float:
    """Of the angle between two vectors; NaN where one of them is zero."""
    return float(torch.dot(one, other) / (one.norm() * other.norm()))


def print_table(step: int, looks: list[dict[str, list[float]]]) -> None:
    """Means over batches."""
    print(f"\nstep {step}: norm of the gradient (cosine with that of {OWN})\n")
    rows = []
    for name in looks[0]:
        value, *figures = torch.tensor([look[name] for look in looks]).mean(0).tolist()
        cells = [f"{n:.2f} ({c:+.2f})" if n > 0 else "0" for n, c in zip(figures[::2], figures[1::2], strict=True)]
        rows.append([name, f"{value:.3f}", *cells])
    print(markdown_table(["loss", "value", *PARTS], rows), flush=True)


if __name__ == "__main__":
    run(main)
