"""MSFD, mask-scaling feature distillation: the student's maps equal the teacher's where objects are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crkd_core.geometry.grid import BevGrid

NEAR, FAR = 20.0, 30.0
"""Ranges beyond which a box grows by a quarter and by half of its size, m."""
SLOW, FAST = 0.3, 0.8
"""Speeds beyond which it grows by as much again, m/s."""
GROWTH = (0.5, 4.0)
"""Least and greatest growth, m."""


def scaled_boxes(boxes: Tensor) -> Tensor:
    """Boxes whose width and length grow with range and speed, as the released code does it.

    Width goes with vx and length with vy, although these are axes of the BEV frame and those of the box (quirk Q7).

    Args:
        boxes: (n, 9) float32: x, y, z, w, l, h, r, vx, vy (``types.Boxes3D.to_mmdet3d``).
    """
    sizes, speeds = boxes[:, 3:5], boxes[:, 7:9].abs()
    distance = torch.linalg.vector_norm(boxes[:, :2], dim=1, keepdim=True)
    by_range = torch.where(distance >= FAR, 0.5, torch.where(distance > NEAR, 0.25, 0.0))
    by_speed = torch.where(speeds >= FAST, 0.5, torch.where(speeds > SLOW, 0.25, 0.0))
    grown = sizes + (sizes * (by_range + by_speed)).clamp(*GROWTH)
    return torch.cat([boxes[:, :3], grown, boxes[:, 5:]], dim=1)


def mask_rectangles(boxes: Tensor, grid: BevGrid) -> Tensor:
    """(n, 4) int64: first row, first column, end row, end column of each box's rectangle of cells; ends excluded.

    From three corners of the ROTATED box, as if it were parallel to the axes: a box across the BEV frame has an empty
    rectangle, one at 45 degrees a sliver, and the last row and column never count (quirk Q7).
    """
    half_w, half_l = boxes[:, 3] / 2, boxes[:, 4] / 2
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    # Corners 0 (-w, -l), 2 (-w, +l) and 4 (+w, -l) of the original's numbering.
    x0 = boxes[:, 0] - half_w * cos - half_l * sin
    x4 = boxes[:, 0] + half_w * cos - half_l * sin
    y0 = boxes[:, 1] + half_w * sin - half_l * cos
    y2 = boxes[:, 1] + half_w * sin + half_l * cos
    ends = []
    for pair, axis in (((x0, x4), 0), ((y0, y2), 1)):
        cells = ((torch.stack(pair) - grid.lower[axis]) / grid.cell[axis]).to(torch.int64)  # towards zero
        ends.append(cells.clamp(0, grid.shape[axis] - 1))
    rows, columns = ends
    return torch.stack([rows.amin(0), columns.amin(0), rows.amax(0), columns.amax(0)], dim=1)


def object_mask(boxes: Sequence[Tensor], grid: BevGrid) -> Tensor:
    """(B, nx, ny) bool: the cells inside any rectangle of each sample; no loop over boxes or cells.

    Args:
        boxes: per sample (n, 9); n may be 0.
        grid: of the maps.
    """
    counts = [len(sample) for sample in boxes]
    rectangles = mask_rectangles(torch.cat(list(boxes)), grid)
    sample = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor(counts)).to(rectangles.device)
    first_row, first_column, end_row, end_column = rectangles.T
    # Four signed corners each (an empty one cancels); their double running sum counts the rectangles over a cell.
    nx, ny = grid.shape
    edges = torch.zeros(len(boxes), nx + 1, ny + 1, dtype=torch.int64, device=rectangles.device)
    one = torch.ones_like(sample)
    for row, column, sign in (
        (first_row, first_column, 1),
        (first_row, end_column, -1),
        (end_row, first_column, -1),
        (end_row, end_column, 1),
    ):
        edges.index_put_((sample, row, column), sign * one, accumulate=True)
    return edges.cumsum(1).cumsum(2)[:, :nx, :ny] > 0


def feature_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Sum over masked cells of mean over channels of (s - t)^2 / 2, by masked cells and by batch; released weight 10.

    Cells in which the teacher is zero in every channel do not count. 0 without any cell.

    Args:
        student: (B, C, nx, ny).
        teacher: (B, C, nx, ny).
        mask: (B, nx, ny) bool, see ``object_mask``.
    """
    student, teacher = student.float(), teacher.float()
    counted = (mask & (teacher != 0).any(dim=1)).float()
    squared = 0.5 * (student - teacher).square().mean(dim=1)
    return (squared * counted).sum() / counted.sum().clamp(min=1) / len(student)
