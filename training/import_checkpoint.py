#!/usr/bin/env python3
"""Convert a checkpoint of the original CRKD code (.pth) into one of ours, or, with --export, the other way.

    training/import_checkpoint.py epoch_20.pth --out checkpoints/crkd_r50
    training/import_checkpoint.py distiller.pth --part teacher --out checkpoints/teacher_r50
    training/import_checkpoint.py checkpoints/crkd_r50 --export crkd_r50.pth

Teachers, students, baselines and distillers are recognised by their entries. Files are read without running any code in
them. What does not fit is listed, and nothing is written then unless --partial is given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import load_recipe
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint, save_checkpoint
from crkd_core.runtime.official import OfficialFile, Part, converted, read_official, write_official


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a .pth of the original, or with --export a checkpoint folder")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, metavar="FOLDER", help="checkpoint folder to write")
    target.add_argument("--export", type=Path, metavar="FILE", help="write a .pth for the original code")
    parser.add_argument("--recipe", help="recipe of the weights, a name or a .yaml file (default: recognised)")
    parser.add_argument(
        "--part", choices=("student", "teacher"), help="which model of a distiller (default: its student)"
    )
    parser.add_argument(
        "--partial", action="store_true", help="write although entries are missing, left over or differ"
    )
    return parser.parse_args()


def main() -> int:
    """Convert."""
    args = arguments()
    if args.export is not None:
        if args.recipe or args.part or args.partial:
            raise UserError(
                "--recipe, --part and --partial: for an import only; an export is always of the whole model"
            )
        model, checkpoint = load_checkpoint(args.source)
        write_official(args.export, model, checkpoint.recipe)
        print(f"written: {args.export} (recipe {checkpoint.recipe.name})")
        return 0
    file = read_official(args.source)
    part: Part = args.part or file.parts[0]
    recipe = load_recipe(args.recipe or file.recipe_name(part))
    print(f"{args.source}: {'distiller' if file.distilled else part}; its {part} as recipe {recipe.name}")
    model = FusionDetector(recipe)
    conversion = converted(file, model, part)
    print(conversion.report())
    if not conversion.complete and not args.partial:
        raise UserError(
            f"{args.source}: does not fit recipe {recipe.name} (see above); name the right --recipe, or add --partial "
            "to keep fresh values where entries are missing"
        )
    if file.distilled and part == "teacher":
        print(
            "note: the released code reloads ImageNet weights into the camera backbone of a distiller's teacher before "
            "it trains; a teacher's own checkpoint may be the better one",
            file=sys.stderr,
        )
    model.load_state_dict(conversion.weights, strict=False)
    provenance = {"imported_from": args.source.name, "part": part, "official": plain(file)}
    if not conversion.complete:
        provenance["incomplete"] = conversion.report()
    print(f"checkpoint: {save_checkpoint(args.out, model, recipe, provenance=provenance)}")
    return 0


def plain(file: OfficialFile) -> dict[str, Any]:
    """The short values of its meta (epoch, iteration, versions), ready for JSON."""
    short = {str(key): value for key, value in file.meta.items() if isinstance(value, (bool, int, float, str))}
    return {key: value for key, value in short.items() if len(str(value)) <= 100}


if __name__ == "__main__":
    run(main)
