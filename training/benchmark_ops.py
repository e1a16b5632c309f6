#!/usr/bin/env python3
"""Measure the operations that have a GPU kernel, at the shapes of a recipe, beside the usual ways to compute them.

    training/benchmark_ops.py                              student_r50, batch 1, on the first CUDA device
    training/benchmark_ops.py --batch 4 --out ops.json

Times are medians in milliseconds. ``eager``: launched one by one, the L2 cache cold; ``graph``: replayed from a CUDA
graph, as the detector runs them, the cache warm (a dash where sizes go to or from the processor). Cameras are those of
the simulated vehicle, everything else is random.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import FeatureDistillation, Recipe, load_recipe
from crkd_core.data.synthscenes.config import CameraMount, SynthConfig
from crkd_core.distillation.features import object_mask
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_targets import draw_targets
from crkd_core.models.radar_encoder import RADAR_COLUMNS
from crkd_core.models.view_transform import Splat
from crkd_core.ops.bev_pool import PoolPlan, bev_pool
from crkd_core.ops.pillars import decorate, pillar_map, pillar_map_reference, pillarize


class Measured(NamedTuple):
    """What is measured; ``captured``: also in a graph, which nothing can be that moves sizes to or from the GPU."""

    name: str
    function: Callable[[], object]
    captured: bool = True


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="student_r50", help="name or .yaml file of a camera + radar recipe")
    parser.add_argument("--batch", type=int, default=1, help="samples (default: %(default)s)")
    parser.add_argument("--points", type=int, default=2500, help="radar points per sample (default: %(default)s)")
    parser.add_argument("--boxes", type=int, default=40, help="ground truth per sample (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random inputs (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the times as JSON there")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = arguments()
    if not torch.cuda.is_available():
        raise UserError("benchmark_ops: no CUDA device; the kernels are measured on a GPU only")
    recipe = load_recipe(args.recipe)
    if recipe.model.radar is None or recipe.model.camera is None or recipe.model.camera.view_transform != "lss":
        raise UserError(f"benchmark_ops: --recipe {args.recipe}: expected camera + radar with view_transform lss")
    torch.manual_seed(args.seed)
    machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, seed {args.seed}"
    print(f"{machine}\n{recipe.name}, batch {args.batch}, {args.points} points, {args.boxes} boxes per sample")
    print(f"{'':56} {'eager':>9} {'graph':>9}")
    rows = []
    with torch.device("cuda"):
        for name, function, captured in operations(recipe, args):
            eager, graph = times(function, captured=captured)
            rows.append({"operation": name, "eager_ms": eager, "graph_ms": graph})
            print(f"{name:56} {eager:9.4f} {'-' if graph is None else f'{graph:.4f}':>9}", flush=True)
    if args.out:
        args.out.write_text(
            json.dumps({"machine": machine, "recipe": recipe.name, "batch": args.batch, "times": rows}, indent=1) + "\n"
        )
    return 0


def operations(recipe: Recipe, args: argparse.Namespace) -> Iterator[Measured]:
    """All that is measured."""
    grid = BevGrid.from_config(recipe.bev)
    yield from pooling(recipe, grid, args.batch)
    yield from pillars(recipe, grid, args)
    boxes = [random_boxes(grid, args.boxes) for _ in range(args.batch)]
    labels = [torch.randint(0, 10, (args.boxes,)) for _ in range(args.batch)]
    draw = partial(draw_targets, boxes, labels, grid, recipe.model.head)
    yield Measured("targets: heat maps and slots", draw, captured=False)
    mask = partial(object_mask, boxes, grid, FeatureDistillation())
    yield Measured("targets: object mask", mask, captured=False)


def times(function: Callable[[], object], *, captured: bool) -> tuple[float, float | None]:
    """Median milliseconds, launched one by one and replayed from a graph."""
    from triton.testing import do_bench, do_bench_cudagraph

    eager = float(do_bench(function, warmup=20, rep=60, return_mode="median"))
    return eager, float(do_bench_cudagraph(function, rep=20, return_mode="median")) if captured else None


# ------------------------------------------------------------------------------------------------------------ pooling


def pooling(recipe: Recipe, grid: BevGrid, batch: int) -> Iterator[Measured]:
    """Lift and splat: this project's, by way of every product and an index_add, and as LSS does it."""
    camera, (height, width) = recipe.model.camera, recipe.image.size
    assert camera is not None
    feature_size = height // 8, width // 8
    splat = Splat(camera.channels, image_size=(height, width), feature_size=feature_size, depth=camera.depth, grid=grid)
    geometry = rig(recipe, batch)
    plan = splat.plan(**geometry)
    runs, points = int(plan.starts[-1]), int((plan.cells >= 0).sum())
    print(f"{points} of {plan.cells.numel()} points inside, {runs} runs, {grid.shape[0]} x {grid.shape[1]} cells")
    yield Measured("BEV pooling: cells of all points and plan", partial(splat.plan, **geometry))
    per_pixel = torch.randn(len(geometry["image_sample"]), len(splat.depths) + camera.channels, *feature_size)
    per_pixel = per_pixel.contiguous(memory_format=torch.channels_last)
    yield Measured("BEV pooling: forward, bfloat16", partial(bev_pool, per_pixel.bfloat16(), plan))
    yield Measured("BEV pooling: forward, float16", partial(bev_pool, per_pixel.half(), plan))
    ways = (
        ("BEV pooling", bev_pool, True),
        ("all products, index_add", pooled_by_index_add, True),
        ("all products, sorted, summed", pooled_by_sorting, False),
    )
    for label, way, captured in ways:
        bound = partial(way, plan=plan)
        yield Measured(f"{label}: forward, float32", partial(bound, per_pixel), captured)
        yield Measured(f"{label}: forward + backward, float32", with_backward(bound, per_pixel), captured)


