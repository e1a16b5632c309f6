"""RelD, relation distillation: the student's maps relate places to each other as the teacher's do."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALES = (32, 16, 8, 4)
"""Edges of the maps that are compared, cells."""


class RelationAdapters(nn.Module):
    """One small trained adapter per scale, for the student only."""

    def __init__(self, channels: int, scales: int = len(SCALES)) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1))
            for _ in range(scales)
        )

    def forward(self, resized: list[Tensor]) -> list[Tensor]:
        """The adapted map of each scale."""
        return [cast("Tensor", adapter(one)) for adapter, one in zip(self.adapters, resized, strict=True)]


def resized_maps(features: Tensor, scales: tuple[int, ...] = SCALES) -> list[Tensor]:
    """(B, C, nx, ny) -> (B, C, s, s) for every scale: bilinear, corners not aligned, not antialiased."""
    return [F.interpolate(features, size=(s, s), mode="bilinear", align_corners=False) for s in scales]


def affinity(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, hw, hw): F^T F of the flattened map, not normalised (quirk Q13)."""
    flat = features.flatten(2)
    return torch.bmm(flat.transpose(1, 2), flat)


def relation_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Sum over scales of mean |A_s - A_t| / B, with A the affinity; the released weight is 0.25.

    The mean is over batch and pairs of cells, and the batch divides once more, as in the released code (quirk Q19).

    Args:
        student: resized (and adapted) fused maps, (B, C, s, s).
        teacher: resized fused maps, (B, C, s, s).
    """
    losses = [F.l1_loss(affinity(s), affinity(t)) / len(s) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(losses).sum()
