"""Head maps to boxes: peaks, box codes, non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crkd_core.config import HeadConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import TASK_FIRST_LABEL, TaskMaps
from crkd_core.ops.nms import nms_circle, nms_rotated

Z_LIMIT = 10.0
"""Boxes whose centre lies beyond +- this height are dropped, m."""

IOU_THRESHOLD = 0.2
"""Overlap of rotated boxes, in the tasks that use it, above which the weaker one is dropped."""

CIRCLE_SQUARED_DISTANCE: tuple[float | None, ...] = (4.0, None, None, 1.0, None, None)
"""By task: squared metres between centres at which the weaker box is dropped; None: the task uses rotated IoU."""

NMS_SIZE_SCALE: tuple[tuple[float, ...], ...] = ((1.0,), (1.0, 1.0), (1.0, 1.0), (1.0,), (1.0, 1.0), (2.5, 4.0))
"""By task and class: width and length are multiplied by this for non-maximum suppression only."""


@dataclass(frozen=True)
class Decoded:
    """Boxes of one sample, task by task, by falling score within each task; on the device of the maps.

    Attributes:
        boxes: (N, 9) float32: x, y, z of the BOTTOM centre, w, l, h, r, vx, vy in the BEV frame, the original's
            encoding (``types.Boxes3D.from_mmdet3d`` reads it).
        scores: (N,) float32.
        labels: (N,) int64, positions in ``DETECTION_CLASSES``.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@torch.no_grad()
def decode(tasks: tuple[TaskMaps, ...], grid: BevGrid, head: HeadConfig) -> list[Decoded]:
    """Boxes of every sample of a batch. Computes in float32 whatever the maps' type.

    Args:
        tasks: raw head maps, see ``CenterHead``.
        grid: their cells.
        head: score threshold and limits.
    """
    peaks = [task_peaks(maps, grid, head) for maps in tasks]
    return [_suppressed([(b[i], s[i], c[i], v[i]) for b, s, c, v in peaks], head) for i in range(len(peaks[0][0]))]


def task_peaks(maps: TaskMaps, grid: BevGrid, head: HeadConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The highest cells of a task's heat maps as boxes, before suppression.

    Args:
        maps: raw maps of one task.
        grid: their cells.
        head: limits.

    Returns:
        (B, K, 9) boxes with GEOMETRIC centres, (B, K) scores by falling score, (B, K) class within the task, and (B, K)
        bool: score and centre within the limits. K is ``head.max_boxes``, or less on a small grid.
    """
    batch, classes, nx, ny = maps.heatmap.shape
    logits = maps.heatmap.float().reshape(batch, classes * nx * ny)
    scores, index = logits.topk(min(head.max_boxes, logits.shape[1]))
    scores = scores.sigmoid()
    label, cell = index // (nx * ny), index % (nx * ny)

    def at_cell(values: Tensor) -> Tensor:
        flat = values.flatten(2).transpose(1, 2)
        return flat.gather(1, cell[..., None].expand(-1, -1, flat.shape[2])).float()

    reg, rot = at_cell(maps.reg), at_cell(maps.rot)
    x = (cell // ny + reg[..., 0]) * grid.cell[0] + grid.lower[0]
    y = (cell % ny + reg[..., 1]) * grid.cell[1] + grid.lower[1]
    center = torch.cat([x[..., None], y[..., None], at_cell(maps.height)], dim=-1)
    yaw = torch.atan2(rot[..., 0], rot[..., 1])[..., None]
    boxes = torch.cat([center, at_cell(maps.dim).exp(), yaw, at_cell(maps.vel)], dim=-1)
    limit = center.new_tensor([head.detection_range, head.detection_range, Z_LIMIT])
    valid = (scores > head.score_threshold) & (center.abs() <= limit).all(-1)
    return boxes, scores, label, valid


def _suppressed(peaks: list[tuple[Tensor, Tensor, Tensor, Tensor]], head: HeadConfig) -> Decoded:
    device = peaks[0][0].device
    boxes, scores, labels = [], [], []
    for task, (task_boxes, task_scores, task_labels, valid) in enumerate(zip(*_on_host(peaks), strict=True)):
        b, s, c = task_boxes[valid], task_scores[valid], task_labels[valid]
        radius = CIRCLE_SQUARED_DISTANCE[task]
        if radius is not None:
            kept = nms_circle(b[:, :2], s, radius, max_kept=head.post_max_boxes)
        else:
            scale = torch.tensor(NMS_SIZE_SCALE[task])[c][:, None]
            flat = torch.cat([b[:, :2], b[:, 3:5] * scale, b[:, 6:7]], dim=1)
            kept = nms_rotated(flat, s, IOU_THRESHOLD, max_kept=head.post_max_boxes)
        boxes.append(b[kept])
        scores.append(s[kept])
        labels.append(c[kept] + TASK_FIRST_LABEL[task])
    merged = torch.cat(boxes)
    merged[:, 2] -= 0.5 * merged[:, 5]
    return Decoded(merged.to(device), torch.cat(scores).to(device), torch.cat(labels).to(device))


def _on_host(peaks: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[list[Tensor]]:
    """Boxes, scores, labels, validity, each a list by task, brought to the CPU in one go each."""
    counts = [len(p[1]) for p in peaks]
    return [list(torch.cat(column).cpu().split(counts)) for column in zip(*peaks, strict=True)]
