"""RespD, response distillation: the student's head answers as the teacher's does.

    L = sum over tasks of task weight * (heatmap weight * H + box weight * S)

H is a quality focal loss between the heat maps, S a smooth L1 between the box codes weighted by the teacher's scores.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crkd_core.config import ResponseDistillation
from crkd_core.models.center_head import JoinedMaps
from crkd_core.models.center_loss import clamped_score, code_weights, named_by_task, sum_by_task
from crkd_core.models.center_targets import CODES
from crkd_core.models.normaliser import greatest, mean_count
from crkd_core.ops.constants import constant

BOX_SCORE_STEP = 0.01
BOX_FACTOR = 10.0


def response_loss(student: JoinedMaps, teacher: JoinedMaps, config: ResponseDistillation) -> dict[str, Tensor]:
    """The weighted losses of all tasks; their plain sum is the response loss. In float32, without autocast.

    Args:
        student: raw maps.
        teacher: raw maps of the same sizes.
        config: weights and thresholds.

    Returns:
        ``heatmap/task0``, ..., ``box/task0``, ... scalars, float32.
    """
    with torch.autocast(student.heatmap.device.type, enabled=False):
        score = clamped_score(teacher.heatmap)
        weight = constant(config.task_weights, score.device)
        heatmap = heatmap_losses(student.heatmap, score, center_score=config.center_score)
        box = box_losses(
            student.codes.float(),
            teacher.codes.float(),
            sum_by_task(score, dim=1),
            box_score=config.box_score,
            velocity_weight=config.velocity_weight,
        )
        return named_by_task(config.heatmap_weight * weight * heatmap, config.box_weight * weight * box)


def heatmap_losses(logits: Tensor, score: Tensor, *, center_score: float) -> Tensor:
    """H: sum of BCE(p, y) |p - y|^2 over the cells, by the number of cells with y above ``center_score`` (at least 1).

    Args:
        logits: of the student, (B, 10, nx, ny).
        score: y of the teacher, (B, 10, nx, ny).
        center_score: what normalises.

    Returns:
        (T,), of each task.
    """
    p = clamped_score(logits)
    loss = F.binary_cross_entropy(p, score, reduction="none") * (p - score).square()
    centers = sum_by_task((score > center_score).sum((0, 2, 3)))
    return sum_by_task(loss.sum((0, 2, 3))) / mean_count(centers, least=1)


def box_losses(student: Tensor, teacher: Tensor, score: Tensor, *, box_score: float, velocity_weight: float) -> Tensor:
    """S: smooth L1 between the box codes, weighted by the teacher's score, mean over the cells that count and codes.

    Args:
        student: (B, nx * ny, T, 10).
        teacher: (B, nx * ny, T, 10).
        score: y of the teacher, added up over the classes of each task, (B, T, nx, ny).
        box_score: cells whose score is higher count; lowered by hundredths for each task until there is one.
        velocity_weight: of the last two codes; the others have 1.

    Returns:
        (T,), of each task.
    """
    score = score.flatten(2).transpose(1, 2)
    # The largest of box_score, box_score - 0.01, ... that some cell exceeds; found without asking the device.
    steps = ((box_score - greatest(score.amax((0, 1)))) / BOX_SCORE_STEP).floor().clamp(min=-1) + 1
    counted = (score > box_score - BOX_SCORE_STEP * steps).float()
    by_code = F.smooth_l1_loss(student, teacher, reduction="none") * code_weights(velocity_weight, student.device)
    distance = by_code.sum(3) * (score * counted)
    return BOX_FACTOR / CODES * distance.sum((0, 1)) / mean_count(counted.sum((0, 1)), least=1)
