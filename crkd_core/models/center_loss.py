"""Detection loss of the CenterHead: Gaussian focal loss on heat maps, L1 on box codes. Always in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crkd_core.config import HeadConfig
from crkd_core.models.center_head import BOX_MAPS, TaskMaps
from crkd_core.models.center_targets import CODES, TaskTargets
from crkd_core.models.normaliser import mean_count

BOX_WEIGHT = 0.25
"""Weight of the box loss."""

SCORE_CLAMP = 1e-4
"""Scores are kept this far from 0 and 1."""


def center_loss(tasks: Sequence[TaskMaps], targets: Sequence[TaskTargets], head: HeadConfig) -> dict[str, Tensor]:
    """The losses of all tasks; their plain sum is the detection loss.

    Args:
        tasks: raw head maps.
        targets: see ``center_targets``.
        head: weight of the velocity codes.

    Returns:
        ``heatmap/task0``, ``box/task0``, ... scalars, float32.
    """
    losses = {}
    device_type = tasks[0].heatmap.device.type
    with torch.autocast(device_type, enabled=False):
        for i, (maps, target) in enumerate(zip(tasks, targets, strict=True)):
            losses[f"heatmap/task{i}"] = heatmap_loss(maps.heatmap.float(), target.heatmap)
            losses[f"box/task{i}"] = box_loss(maps, target, head.velocity_code_weight)
    return losses


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Gaussian focal loss (alpha 2, gamma 4), summed, per centre in the batch of all processes.

    Args:
        logits: (B, C, nx, ny) float32.
        target: (B, C, nx, ny) float32 in [0, 1]; 1 exactly at centres.
    """
    score = clamped_score(logits)
    center = target == 1
    positive = -torch.log(score) * (1 - score) ** 2
    negative = -torch.log(1 - score) * score**2 * (1 - target) ** 4
    return torch.where(center, positive, negative).sum() / mean_count(center.sum(), least=1)


def box_loss(maps: TaskMaps, target: TaskTargets, velocity_weight: float) -> Tensor:
    """Weighted L1 distance of the box codes, per box in the batch of all processes; NaN targets are left out."""
    cells = target.cells[..., None]
    predicted = torch.cat(
        [
            values.flatten(2).transpose(1, 2).gather(1, cells.expand(-1, -1, channels)).float()
            for values, channels in ((getattr(maps, name), channels) for name, channels in BOX_MAPS)
        ],
        dim=-1,
    )
    weight = predicted.new_ones(CODES)
    weight[-2:] = velocity_weight
    known = target.mask[..., None] & ~target.codes.isnan()
    distance = torch.where(known, predicted - target.codes.nan_to_num(), 0.0).abs()
    return BOX_WEIGHT * (distance * weight).sum() / mean_count(target.mask.sum(), plus=1e-4)


def clamped_score(logits: Tensor) -> Tensor:
    """Sigmoid kept away from 0 and 1, where its logarithm would not be finite."""
    return logits.sigmoid().clamp(SCORE_CLAMP, 1 - SCORE_CLAMP)
