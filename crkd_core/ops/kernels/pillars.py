"""Kernels of ``crkd_core.ops.pillars``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_POINTS = 16
"""Points of one program of ``decorate_points``."""


def decorate(
    points: Tensor,
    sample: Tensor,
    *,
    lower: Sequence[float],
    size: Sequence[float],
    shape: Sequence[int],
    num_cells: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See ``ops.pillars.decorate``; a cell is ``size`` (x, y, z) large."""
    n, columns = points.shape
    rows = torch.empty(n + 1, columns + 2, dtype=dtype, device=points.device)
    cell = torch.empty(n, dtype=torch.int32, device=points.device)
    decorate_points[(triton.cdiv(n + 1, _POINTS),)](
        points,
        sample,
        rows,
        cell,
        *points.stride(),
        n,
        columns,
        *lower,
        *size,
        *shape,
        num_cells,
        BLOCK_POINTS=_POINTS,
        BLOCK_COLUMNS=triton.next_power_of_2(columns + 2),
        num_warps=4,
    )
    return rows, cell


def forward(rows: Tensor, cell: Tensor, order: Tensor, *, num_cells: int, max_points: int) -> Tensor:
    """(num_cells, C), see ``ops.pillars.pillar_map``."""
    n, channels = len(cell), rows.shape[1]
    result = torch.zeros(num_cells, channels, dtype=rows.dtype, device=rows.device)
    if n:
        pool_pillars[(n,)](
            rows,
            cell,
            order,
            result,
            n,
            channels,
            num_cells,
            max_points,
            BLOCK_SLOTS=triton.next_power_of_2(max_points),
            BLOCK_CHANNELS=triton.next_power_of_2(channels),
            num_warps=4,
        )
    return result


def backward(grad: Tensor, rows: Tensor, cell: Tensor, order: Tensor, *, max_points: int) -> Tensor:
    """The gradient of ``rows``; of equal values in a pillar the first point's gets it, that of an empty slot last."""
    n, channels = len(cell), rows.shape[1]
    result = torch.zeros_like(rows)
    of_padding = torch.zeros(n, channels, dtype=torch.float32, device=rows.device)
    if n:
        gather_gradients[(n,)](
            grad,
            rows,
            cell,
            order,
            result,
            of_padding,
            n,
            channels,
            len(grad),
            max_points,
            BLOCK_SLOTS=triton.next_power_of_2(max_points),
            BLOCK_CHANNELS=triton.next_power_of_2(channels),
            num_warps=4,
        )
    result[n] = of_padding.sum(0).to(result.dtype)
    return result


