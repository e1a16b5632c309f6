#!/usr/bin/env python3
"""Train a camera + radar student with a frozen camera + LiDAR teacher beside it: CRKD.

    training/distill.py crkd_r50 --teacher runs/teacher_r50/model --student runs/student_r50/model --out runs/crkd ...
    torchrun --nproc-per-node 4 training/distill.py ...                  # the same on four GPUs

The recipe's `distillation` section names the losses; `--set distillation.<loss>.<field>=released` is what the released
code does, the recipe crkd_r50_released all of it. With the weights of all losses set to 0 no teacher is needed: the
student is trained on by itself, which is what a distilled one is to be compared with. The student starts from --student
where it is given (its calibration block fresh), else from random weights. Everything else is as in training/train.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from train import changed, options, train_and_evaluate

from crkd_core.cli import UserError, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.distillation.distiller import Distiller, any_loss
from crkd_core.models.pretrained import load_pretrained
from crkd_core.runtime.checkpoint import load_checkpoint


def main() -> int:
    """Distil."""
    parser = options(__doc__)
    pair = parser.add_argument_group("distillation")
    pair.add_argument("--teacher", type=Path, metavar="CHECKPOINT", help="of a teacher recipe")
    pair.add_argument("--student", type=Path, metavar="CHECKPOINT", help="weights to start from, of a student recipe")
    args = parser.parse_args()
    recipe = changed(load_recipe(args.recipe), args.set)
    start = None if args.student is None else load_checkpoint(args.student)[0].state_dict()
    code: int = train_and_evaluate(args, recipe, distiller=distiller(args, recipe), start=start)
    return code


def distiller(args: argparse.Namespace, recipe: Recipe) -> Distiller | None:
    """The teacher and what is learned from it; None where nothing is, and no teacher is named."""
    if args.teacher is None:
        if recipe.distillation is not None and not any_loss(recipe.distillation):
            return None
        raise UserError("--teacher: expected a checkpoint; only where all losses have weight 0 it may be left out")
    teacher, _ = load_checkpoint(args.teacher)
    if recipe.distillation is not None and recipe.distillation.teacher_backbone == "released":
        if args.pretrained is None:
            raise UserError("distillation.teacher_backbone: 'released' needs --pretrained FILE, ImageNet weights")
        if teacher.camera is not None:  # else the distiller refuses it
            load_pretrained(teacher.camera.backbone, args.pretrained)
    return Distiller(teacher, recipe)


if __name__ == "__main__":
    run(main)
