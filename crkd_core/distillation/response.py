"""RespD, response distillation: the student's head answers as the teacher's does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from crkd_core.models.center_head import BOX_MAPS, TaskMaps
from crkd_core.models.center_loss import clamped_score

TASK_WEIGHTS = (2.0, 2.0, 2.0, 1.0, 2.0, 1.0)
"""Tasks of classes that move count twice."""
CENTER_SCORE = 0.3
"""Teacher scores above it normalise the heat-map loss."""
BOX_SCORE, BOX_SCORE_STEP = 0.1, 0.01
"""Cells whose teacher scores add up to more count in the box loss; lowered step by step until there is one."""
BOX_FACTOR, BOX_WEIGHT = 10.0, 4.0


def response_loss(
    student: Sequence[TaskMaps], teacher: Sequence[TaskMaps], *, weights: Sequence[float] = TASK_WEIGHTS
) -> dict[str, Tensor]:
    """The losses of all tasks, weighted; their plain sum is the response loss. In float32, without autocast.

    Args:
        student: raw maps.
        teacher: raw maps of the same sizes.
        weights: of each task.

    Returns:
        ``heatmap/task0``, ``box/task0``, ... scalars, float32.
    """
    losses = {}
    with torch.autocast(student[0].heatmap.device.type, enabled=False):
        for i, (s, t, weight) in enumerate(zip(student, teacher, weights, strict=True)):
            score = clamped_score(t.heatmap.float())
            losses[f"heatmap/task{i}"] = weight * heatmap_loss(s.heatmap.float(), score)
            losses[f"box/task{i}"] = weight * box_loss(_codes(s), _codes(t), score)
    return losses


def heatmap_loss(logits: Tensor, score: Tensor) -> Tensor:
    """Sum of BCE(p, y) |p - y|^2 over the cells, by the number of cells with y above ``CENTER_SCORE`` (at least 1).

    Args:
        logits: of the student, (B, C, nx, ny).
        score: y of the teacher, (B, C, nx, ny).
    """
    p = clamped_score(logits)
    loss = F.binary_cross_entropy(p, score, reduction="none") * (p - score).square()
    return loss.sum() / (score > CENTER_SCORE).sum().clamp(min=1)


def box_loss(student: Tensor, teacher: Tensor, score: Tensor) -> Tensor:
    """Smooth L1 between the box codes, weighted by the teacher's score, mean over the cells that count.

    Args:
        student: (B, 10, nx, ny).
        teacher: (B, 10, nx, ny).
        score: y of the teacher, (B, C, nx, ny).
    """
    total = score.sum(dim=1, keepdim=True)
    # The largest of 0.10, 0.09, ... that some cell exceeds; found without asking the device.
    steps = ((BOX_SCORE - total.max()) / BOX_SCORE_STEP).floor().clamp(min=-1) + 1
    counted = (total > BOX_SCORE - BOX_SCORE_STEP * steps).float()
    distance = F.smooth_l1_loss(student, teacher, reduction="none") * BOX_FACTOR * total
    return BOX_WEIGHT * (distance * counted).sum() / (counted.sum().clamp(min=1) * student.shape[1])


def _codes(maps: TaskMaps) -> Tensor:
    return torch.cat([getattr(maps, name).float() for name, _ in BOX_MAPS], dim=1)
