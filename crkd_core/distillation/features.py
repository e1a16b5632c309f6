"""MSFD, mask-scaling feature distillation: the student's maps equal the teacher's where objects are.

    L = weight * sum over masked cells of (mean over channels of (s - t)^2 / 2) / number of masked cells / 2

The mask holds the cells of all boxes, which grow with range and speed: a far or moving object is located less surely.
The last 2 is the original's batch size; the released code divides by whatever the batch is, see ``batch_divisor``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from crkd_core.config import FeatureDistillation
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_targets import sample_of_each
from crkd_core.models.normaliser import mean_count
from crkd_core.ops.constants import constant


def object_mask(boxes: Sequence[Tensor], grid: BevGrid, config: FeatureDistillation) -> Tensor:
    """(B, nx, ny) bool: the cells of any grown box of each sample; no loop over boxes or cells.

    Args:
        boxes: per sample (n, 9) float32: x, y, z, w, l, h, r, vx, vy (``types.Boxes3D.to_mmdet3d``); n may be 0.
        grid: of the maps.
        config: how boxes grow, and which of their cells count.
    """
    grown = grown_boxes(torch.cat(list(boxes)), config)
    rectangles = (released_rectangles if config.masks == "released" else rectangles_around)(grown, grid)
    return covered_cells(rectangles, sample_of_each(boxes), len(boxes), grid)


def grown_boxes(boxes: Tensor, config: FeatureDistillation) -> Tensor:
    """(n, 9) boxes whose width and length have grown with range, and with the speed along each of them.

    The released code takes vx for the width and vy for the length, although these are axes of the BEV frame and those
    of the box (quirk Q7).
    """
    sizes, speeds = boxes[:, 3:5], boxes[:, 7:9]
    if config.masks == "corrected":
        speeds = (box_axes(boxes) * speeds[:, None]).sum(2)
    distance = torch.linalg.vector_norm(boxes[:, :2], dim=1, keepdim=True)
    # A quarter for a range or speed above its lower bound, a half from its upper bound on; all three at once.
    values = torch.cat([distance, speeds.abs()], dim=1)
    lower, upper = constant([config.ranges, config.speeds, config.speeds], boxes.device).T
    half = values >= upper
    quarters = ((values > lower) | half).float() + half
    grown = sizes + (sizes * (quarters[:, :1] + quarters[:, 1:]) / 4).clamp(*config.growth)
    return torch.cat([boxes[:, :3], grown, boxes[:, 5:]], dim=1)


def rectangles_around(boxes: Tensor, grid: BevGrid) -> Tensor:
    """(n, 4) int64: first row, first column, end row, end column of the cells that hold a box; ends excluded."""
    reach = (box_axes(boxes).abs() * boxes[:, 3:5, None] / 2).sum(1)
    lower, edge, shape = constant([grid.lower, grid.cell, grid.shape], boxes.device).unbind()
    first = ((boxes[:, :2] - reach - lower) / edge).floor()
    end = ((boxes[:, :2] + reach - lower) / edge).ceil()
    return torch.minimum(torch.cat([first, end], dim=1).clamp(min=0), shape.repeat(2)).long()


def box_axes(boxes: Tensor) -> Tensor:
    """(n, 2, 2): unit vectors along the width and along the length, (cos r, -sin r) and (sin r, cos r)."""
    cos, sin = boxes[:, 6].cos(), boxes[:, 6].sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def released_rectangles(boxes: Tensor, grid: BevGrid) -> Tensor:
    """The same from three corners of the ROTATED box, as if it were parallel to the axes (quirk Q7).

    A box across the BEV frame has an empty rectangle, one at 45 degrees a sliver, and the last row and column never
    count.
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


def covered_cells(rectangles: Tensor, sample: Tensor, batch_size: int, grid: BevGrid) -> Tensor:
    """(B, nx, ny) bool: the cells inside any rectangle.

    Args:
        rectangles: (n, 4) int64, see ``rectangles_around``.
        sample: (n,) int64, the sample of each.
        batch_size: B.
        grid: of the maps.
    """
    first_row, first_column, end_row, end_column = rectangles.T
    # Four signed corners each (an empty one cancels); their double running sum counts the rectangles over a cell.
    nx, ny = grid.shape
    row = torch.stack([first_row, first_row, end_row, end_row])
    column = torch.stack([first_column, end_column, first_column, end_column])
    sign = constant([1, -1, -1, 1], rectangles.device)[:, None].expand_as(row)
    edges = torch.zeros(batch_size, nx + 1, ny + 1, dtype=torch.int64, device=rectangles.device)
    edges.view(-1).index_add_(0, ((sample * (nx + 1) + row) * (ny + 1) + column).flatten(), sign.flatten())
    return edges.cumsum(1).cumsum(2)[:, :nx, :ny] > 0


def feature_loss(student: Tensor, teacher: Tensor, mask: Tensor, *, batch_divisor: float) -> Tensor:
    """The loss without its weight, a float32 scalar; 0 where no cell counts.

    Cells in which the teacher is zero in every channel do not count.

    Args:
        student: (B, C, nx, ny).
        teacher: (B, C, nx, ny).
        mask: (B, nx, ny) bool, see ``object_mask``.
        batch_divisor: see ``distiller.batch_divisor``.
    """
    counted = (mask & teacher.any(dim=1)).float()
    squared = F.mse_loss(student.float(), teacher.float(), reduction="none").sum(dim=1)
    factor = 0.5 / (student.shape[1] * batch_divisor)
    return factor * (squared * counted).sum() / mean_count(counted.sum(), least=1)
