"""CSRD, cross-stage radar distillation: the radar branch learns where the teacher sees objects.

    L = weight * mean over batch and cells of |A - T|

A is the activation of the student's radar calibration block, T the teacher's objectness.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crkd_core.config import RadarDistillation
from crkd_core.models.center_loss import clamped_score


def radar_loss(radar_activation: Tensor, teacher_logits: Sequence[Tensor], config: RadarDistillation) -> Tensor:
    """The weighted loss, a float32 scalar.

    Args:
        radar_activation: A, (B, 1, nx, ny).
        teacher_logits: heat-map logits of each task, (B, C_task, nx, ny).
        config: weight, and which objectness.
    """
    objectness = released_objectness if config.objectness == "released" else highest_score
    return config.weight * (radar_activation.float() - objectness(teacher_logits)).abs().mean()


def highest_score(logits: Sequence[Tensor]) -> Tensor:
    """T = the highest score of any class; (B, 1, nx, ny) float32."""
    return torch.cat([task.float() for task in logits], dim=1).amax(dim=1, keepdim=True).sigmoid()


def released_objectness(logits: Sequence[Tensor]) -> Tensor:
    """T = mean over tasks of sigmoid(mean over the task's class logits); (B, 1, nx, ny) float32.

    Logits are averaged before the sigmoid, as in the released code (quirk Q12), so T stays far below 1.
    """
    per_task = [clamped_score(task.float().mean(dim=1, keepdim=True)) for task in logits]
    return torch.cat(per_task, dim=1).mean(dim=1, keepdim=True)
