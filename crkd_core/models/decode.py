"""Head maps to boxes: peaks, box codes, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crkd_core.config import HeadConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import BOX_MAPS, TASK_FIRST_LABEL, TaskMaps
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


@dataclass(frozen=True)
class Peaks:
    """The K highest cells of one task's heat maps over the score threshold, by sample, then by falling score.

    Attributes:
        sample: (K,) int64.
        label: (K,) int64, class within the task.
        row: (K,) int64, cell along x.
        column: (K,) int64, cell along y.
        score: (K,) float32.
    """

    sample: Tensor
    label: Tensor
    row: Tensor
    column: Tensor
    score: Tensor


@torch.no_grad()
def decode(tasks: Sequence[TaskMaps], grid: BevGrid, head: HeadConfig) -> list[Decoded]:
    """Boxes of every sample of a batch. Computes in float32 whatever the maps' type.

    Args:
        tasks: raw head maps, see ``CenterHead``.
        grid: their cells.
        head: score threshold and limits.
    """
    peaks = [find_peaks(maps.heatmap, head) for maps in tasks]
    codes = [gather_codes(maps, p) for maps, p in zip(tasks, peaks, strict=True)]
    return decode_peaks(peaks, codes, grid, head, batch_size=len(tasks[0].heatmap))


def find_peaks(heatmap: Tensor, head: HeadConfig) -> Peaks:
    """The highest cells of a task's heat maps, ``head.max_boxes`` per sample at most.

    Args:
        heatmap: (B, C, nx, ny) logits.
        head: limits.
    """
    batch, classes, nx, ny = heatmap.shape
    logits = heatmap.float().reshape(batch, classes * nx * ny)
    logits, index = logits.topk(min(head.max_boxes, logits.shape[1]))
    scores = logits.sigmoid()
    sample, rank = (scores > head.score_threshold).nonzero(as_tuple=True)
    index = index[sample, rank]
    cell = index % (nx * ny)
    return Peaks(sample, index // (nx * ny), cell // ny, cell % ny, scores[sample, rank])


def gather_codes(maps: TaskMaps, peaks: Peaks) -> Tensor:
    """(K, 10) float32, the box maps of a task at its peaks, in the order of ``BOX_MAPS``."""
    values = [getattr(maps, name)[peaks.sample, :, peaks.row, peaks.column] for name, _ in BOX_MAPS]
    return torch.cat(values, dim=1).float()


@torch.no_grad()
def decode_peaks(
    peaks: Sequence[Peaks], codes: Sequence[Tensor], grid: BevGrid, head: HeadConfig, *, batch_size: int
) -> list[Decoded]:
    """Boxes of every sample, after suppression.

    Args:
        peaks: of each task.
        codes: per task (K, 10), see ``gather_codes``.
        grid: the cells of the maps.
        head: limits.
        batch_size: number of samples B.
    """
    device = peaks[0].score.device
    by_sample: list[list[Decoded]] = [[] for _ in range(batch_size)]
    for task, (found, code) in enumerate(zip(peaks, codes, strict=True)):
        # One suppression needs few boxes and many steps: the CPU does it.
        boxes = peak_boxes(found, code, grid).cpu()
        samples, scores, labels = found.sample.cpu(), found.score.cpu(), found.label.cpu()
        limit = boxes.new_tensor([head.detection_range, head.detection_range, Z_LIMIT])
        valid = (boxes[:, :3].abs() <= limit).all(1)
        for sample, results in enumerate(by_sample):
            pick = valid & (samples == sample)
            results.append(_suppressed(task, boxes[pick], scores[pick], labels[pick], head))
    return [
        Decoded(
            torch.cat([r.boxes for r in results]).to(device),
            torch.cat([r.scores for r in results]).to(device),
            torch.cat([r.labels for r in results]).to(device),
        )
        for results in by_sample
    ]


def peak_boxes(peaks: Peaks, codes: Tensor, grid: BevGrid) -> Tensor:
    """(K, 9) boxes with GEOMETRIC centres: x, y, z, w, l, h, r, vx, vy."""
    offset, z, log_size, heading, velocity = codes.split([channels for _, channels in BOX_MAPS], dim=1)
    cell = torch.stack([peaks.row, peaks.column], dim=1)
    xy = (cell + offset) * codes.new_tensor(grid.cell) + codes.new_tensor(grid.lower)
    r = torch.atan2(heading[:, :1], heading[:, 1:])
    return torch.cat([xy, z, log_size.exp(), r, velocity], dim=1)


def _suppressed(task: int, boxes: Tensor, scores: Tensor, labels: Tensor, head: HeadConfig) -> Decoded:
    radius = CIRCLE_SQUARED_DISTANCE[task]
    if radius is not None:
        kept = nms_circle(boxes[:, :2], scores, radius, max_kept=head.post_max_boxes)
    else:
        scale = torch.tensor(NMS_SIZE_SCALE[task])[labels][:, None]
        flat = torch.cat([boxes[:, :2], boxes[:, 3:5] * scale, boxes[:, 6:7]], dim=1)
        kept = nms_rotated(flat, scores, IOU_THRESHOLD, max_kept=head.post_max_boxes)
    boxes = boxes[kept]
    bottom = boxes[:, 2:3] - 0.5 * boxes[:, 5:6]
    boxes = torch.cat([boxes[:, :2], bottom, boxes[:, 3:]], dim=1)
    return Decoded(boxes, scores[kept], labels[kept] + TASK_FIRST_LABEL[task])