@triton.jit
def decorate_points(
    points,
    sample,
    rows,
    cell,
    stride_point,
    stride_column,
    n,
    columns,
    lower_x,
    lower_y,
    lower_z,
    size_x,
    size_y,
    size_z,
    nx,
    ny,
    num_cells,
    BLOCK_POINTS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Some points: their rows for the network, and their cells. Row n, an empty slot, is zero."""
    i, j = tl.program_id(0) * BLOCK_POINTS + tl.arange(0, BLOCK_POINTS), tl.arange(0, BLOCK_COLUMNS)
    valid = i < n
    at = points + i * stride_point
    x = tl.load(at, mask=valid, other=0.0)
    y = tl.load(at + stride_column, mask=valid, other=0.0)
    z = tl.load(at + 2 * stride_column, mask=valid, other=0.0)
    # Rounded as on the CPU: a border decides in which cell a point lies.
    ix = tl.floor(tl.div_rn(x - lower_x, size_x))
    iy = tl.floor(tl.div_rn(y - lower_y, size_y))
    iz = tl.floor(tl.div_rn(z - lower_z, size_z))
    inside = (ix >= 0) & (ix < nx) & (iy >= 0) & (iy < ny) & (iz == 0)
    ix, iy = tl.where(inside, ix, 0.0), tl.where(inside, iy, 0.0)
    of_sample = tl.load(sample + i, mask=valid, other=0).to(tl.int32)
    flat = (of_sample * nx + ix.to(tl.int32)) * ny + iy.to(tl.int32)
    tl.store(cell + i, tl.where(inside, flat, num_cells), mask=valid)

    filled = valid[:, None] & (j[None, :] < columns)
    values = tl.load(at[:, None] + j[None, :] * stride_column, mask=filled, other=0.0)
    values = tl.where(j[None, :] == 0, ((x - lower_x) / (nx * size_x))[:, None], values)
    values = tl.where(j[None, :] == 1, ((y - lower_y) / (ny * size_y))[:, None], values)
    values = tl.where(j[None, :] == 2, ((z - lower_z) / size_z)[:, None], values)
    offset_x = x - (ix * size_x + (0.5 * size_x + lower_x))
    offset_y = y - (iy * size_y + (0.5 * size_y + lower_y))
    values = tl.where(j[None, :] == columns, offset_x[:, None], values)
    values = tl.where(j[None, :] == columns + 1, offset_y[:, None], values)
    values = tl.where(valid[:, None], values, 0.0)
    target = rows + i[:, None] * (columns + 2) + j[None, :]
    tl.store(target, values.to(rows.dtype.element_ty), mask=(i[:, None] <= n) & (j[None, :] < columns + 2))


@triton.jit
def pillar_size(cell, i, n, num_cells, max_points, BLOCK_SLOTS: tl.constexpr):
    """Points kept of the pillar that opens at sorted position i; 0 if none opens there, or the points are dropped."""
    own = tl.load(cell + i)
    previous = tl.load(cell + i - 1, mask=i > 0, other=-1)
    slot = tl.arange(0, BLOCK_SLOTS)
    others = tl.load(cell + i + slot, mask=(slot < max_points) & (i + slot < n), other=-1)
    count = tl.sum((others == own).to(tl.int32), axis=0)
    return tl.where((own < num_cells) & (own != previous), count, 0)


@triton.jit
def pool_pillars(
    rows,
    cell,
    order,
    result,
    n,
    channels,
    num_cells,
    max_points,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """One sorted position: the maximum over the pillar that opens there, if one does, to its cell."""
    i = tl.program_id(0)
    count = pillar_size(cell, i, n, num_cells, max_points, BLOCK_SLOTS)
    if count > 0:
        c = tl.arange(0, BLOCK_CHANNELS)
        valid = c < channels
        # The empty slots of a pillar that is not full count as the last row.
        empty = tl.load(rows + n * channels + c, mask=valid & (count < max_points), other=float("-inf"))
        highest = empty.to(tl.float32)
        for slot in range(count):
            point = tl.load(order + i + slot)
            value = tl.load(rows + point * channels + c, mask=valid, other=float("-inf")).to(tl.float32)
            highest = tl.maximum(highest, value)
        target = result + tl.load(cell + i).to(tl.int64) * channels + c
        tl.store(target, highest.to(result.dtype.element_ty), mask=valid)


@triton.jit
def gather_gradients(
    grad,
    rows,
    cell,
    order,
    result,
    of_padding,
    n,
    channels,
    num_cells,
    max_points,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """One sorted position: the gradient of its cell, to the point (or the empty slots) that has the maximum."""
    i = tl.program_id(0)
    count = pillar_size(cell, i, n, num_cells, max_points, BLOCK_SLOTS)
    if count > 0:
        c = tl.arange(0, BLOCK_CHANNELS)
        valid = c < channels
        highest = tl.full([BLOCK_CHANNELS], float("-inf"), tl.float32)
        winner = tl.full([BLOCK_CHANNELS], -1, tl.int32)
        for slot in range(count):
            point = tl.load(order + i + slot)
            value = tl.load(rows + point * channels + c, mask=valid, other=float("-inf")).to(tl.float32)
            winner = tl.where(value > highest, slot, winner)
            highest = tl.maximum(highest, value)
        empty = tl.load(rows + n * channels + c, mask=valid & (count < max_points), other=float("-inf"))
        winner = tl.where(empty.to(tl.float32) > highest, -1, winner)
        value = tl.load(grad + tl.load(cell + i).to(tl.int64) * channels + c, mask=valid, other=0.0).to(tl.float32)
        for slot in range(count):
            point = tl.load(order + i + slot)
            of_point = tl.where(winner == slot, value, 0.0).to(result.dtype.element_ty)
            tl.store(result + point * channels + c, of_point, mask=valid)
        tl.store(of_padding + i * channels + c, tl.where(winner == -1, value, 0.0), mask=valid)
