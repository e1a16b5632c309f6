"""Gaussians drawn into heat maps, their maximum where they meet."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("crkd::draw_gaussians", mutates_args=())
def draw_gaussians(plane: Tensor, cell: Tensor, radius: Tensor, shape: list[int]) -> Tensor:
    """Maps of Gaussians around cells; nothing to differentiate.

    Standard deviation is ``(2 * radius + 1) / 6`` cells; beyond ``radius`` rows or columns nothing is drawn.

    Args:
        plane: (N,) int64, map of each Gaussian; one without such a map is left out. N may be 0.
        cell: (N, 2) int64, row and column of the middle, which may lie outside.
        radius: (N,) int64.
        shape: number of maps, rows and columns.

    Returns:
        (maps, rows, columns) float32; exactly 1 in the middles.
    """
    planes, rows, columns = shape
    if cell.device.type != "cpu":
        from crkd_core.ops.kernels import gaussians as kernels

        return kernels.draw(plane, cell, radius, (planes, rows, columns))
    return draw_gaussians_reference(plane, cell, radius, shape)


@draw_gaussians.register_fake
def _(plane: Tensor, cell: Tensor, radius: Tensor, shape: list[int]) -> Tensor:
    return cell.new_empty(shape, dtype=torch.float32)


def draw_gaussians_reference(plane: Tensor, cell: Tensor, radius: Tensor, shape: list[int]) -> Tensor:
    """What ``draw_gaussians`` computes, in torch: every window as large as the largest."""
    planes, rows, columns = shape
    maps = torch.zeros(planes * rows * columns + 1, device=cell.device)
    if len(plane) == 0:
        return maps[:-1].view(shape)
    reach = int(radius.max())
    steps = torch.arange(-reach, reach + 1, device=cell.device)
    row, column = cell[:, 0, None] + steps, cell[:, 1, None] + steps
    near = steps.abs() <= radius[:, None]
    row_ok, column_ok = near & (row >= 0) & (row < rows), near & (column >= 0) & (column < columns)
    sigma = (2 * radius + 1).float() / 6
    squared = (steps[:, None] ** 2 + steps**2).float()
    values = torch.exp(-squared / (2 * sigma**2)[:, None, None])
    index = (plane[:, None, None] * rows + row[:, :, None]) * columns + column[:, None]
    kept = ((plane >= 0) & (plane < planes))[:, None, None] & row_ok[:, :, None] & column_ok[:, None]
    index = torch.where(kept, index, len(maps) - 1)
    maps.scatter_reduce_(0, index.flatten(), values.flatten(), "amax")
    return maps[:-1].view(shape)
