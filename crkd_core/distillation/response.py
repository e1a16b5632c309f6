"""RespD, response distillation: the student's head answers as the teacher's does.

    L = sum over tasks of task weight * (heatmap weight * H + box weight * S)

H is a quality focal loss between the heat maps, S a smooth L1 between the box codes weighted by the teacher's scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from crkd_core.config import ResponseDistillation
from crkd_core.models.center_head import BOX_MAPS, TaskMaps
from crkd_core.models.center_loss import clamped_score
from crkd_core.models.normaliser import greatest, mean_count

BOX_SCORE_STEP = 0.01
BOX_FACTOR = 10.0


def response_loss(
    student: Sequence[TaskMaps], teacher: Sequence[TaskMaps], config: ResponseDistillation
) -> dict[str, Tensor]:
    """The weighted losses of all tasks; their plain sum is the response loss. In float32, without autocast.

    Args:
        student: raw maps.
        teacher: raw maps of the same sizes.
        config: weights and thresholds.

    Returns:
        ``heatmap/task0``, ``box/task0``, ... scalars, float32.
    """
    losses = {}
    with torch.autocast(student[0].heatmap.device.type, enabled=False):
        for i, (s, t, weight) in enumerate(zip(student, teacher, config.task_weights, strict=True)):
            score = clamped_score(t.heatmap.float())
            heatmap = heatmap_loss(s.heatmap.float(), score, center_score=config.center_score)
            box = box_loss(_codes(s), _codes(t), score, box_score=config.box_score)
            losses[f"heatmap/task{i}"] = weight * config.heatmap_weight * heatmap
            losses[f"box/task{i}"] = weight * config.box_weight * box
    return losses


def heatmap_loss(logits: Tensor, score: Tensor, *, center_score: float) -> Tensor:
    """H: sum of BCE(p, y) |p - y|^2 over the cells, by the number of cells with y above ``center_score`` (at least 1).

    Args:
        logits: of the student, (B, C, nx, ny).
        score: y of the teacher, (B, C, nx, ny).
        center_score: what normalises.
    """
    p = clamped_score(logits)
    loss = F.binary_cross_entropy(p, score, reduction="none") * (p - score).square()
    return loss.sum() / mean_count((score > center_score).sum(), least=1)


def box_loss(student: Tensor, teacher: Tensor, score: Tensor, *, box_score: float) -> Tensor:
    """S: smooth L1 between the box codes, weighted by the teacher's score, mean over the cells that count and codes.

    Args:
        student: (B, 10, nx, ny).
        teacher: (B, 10, nx, ny).
        score: y of the teacher, (B, C, nx, ny).
        box_score: cells whose scores add up to more count; lowered by hundredths until there is one.
    """
    total = score.sum(dim=1, keepdim=True)
    # The largest of box_score, box_score - 0.01, ... that some cell exceeds; found without asking the device.
    steps = ((box_score - greatest(total.max())) / BOX_SCORE_STEP).floor().clamp(min=-1) + 1
    counted = (total > box_score - BOX_SCORE_STEP * steps).float()
    distance = F.smooth_l1_loss(student, teacher, reduction="none") * BOX_FACTOR * total
    return (distance * counted).sum() / (mean_count(counted.sum(), least=1) * student.shape[1])


def _codes(maps: TaskMaps) -> Tensor:
    return torch.cat([getattr(maps, name).float() for name, _ in BOX_MAPS], dim=1)
