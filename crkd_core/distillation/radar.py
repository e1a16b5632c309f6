"""CSRD, cross-stage radar distillation: the radar branch learns where the teacher sees objects.

    L = weight * mean over batch and cells of w |A - T|

A is the activation of the student's radar calibration block, T the teacher's objectness. w is 1 where the teacher sees
an object; elsewhere it is the number of such cells by the number of others, so that both count alike (released: 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from crkd_core.config import RadarDistillation
from crkd_core.models.center_head import TASKS
from crkd_core.models.center_loss import clamped_score
from crkd_core.models.normaliser import mean_count


def radar_loss(radar_activation: Tensor, teacher_logits: Tensor, config: RadarDistillation) -> Tensor:
    """The weighted loss, a float32 scalar.

    Args:
        radar_activation: A, (B, 1, nx, ny).
        teacher_logits: of all classes, (B, 10, nx, ny) float32, see ``center_head.JoinedMaps``.
        config: weight, which objectness, and how much cells count.
    """
    score = highest_score(teacher_logits)
    objectness = released_objectness(teacher_logits) if config.objectness == "released" else score
    distance = (radar_activation.float() - objectness).abs()
    if config.balance == "corrected":
        seen = score > config.object_score
        distance = distance * torch.where(seen, 1.0, mean_count(seen.sum()) / mean_count((~seen).sum(), least=1))
    return config.weight * distance.mean()


def highest_score(logits: Tensor) -> Tensor:
    """T = the highest score of any class; (B, 10, nx, ny) -> (B, 1, nx, ny)."""
    return logits.amax(dim=1, keepdim=True).sigmoid()


def released_objectness(logits: Tensor) -> Tensor:
    """T = mean over tasks of sigmoid(mean over the task's class logits); (B, 10, nx, ny) -> (B, 1, nx, ny).

    Logits are averaged before the sigmoid, as in the released code (quirk Q12), so T stays far below 1.
    """
    by_task = [task.mean(dim=1) for task in logits.split([len(task) for task in TASKS], dim=1)]
    return clamped_score(torch.stack(by_task, dim=1)).mean(dim=1, keepdim=True)
