"""Detection loss of the CenterHead: Gaussian focal loss on heat maps, L1 on box codes. Always in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from crkd_core.config import HeadConfig
from crkd_core.models.center_head import TASK_OF_LABEL, TASKS, JoinedMaps
from crkd_core.models.center_targets import CODES, CenterTargets
from crkd_core.models.normaliser import mean_count
from crkd_core.ops.constants import constant

BOX_WEIGHT = 0.25
"""Weight of the box loss."""

SCORE_CLAMP = 1e-4
"""Scores are kept this far from 0 and 1."""


def center_loss(maps: JoinedMaps, targets: CenterTargets, head: HeadConfig) -> dict[str, Tensor]:
    """The losses of all tasks; their plain sum is the detection loss.

    Args:
        maps: raw.
        targets: see ``center_targets``.
        head: weight of the velocity codes.

    Returns:
        ``heatmap/task0``, ..., ``box/task0``, ... scalars, float32.
    """
    with torch.autocast(maps.heatmap.device.type, enabled=False):
        heatmap = heatmap_losses(maps.heatmap, targets.heatmap)
        box = box_losses(maps.codes, targets, head.velocity_code_weight)
    return named_by_task(heatmap, box)


def heatmap_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Gaussian focal loss (alpha 2, gamma 4), summed, per centre in the batch of all processes; (T,) float32.

    With w the score of the wrong answer, 1 - p at centres and p elsewhere, and y the target::

        L = -log(1 - w) w^2 * (1 at centres, (1 - y)^4 elsewhere)

    Args:
        logits: (B, 10, nx, ny) float32.
        target: (B, 10, nx, ny) float32 in [0, 1]; 1 exactly at centres.
    """
    center = target == 1
    wrong = clamped_score(torch.where(center, -logits, logits))
    weight = torch.where(center, 1.0, (1 - target) ** 4)
    loss = torch.log1p(-wrong) * wrong**2 * weight
    centers = sum_by_task(center.sum((0, 2, 3)))
    return -sum_by_task(loss.sum((0, 2, 3))) / mean_count(centers, least=1)


def box_losses(codes: Tensor, targets: CenterTargets, velocity_weight: float) -> Tensor:
    """Weighted L1 distance of the box codes, per box in the batch of all processes; NaN targets are left out.

    Args:
        codes: (B, nx * ny, T, 10), see ``JoinedMaps``.
        targets: see ``center_targets``.
        velocity_weight: of the last two codes; the others have 1.

    Returns:
        (T,) float32.
    """
    cells = targets.cells.transpose(1, 2)[..., None].expand(-1, -1, -1, CODES)
    predicted = codes.gather(1, cells).float().transpose(1, 2)
    weight = code_weights(velocity_weight, predicted.device)
    known = targets.mask[..., None] & ~targets.codes.isnan()
    distance = torch.where(known, predicted - targets.codes, 0.0).abs()
    boxes = targets.mask.sum((0, 2))
    return BOX_WEIGHT * (distance * weight).sum((0, 2, 3)) / mean_count(boxes, plus=1e-4)


def code_weights(velocity: float, device: torch.device) -> Tensor:
    """(10,) weights of the box codes: 1, and ``velocity`` for the last two, vx and vy."""
    return constant([1.0] * (CODES - 2) + [velocity] * 2, device)


def sum_by_task(values: Tensor, dim: int = 0) -> Tensor:
    """Sums over the classes of each task: ``dim`` has 10 entries before, T after."""
    shape = list(values.shape)
    shape[dim] = len(TASKS)
    return values.new_zeros(shape).index_add(dim, constant(TASK_OF_LABEL, values.device), values)


def named_by_task(heatmap: Tensor, box: Tensor) -> dict[str, Tensor]:
    """Losses (T,) of the heat maps and of the boxes as ``heatmap/task0``, ..., ``box/task0``, ..."""
    kinds = {"heatmap": heatmap, "box": box}
    return {f"{kind}/task{t}": loss for kind, losses in kinds.items() for t, loss in enumerate(losses.unbind())}


def clamped_score(logits: Tensor) -> Tensor:
    """Sigmoid kept away from 0 and 1, where its logarithm would not be finite."""
    return logits.sigmoid().clamp(SCORE_CLAMP, 1 - SCORE_CLAMP)