def pooled_by_index_add(per_pixel: Tensor, plan: PoolPlan) -> Tensor:
    """(num_cells, C) by one product for each point and channel."""
    products, cells = lifted(per_pixel, plan)
    num_cells = len(plan.starts) - 1
    target = torch.where(cells < 0, num_cells, cells)
    return products.new_zeros(num_cells + 1, products.shape[1]).index_add(0, target, products)[:num_cells]


def pooled_by_sorting(per_pixel: Tensor, plan: PoolPlan) -> Tensor:
    """(num_cells, C) as in BEVFusion: points inside sorted by cell in every frame, then summed by interval."""
    products, cells = lifted(per_pixel, plan)
    inside = cells >= 0
    products, cells = products[inside], cells[inside]
    lengths = cells.bincount(minlength=len(plan.starts) - 1)
    return torch.segment_reduce(products[cells.argsort()], "sum", lengths=lengths, initial=0)


def lifted(per_pixel: Tensor, plan: PoolPlan) -> tuple[Tensor, Tensor]:
    """(points, C) products of depth and context, and (points,) their cells."""
    bins = plan.cells.shape[2]
    by_column = per_pixel.permute(0, 3, 2, 1)
    depth, context = by_column[..., :bins].softmax(-1).transpose(2, 3), by_column[..., bins:]
    return (depth[..., None] * context[:, :, None]).flatten(0, 3), plan.cells.flatten()


def with_backward(function: Callable[[Tensor], Tensor], values: Tensor) -> Callable[[], object]:
    """A function and its backward pass."""
    leaf = values.clone().requires_grad_()
    grad = torch.randn_like(function(leaf))
    return lambda: torch.autograd.grad(function(leaf), leaf, grad)


