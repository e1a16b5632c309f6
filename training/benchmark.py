#!/usr/bin/env python3
"""Measure the models of the recipes.

    training/benchmark.py --describe                      parameters and FLOPs of every shipped recipe
    training/benchmark.py --describe --out docs/models.md

Floating point operations (two per multiplication and addition) are those of convolutions and matrix products in one
forward pass at batch 1: six cameras, 1,200 radar points. They are counted on tensors without content, so no weights are
needed and any machine gives the same. Of a teacher, the sparse convolutions are not among them: their number depends
on the cloud.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import Recipe, load_recipe, recipe_folder
from crkd_core.models.detector import FusionDetector
from crkd_core.models.lidar_encoder import LidarEncoder, MissingSpconvError
from crkd_core.training.report import markdown_table
from crkd_core.types import NetworkInput

CAMERAS = 6
RADAR_POINTS = 1200
PARTS = ("camera", "radar or LiDAR", "fuser", "decoder", "head")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--describe", action="store_true", required=True, help="count parameters and FLOPs")
    parser.add_argument("--recipes", nargs="+", metavar="RECIPE", help="names or .yaml files (default: all shipped)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table as Markdown there")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser.parse_args()


def main() -> int:
    """Describe the recipes."""
    args = arguments()
    names = args.recipes or sorted(path.stem for path in recipe_folder().glob("*.yaml"))
    header = (
        f"torch {torch.__version__} on {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    print(header)
    rows, missing = [], []
    for name in tqdm(names, desc="describe", disable=args.no_progress):
        recipe = load_recipe(name)
        try:
            rows.append(described(recipe))
        except MissingSpconvError as error:
            missing.append(f"{recipe.name}: left out: {error}")
    for line in missing:
        print(line, file=sys.stderr)
    if not rows:
        raise UserError("no recipe could be described")
    table = markdown(rows)
    print(table)
    if args.out is not None:
        write(args.out, table, header)
    return 0


def described(recipe: Recipe) -> list[str]:
    """One row of the table.

    Raises:
        MissingSpconvError: a teacher where spconv is not installed.
    """
    with torch.device("meta"):
        model = FusionDetector(recipe).eval()
        inputs = empty_input(recipe)
    parts: dict[str, nn.Module | None] = {
        "camera": model.camera,
        "radar or LiDAR": model.radar if model.radar is not None else model.lidar,
        "fuser": model.fuser,
        "decoder": model.decoder,
        "head": model.head,
    }
    counts = [sum(p.numel() for p in part.parameters()) if part is not None else 0 for part in parts.values()]
    operations = flops(model, inputs)
    height, width = recipe.image.size
    return [
        f"`{recipe.name}`",
        f"{height}x{width}",
        f"{recipe.bev.nx}x{recipe.bev.ny}",
        *(f"{count / 1e6:.2f}" for count in counts),
        f"**{sum(counts) / 1e6:.2f}**",
        f"{operations / 1e9:.1f}" + (" + LiDAR" if model.lidar is not None else ""),
    ]


def flops(model: FusionDetector, inputs: NetworkInput) -> int:
    """Floating point operations of one forward pass, without those of a LiDAR branch."""

    def empty_map(encoder: LidarEncoder, points: Tensor, _sample: Tensor, batch_size: int) -> Tensor:
        return points.new_zeros(batch_size, encoder.out_channels, *encoder.grid.shape)

    if model.lidar is not None:
        encoder = model.lidar
        encoder.forward = lambda *given: empty_map(encoder, *given)  # type: ignore[method-assign]
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    return int(counter.get_total_flops())


def empty_input(recipe: Recipe) -> NetworkInput:
    """Network input of one sample without content, on the current device."""
    height, width = recipe.image.size
    points = RADAR_POINTS if recipe.model.radar is not None else 0
    return NetworkInput(
        images=torch.empty(CAMERAS, 3, height, width),
        image_sample=torch.empty(CAMERAS, dtype=torch.int64),
        intrinsics=torch.empty(CAMERAS, 3, 3),
        T_bev_from_cam=torch.empty(CAMERAS, 4, 4),
        image_augment=torch.empty(CAMERAS, 3, 3),
        bev_augment=torch.empty(1, 4, 4),
        radar=torch.empty(points, 45),
        radar_sample=torch.empty(points, dtype=torch.int64),
        lidar=torch.empty(0, 5),
        lidar_sample=torch.empty(0, dtype=torch.int64),
    )


def markdown(rows: list[list[str]]) -> str:
    """The table."""
    return markdown_table(["recipe", "images", "BEV cells", *PARTS, "all", "GFLOPs"], rows, words=3)


def write(path: Path, table: str, header: str) -> None:
    """The table with what it means, as a page."""
    page = f"""# The models

Parameters by part, in millions, and floating point operations of one forward pass at batch 1 ({CAMERAS} cameras,
{RADAR_POINTS} radar points), two for each multiplication with its addition. Counted are convolutions and matrix
products; the sparse convolutions of a teacher's LiDAR branch are not, for their number depends on the cloud.

{table}

Made by `training/benchmark.py --describe --out docs/models.md` with {header}.
"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror}") from None
    print(f"written: {path}")


if __name__ == "__main__":
    run(main)
