"""RelD, multi-scale relation distillation: the student's map relates places to each other as the teacher's does.

    L = weight * sum over scales of mean over batch and pairs of cells of |A_s - A_t| / 2

A is the affinity of all pairs of cells of the fused map, resized to each scale. The 2 is the original's batch size; the
released code divides by whatever the batch is, see ``distiller.batch_divisor``.
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
    """The weighted loss, a float32 scalar.

    Args:
        student: resized and adapted fused maps, (B, C, s, s) each.
        teacher: resized fused maps, (B, C, s, s) each.
        config: weight, and which affinity.
        batch_divisor: see ``distiller.batch_divisor``.
    """
    affinity = inner_products if config.affinity == "released" else cosine_similarities
    losses = [F.l1_loss(affinity(s).float(), affinity(t).float()) for s, t in zip(student, teacher, strict=True)]
    return config.weight * torch.stack(losses).sum() / batch_divisor


def cosine_similarities(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, hw, hw) in [-1, 1]; 0 for a cell without features."""
    # Normalised in float32: the squares of a float16 map may not fit into float16.
    flat = F.normalize(features.flatten(2).float(), dim=1).to(features.dtype)
    return torch.bmm(flat.transpose(1, 2), flat)


def inner_products(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, hw, hw): F^T F of the flattened map, not normalised (quirk Q13)."""
    flat = features.flatten(2)
    return torch.bmm(flat.transpose(1, 2), flat)
