"""CSRD, cross-stage radar distillation: the radar branch learns where the teacher sees objects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crkd_core.models.center_loss import clamped_score


def objectness(logits: Sequence[Tensor]) -> Tensor:
    """The teacher's objectness T = mean over tasks of sigmoid(mean over the task's class logits).

    Logits are averaged before the sigmoid, as in the released code (quirk Q12), so T stays far below 1.

    Args:
        logits: heat-map logits of each task, (B, C_task, nx, ny).

    Returns:
        (B, 1, nx, ny) float32.
    """
    per_task = [clamped_score(task.float().mean(dim=1, keepdim=True)) for task in logits]
    return torch.cat(per_task, dim=1).mean(dim=1, keepdim=True)


def radar_loss(radar_activation: Tensor, teacher_logits: Sequence[Tensor]) -> Tensor:
    """Mean |A - T| over batch and cells; the released weight is 100.

    Args:
        radar_activation: A, (B, 1, nx, ny), of the calibration block.
        teacher_logits: see ``objectness``.
    """
    return (radar_activation.float() - objectness(teacher_logits)).abs().mean()
