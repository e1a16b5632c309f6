"""Training targets of the CenterHead, drawn for a whole batch at once on the device of the boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crkd_core.config import HeadConfig, Recipe
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import TASK_FIRST_LABEL, TASK_OF_LABEL, TASKS
from crkd_core.ops.constants import constant
from crkd_core.ops.gaussians import draw_gaussians
from crkd_core.types import DETECTION_CLASSES

CODES = 10
"""Numbers that describe a box: dx, dy, z, ln w, ln l, ln h, sin r, cos r, vx, vy."""


@dataclass(frozen=True)
class TaskTargets:
    """Targets of one task, see ``CenterTargets``: heatmap (B, C, nx, ny), codes (B, S, 10), cells and mask (B, S)."""

    heatmap: Tensor
    codes: Tensor
    cells: Tensor
    mask: Tensor


@dataclass(frozen=True)
class CenterTargets:
    """Targets of all T tasks.

    Attributes:
        heatmap: (B, 10, nx, ny) float32, a Gaussian around the cell of each box of each class; 1 in that cell.
        codes: (B, T, S, 10) float32, see ``CODES``; slots of a sample's boxes class by class. NaN velocity: unknown.
        cells: (B, T, S) int64, ``ix * ny + iy`` of each slot.
        mask: (B, T, S) bool, slots that hold a box.
    """

    heatmap: Tensor
    codes: Tensor
    cells: Tensor
    mask: Tensor

    def tasks(self) -> tuple[TaskTargets, ...]:
        """Those of each task; views."""
        return tuple(
            TaskTargets(self.heatmap[:, first : first + len(task)], self.codes[:, t], self.cells[:, t], self.mask[:, t])
            for t, (task, first) in enumerate(zip(TASKS, TASK_FIRST_LABEL, strict=True))
        )


def center_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor], recipe: Recipe) -> CenterTargets:
    """Targets for a recipe's grid and head, see ``draw_targets``."""
    return draw_targets(boxes, labels, BevGrid.from_config(recipe.bev), recipe.model.head)


@torch.no_grad()
def draw_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor], grid: BevGrid, head: HeadConfig) -> CenterTargets:
    """Targets of every task.

    Boxes without width or length, or whose centre lies outside the grid, leave their slot empty; so do boxes
    beyond the ``head.max_boxes`` slots. Cells are found by truncation: a centre up to one cell below the lower border
    counts into the first cell, as in the original.

    Args:
        boxes: per sample (n, 9) float32: x, y, z of the bottom centre, w, l, h, r, vx, vy in the augmented BEV frame
            (``types.Boxes3D.to_mmdet3d``). n may be 0.
        labels: per sample (n,) int64, positions in ``DETECTION_CLASSES``; negative ones are ignored.
        grid: the cells of the maps.
        head: radius and slot limits.
    """
    batch, classes = len(boxes), len(DETECTION_CLASSES)
    sample, box, label = sample_of_each(boxes), torch.cat(list(boxes)).float(), torch.cat(list(labels))
    lower, edge, shape = constant([grid.lower, grid.cell, grid.shape], box.device).unbind()
    position = (box[:, :2] - lower) / edge
    cell = position.long()
    inside = ((position > -1) & (cell < shape)).all(1)
    valid = inside & (box[:, 3:5] > 0).all(1) & (label >= 0)

    width, length = (box[:, 3:5] / edge).unbind(1)
    radius = gaussian_radius(length, width, head.gaussian_overlap).nan_to_num().long().clamp(min=head.min_radius)
    plane = torch.where(valid, sample * classes + label, -1)
    heatmap = draw_gaussians(plane, cell, radius, [batch * classes, *grid.shape]).view(batch, classes, *grid.shape)
    code, flat_cell = _box_codes(box, position - cell), cell[:, 0] * grid.shape[1] + cell[:, 1]
    slots = (batch, len(TASKS), head.max_boxes)
    codes, cells, mask = _fill_slots(sample, label, code, flat_cell, valid, shape=slots)
    return CenterTargets(heatmap, codes, cells, mask)


def sample_of_each(boxes: Sequence[Tensor]) -> Tensor:
    """(N,) int64 on the device of the boxes: the sample that each of all boxes belongs to."""
    counts = torch.tensor([len(of_sample) for of_sample in boxes], device="cpu")
    samples = torch.arange(len(boxes), device="cpu")
    return torch.repeat_interleave(samples, counts).to(boxes[0].device, non_blocking=True)


def gaussian_radius(length: Tensor, width: Tensor, overlap: float) -> Tensor:
    """Radius in cells within which a box of this size (cells) still overlaps as much, by CornerNet's three cases.

    As in the original, each case takes the root ``(b + sqrt) / 2`` whatever its leading coefficient.
    """
    cases = [
        (4.0, 16.0, 16 * overlap),  # 4 a
        (1.0, 2.0, -2 * overlap),  # b, by length + width
        ((1 - overlap) / (1 + overlap), 1 - overlap, overlap - 1),  # c, by area
    ]
    four_a, linear, last = constant(cases, length.device, length.dtype).unbind()
    b, c = linear * (length + width)[:, None], last * (length * width)[:, None]
    return ((b + torch.sqrt(b.square() - four_a * c)) / 2).amin(1)


def _fill_slots(
    sample: Tensor,
    label: Tensor,
    code: Tensor,
    flat_cell: Tensor,
    valid: Tensor,
    *,
    shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """The codes (B, T, S, 10), cells (B, T, S) and mask (B, T, S) of all slots; ``shape`` is (B, T, S)."""
    (batch, tasks, slots), classes = shape, len(DETECTION_CLASSES)
    # Ignored boxes form a class and a task of their own, behind all others.
    label = torch.where(label >= 0, label, classes)
    task = constant([*TASK_OF_LABEL, tasks], label.device)[label]
    # Boxes of a sample and task, class by class, in their order: stable sort, then count from the start of the group.
    order = torch.sort(sample * (classes + 1) + label, stable=True).indices
    ordered = (sample * (tasks + 1) + task)[order]
    start = torch.searchsorted(ordered, ordered)
    slot = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device) - start)
    dropped = batch * tasks * slots
    index = torch.where(valid & (slot < slots), (sample * tasks + task) * slots + slot, dropped)

    codes = code.new_zeros(dropped + 1, CODES).index_copy_(0, index, code)
    cells = flat_cell.new_zeros(dropped + 1).scatter_(0, index, flat_cell)
    mask = torch.zeros(dropped + 1, dtype=torch.bool, device=label.device).scatter_(0, index, valid)
    return codes[:-1].view(*shape, CODES), cells[:-1].view(shape), mask[:-1].view(shape)


def _box_codes(box: Tensor, offset: Tensor) -> Tensor:
    """(N, 10), see ``CODES``; ``offset`` (N, 2) is the position of the centre in its cell, cells."""
    geometric_z = box[:, 2:3] + 0.5 * box[:, 5:6]
    heading = [torch.sin(box[:, 6:7]), torch.cos(box[:, 6:7])]
    return torch.cat([offset, geometric_z, box[:, 3:6].log(), *heading, box[:, 7:9]], dim=1)
