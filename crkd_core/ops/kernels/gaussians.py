"""Kernel of ``crkd_core.ops.gaussians``."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 32
"""Cells of a row that are drawn at once."""


def draw(plane: Tensor, cell: Tensor, radius: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """See ``ops.gaussians.draw_gaussians``."""
    planes, nx, ny = shape
    maps = torch.zeros(shape, dtype=torch.float32, device=cell.device)
    if len(plane):
        draw_box[(len(plane),)](
            plane,
            cell,
            radius,
            maps.view(torch.int32),
            *cell.stride(),
            planes,
            nx,
            ny,
            BLOCK_COLUMNS=_COLUMNS,
            num_warps=1,
        )
    return maps


@triton.jit
def draw_box(
    plane,
    cell,
    radius,
    maps,
    stride_box,
    stride_axis,
    planes,
    nx,
    ny,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One Gaussian. Numbers from 0 on compare like the integers of the same bits, of which any GPU has a maximum."""
    box = tl.program_id(0)
    own = tl.load(plane + box)
    if (own >= 0) & (own < planes):
        x, y = tl.load(cell + box * stride_box), tl.load(cell + box * stride_box + stride_axis)
        reach = tl.load(radius + box)
        sigma = (2 * reach + 1).to(tl.float32) / 6
        for row in range(tl.maximum(x - reach, 0), tl.minimum(x + reach + 1, nx)):
            for first in range(tl.maximum(y - reach, 0), tl.minimum(y + reach + 1, ny), BLOCK_COLUMNS):
                column = first + tl.arange(0, BLOCK_COLUMNS)
                squared = ((row - x) * (row - x) + (column - y) * (column - y)).to(tl.float32)
                value = tl.exp(-squared / (2 * sigma * sigma))
                drawn = (column <= y + reach) & (column < ny)
                at = maps + (own * nx + row) * ny + column
                tl.atomic_max(at, value.to(tl.int32, bitcast=True), mask=drawn)
