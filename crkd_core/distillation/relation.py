"""RelD, multi-scale relation distillation: the student's map relates places to each other as the teacher's does.

    L = weight * sum over scales of mean over batch and pairs of cells of |A_s - A_t| / 2

A is the affinity of all pairs of cells of the fused map, resized to each scale. The 2 is the original's batch size;
the released code divides by whatever the batch is, see ``distiller.batch_divisor``.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crkd_core.config import RelationDistillation


class RelationAdapters(nn.Module):
    """One small trained adapter per scale, for the student only."""

    def __init__(self, channels: int, scales: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1))
            for _ in range(scales)
        )

    def forward(self, resized: list[Tensor]) -> list[Tensor]:
        """The adapted map of each scale."""
        return [cast("Tensor", adapter(one)) for adapter, one in zip(self.adapters, resized, strict=True)]


def resized_maps(features: Tensor, scales: tuple[int, ...]) -> list[Tensor]:
    """(B, C, nx, ny) -> (B, C, s, s) for every scale: bilinear, corners not aligned, not antialiased."""
    return [F.interpolate(features, size=(s, s), mode="bilinear", align_corners=False) for s in scales]


def relation_loss(
    student: list[Tensor], teacher: list[Tensor], config: RelationDistillation, *, batch_divisor: float
) -> Tensor:
    """The weighted loss, a scalar.

    Args:
        student: resized and adapted fused maps, (B, C, s, s) float32 each.
        teacher: resized fused maps, of the same sizes.
        config: weight, and which affinity.
        batch_divisor: see ``distiller.batch_divisor``.
    """
    s, t = (affinities(maps, normalised=config.affinity == "corrected") for maps in (student, teacher))
    # Subtracted as one, for most scales are so small that a GPU takes longer to be asked than to subtract.
    all_s, all_t = (torch.cat([one.flatten() for one in of_scales]) for of_scales in (s, t))
    by_scale = (all_s - all_t).abs().split([one.numel() for one in s])
    return config.weight * torch.stack([distances.mean() for distances in by_scale]).sum() / batch_divisor


def affinities(maps: list[Tensor], *, normalised: bool) -> list[Tensor]:
    """Maps (B, C, s, s) of each scale -> (B, s * s, s * s), inner products of the features of each cell with each.

    Args:
        maps: of each scale.
        normalised: features have length 1 before, so that these are cosine similarities; 0 for a cell without features.
            The released ones are of features as they are (quirk Q13).
    """
    cells = torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1)
    if normalised:
        cells = F.normalize(cells, dim=2)
    by_scale = cells.split([one.shape[2] * one.shape[3] for one in maps], dim=1)
    return [torch.bmm(one, one.transpose(1, 2)) for one in by_scale]