def rig(recipe: Recipe, batch: int) -> dict[str, Tensor]:
    """Arguments of ``Splat.plan`` for the simulated vehicle's cameras."""
    config, (height, width) = SynthConfig(), recipe.image.size
    sensor = config.cameras[0].sensor
    scale = recipe.image.resized_width / sensor.width
    resized_height = round(sensor.height * scale)
    augment = torch.tensor(
        [[scale, 0, (width - recipe.image.resized_width) / 2], [0, scale, height - resized_height], [0, 0, 1]]
    )
    cameras = len(config.cameras)
    return {
        "image_sample": torch.arange(batch).repeat_interleave(cameras),
        "intrinsics": torch.stack([intrinsics(camera) for camera in config.cameras]).repeat(batch, 1, 1),
        "T_bev_from_cam": torch.stack(
            [bev_from_camera(camera, config.lidar_translation) for camera in config.cameras]
        ).repeat(batch, 1, 1),
        "image_augment": augment.repeat(batch * cameras, 1, 1),
        "bev_augment": torch.eye(4).repeat(batch, 1, 1),
    }


def intrinsics(camera: CameraMount) -> Tensor:
    """(3, 3)."""
    return torch.tensor([[camera.focal, 0, camera.principal[0]], [0, camera.focal, camera.principal[1]], [0, 0, 1]])


def bev_from_camera(camera: CameraMount, bev_origin: tuple[float, float, float]) -> Tensor:
    """(4, 4): a level optical frame in the BEV frame (x right, y forward)."""
    yaw = math.radians(camera.yaw_deg)
    right, forward = (math.sin(yaw), -math.cos(yaw)), (math.cos(yaw), math.sin(yaw))  # in the vehicle frame
    T_base_from_cam = torch.eye(4)
    T_base_from_cam[:3, :3] = torch.tensor([[*right, 0.0], [0.0, 0.0, -1.0], [*forward, 0.0]]).T
    T_base_from_cam[:3, 3] = torch.tensor(camera.translation)
    T_base_from_bev = torch.eye(4)
    T_base_from_bev[:3, :3] = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    T_base_from_bev[:3, 3] = torch.tensor(bev_origin)
    T_bev_from_cam: Tensor = torch.linalg.inv(T_base_from_bev) @ T_base_from_cam
    return T_bev_from_cam


# ------------------------------------------------------------------------------------------------- pillars and targets


def pillars(recipe: Recipe, grid: BevGrid, args: argparse.Namespace) -> Iterator[Measured]:
    """Everything of the radar pillars but the network on each point."""
    radar = recipe.model.radar
    assert radar is not None
    points = torch.rand(args.batch * args.points, RADAR_COLUMNS)
    points[:, :2] = 100 * points[:, :2] - 50
    sample = torch.arange(args.batch).repeat_interleave(args.points)
    limits = {
        "num_cells": args.batch * grid.cells,
        "batch_size": args.batch,
        "max_points": radar.max_points_per_pillar,
        "max_pillars": radar.max_pillars[1],
    }

    def assign(dtype: torch.dtype) -> object:
        rows, cell = decorate(points, sample, grid, batch_size=args.batch, dtype=dtype)
        return rows, pillarize(cell, sample, **limits)

    _, cell = decorate(points, sample, grid, batch_size=args.batch)
    found = pillarize(cell, sample, **limits)
    for dtype in (torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        rows = torch.randn(len(points) + 1, radar.channels[-1], dtype=dtype)

        def both(dtype: torch.dtype = dtype, rows: Tensor = rows) -> object:
            assign(dtype)
            return pillar_map(rows, found)

        yield Measured(f"pillars: decorate and group, {name}", partial(assign, dtype))
        yield Measured(f"pillars: all but the network, {name}", both)
    for label, way in (("", pillar_map), (", torch", pillar_map_reference)):
        yield Measured(f"pillars: maximum and map, float32{label}", partial(way, rows, found))
        yield Measured(
            f"pillars: the same + backward, float32{label}", with_backward(partial(way, pillars=found), rows)
        )


def random_boxes(grid: BevGrid, count: int) -> Tensor:
    """(count, 9): x, y, z, w, l, h, r, vx, vy."""
    boxes = torch.rand(count, 9)
    boxes[:, :2] = (boxes[:, :2] - 0.5) * 2 * abs(grid.lower[0])
    boxes[:, 3:6] = 1 + 4 * boxes[:, 3:6]
    boxes[:, 6] *= 2 * math.pi
    return boxes


if __name__ == "__main__":
    sys.exit(run(main))
