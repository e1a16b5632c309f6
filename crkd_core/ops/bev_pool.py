"""Lift-splat pooling: image features, spread along their rays by a depth distribution, summed into BEV cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CONTINUES, DROPPED = -1, -2
"""Roles of points that do not open a run, see ``PoolPlan``."""

_POINTS_PER_PARTIAL = 8
"""The kernel stores the sum of one run for so many points. Level cameras have about 20 points in a run, images turned
by 5 degrees 8; further runs are summed without being stored, which takes longer."""


@dataclass(frozen=True)
class PoolPlan:
    """Which points fall into which cell: all of the pooling that depends on the geometry only.

    Point (m, u, d, v) of image m lies on the ray of the pixel of column u and row v, in depth bin d. A RUN is a
    sequence of rows v of equal m, u, d and cell. On a CPU each point is a run of its own.

    Attributes:
        cells: (M, W, D, H) int32, cell of each point; -1: dropped.
        order: (M * W * D * H,) int64, flat positions of the points that open a run, sorted by cell, then by position;
            the rest is arbitrary.
        starts: (num_cells + 1,) int64, ``order[starts[i]:starts[i + 1]]`` are the runs of cell i.
        roles: (M, W, D, H) int32: position in ``order`` of a point that opens a run, else CONTINUES or DROPPED. Empty
            on a CPU.
    """

    cells: Tensor
    order: Tensor
    starts: Tensor
    roles: Tensor


def pool_plan(cells: Tensor, num_cells: int) -> PoolPlan:
    """The plan of a geometry. All its shapes follow from those of the arguments.

    Args:
        cells: (M, W, D, H) int32, cell of each of D points on the ray of each pixel, columns first; -1 drops the point.
        num_cells: number of cells.
    """
    if cells.device.type != "cpu":
        return plan_of_runs(cells, num_cells)
    order, starts = _sorted_by_cell(torch.where(cells < 0, num_cells, cells), num_cells)
    return PoolPlan(cells, order, starts, cells[:0])


def plan_of_runs(cells: Tensor, num_cells: int) -> PoolPlan:
    """``pool_plan`` for the kernels: with runs of many rows."""
    cells = cells.contiguous()
    inside = cells >= 0
    opens = inside.clone()
    opens[..., 1:] &= cells[..., 1:] != cells[..., :-1]
    order, starts = _sorted_by_cell(torch.where(opens, cells, num_cells), num_cells)
    position = torch.arange(len(order), dtype=torch.int32, device=cells.device)
    rank = torch.empty_like(position).scatter_(0, order, position).view(cells.shape)
    return PoolPlan(cells, order, starts, torch.where(opens, rank, inside.int() + DROPPED))  # DROPPED + 1: CONTINUES


def _sorted_by_cell(cells: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """``PoolPlan.order`` and ``starts`` of the points whose cell is less than ``num_cells``."""
    ordered, order = torch.sort(cells.flatten(), stable=True)
    return order, torch.searchsorted(ordered, torch.arange(num_cells + 1, dtype=torch.int32, device=cells.device))


def bev_pool(per_pixel: Tensor, plan: PoolPlan) -> Tensor:
    """Spread the context of each pixel along its ray by the softmax of its depth logits, and sum it by cell.

    Never materialises the M x H x W x D x C products. Sums are float32 at least, and always in the same order: equal
    input gives equal bits.

    Args:
        per_pixel: (M, D + C, H, W) float16, bfloat16, float32 (or float64 on a CPU), any strides: D depth logits, then
            C channels of context. M, H and W may be 0.
        plan: see ``pool_plan``, on the same device.

    Returns:
        (num_cells, C) of the type of ``per_pixel``; zero where no point falls. Differentiable in ``per_pixel``.

    Raises:
        ValueError: shapes that do not fit together, or a plan made on a CPU for a GPU.
    """
    images, columns, bins, rows = plan.cells.shape
    if per_pixel.dim() != 4 or per_pixel.shape[1] < bins or per_pixel[:, 0].shape != (images, rows, columns):
        raise ValueError(
            f"bev_pool: expected per_pixel (M, D + C, H, W) with M, H, W, D = {images, rows, columns, bins} as in the "
            f"plan; got {tuple(per_pixel.shape)}"
        )
    if per_pixel.device.type != "cpu" and plan.roles.shape != plan.cells.shape:
        raise ValueError(f"bev_pool: the plan was made on a CPU, per_pixel is on {per_pixel.device}; make it there")
    pooled: Tensor = _pool(per_pixel, plan.cells, plan.order, plan.starts, plan.roles)
    return pooled


def bev_pool_reference(per_pixel: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    """What ``bev_pool`` computes, spelled out; ``cells`` as in ``pool_plan``. Materialises every product."""
    by_column = per_pixel.permute(0, 3, 2, 1)
    depth, context = by_column[..., : cells.shape[2]].softmax(-1), by_column[..., cells.shape[2] :]
    points = depth.transpose(2, 3)[..., None] * context[:, :, None]
    target = torch.where(cells < 0, num_cells, cells).flatten()
    pooled = points.new_zeros(num_cells + 1, context.shape[-1])
    return pooled.index_add(0, target, points.flatten(0, 3))[:num_cells]


@torch.library.custom_op("crkd::bev_pool", mutates_args=())
def _pool(per_pixel: Tensor, cells: Tensor, order: Tensor, starts: Tensor, roles: Tensor) -> Tensor:
    bins = cells.shape[2]
    if cells.numel() == 0:
        return per_pixel.new_zeros(len(starts) - 1, per_pixel.shape[1] - bins)
    if per_pixel.device.type != "cpu":
        from crkd_core.ops.kernels import bev_pool as kernels

        max_partial = -(-cells.numel() // _POINTS_PER_PARTIAL)
        return kernels.forward(
            per_pixel, roles, order, starts, channels=per_pixel.shape[1] - bins, max_partial=max_partial
        )
    depth, context = _by_pixel(per_pixel, bins)
    points = order[: starts[-1]]
    weights = depth.transpose(1, 2).reshape(-1)[points]
    pixels = _pixel_of_point(points, *cells.shape[2:])
    pooled = F.embedding_bag(pixels, context, starts[:-1], mode="sum", per_sample_weights=weights)
    return pooled.to(per_pixel.dtype)


@_pool.register_fake
def _(per_pixel: Tensor, cells: Tensor, order: Tensor, starts: Tensor, roles: Tensor) -> Tensor:
    return per_pixel.new_empty(starts.shape[0] - 1, per_pixel.shape[1] - cells.shape[2])


@torch.library.custom_op("crkd::bev_pool_backward", mutates_args=())
def _pool_backward(grad: Tensor, per_pixel: Tensor, cells: Tensor) -> Tensor:
    if cells.numel() == 0:
        return torch.zeros_like(per_pixel)
    if per_pixel.device.type != "cpu":
        from crkd_core.ops.kernels import bev_pool as kernels

        return kernels.backward(grad.contiguous(), per_pixel, cells)
    images, columns, bins, rows = cells.shape
    depth, context = _by_pixel(per_pixel, bins)
    table = torch.cat([grad, grad.new_zeros(1, grad.shape[1])]).to(context.dtype)
    index = torch.where(cells < 0, len(grad), cells).long().transpose(2, 3).reshape(-1, bins)
    weights = depth.reshape(-1, bins)
    grad_context = F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)
    # <table[index[p, d]], context[p]>: what the backward of an embedding bag computes for its weights.
    pixels, offsets = torch.arange(len(index)), torch.arange(len(index)) * bins
    grad_depth = torch.ops.aten._embedding_bag_per_sample_weights_backward(  # noqa: SLF001
        context, table, index.flatten(), offsets, pixels.repeat_interleave(bins), 0
    ).view(-1, bins)
    grad_logits = weights * (grad_depth - (weights * grad_depth).sum(1, keepdim=True))
    result = torch.empty_like(per_pixel)
    by_pixel = torch.cat([grad_logits, grad_context], dim=1)
    result.copy_(by_pixel.view(images, columns, rows, -1).permute(0, 3, 2, 1))
    return result


@_pool_backward.register_fake
def _(grad: Tensor, per_pixel: Tensor, cells: Tensor) -> Tensor:
    return torch.empty_like(per_pixel)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    per_pixel, cells, *_ = inputs
    ctx.save_for_backward(per_pixel, cells)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _pool_backward(grad, *ctx.saved_tensors), None, None, None, None


_pool.register_autograd(_differentiate, setup_context=_save)


def _by_pixel(per_pixel: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """(M * W, H, D) depth weights and (M * W * H, C) context, the pixels column by column, in float32 at least."""
    by_column = per_pixel.permute(0, 3, 2, 1)
    by_column = by_column if by_column.dtype == torch.float64 else by_column.float()
    depth = by_column[..., :bins].softmax(-1).flatten(0, 1)
    return depth, by_column[..., bins:].reshape(-1, by_column.shape[-1] - bins)


def _pixel_of_point(points: Tensor, bins: int, rows: int) -> Tensor:
    """Position (m * W + u) * H + v of the pixel of each point, whose position is ((m * W + u) * D + d) * H + v."""
    return points // (bins * rows) * rows + points % rows
