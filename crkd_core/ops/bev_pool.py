"""Lift-splat pooling: image features, spread along their rays by a depth distribution, summed into BEV cells."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SPARE_BAGS = 4096
"""Points outside the grid are spread over this many extra bags, so that no GPU thread sums them all by itself."""


def bev_pool(
    depth: Tensor,  # [P, D]
    features: Tensor,  # [P, C]
    cells: Tensor,  # [P, D]
    num_cells: int,
) -> Tensor:
    """Sum ``depth[p, d] * features[p]`` into the cell of each point (p, d), never materialising the P x D x C products.

    Args:
        depth: (P, D) float32, weight of each of D points on the ray of each of P pixels.
        features: (P, C) float32, feature of each pixel.
        cells: (P, D) int64, the cell of each point; -1 drops the point. P and D may be 0.
        num_cells: number of cells.

    Returns:
        (num_cells, C) float32; zero where no point falls. Differentiable in ``depth`` and ``features``; the order of
        summation is that of the points, so results on the CPU are deterministic.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if depth.shape != cells.shape or depth.dim() != 2 or features.dim() != 2 or len(features) != len(depth):
        raise ValueError(
            f"bev_pool: expected depth (P, D), features (P, C), cells (P, D); got depth {tuple(depth.shape)}, "
            f"features {tuple(features.shape)}, cells {tuple(cells.shape)}"
        )
    if depth.numel() == 0:
        return features.new_zeros(num_cells, features.shape[1]) + 0.0 * (depth.sum() + features.sum())
    pooled: Tensor = _BevPool.apply(depth, features, cells, num_cells)
    return pooled


def bev_pool_reference(depth: Tensor, features: Tensor, cells: Tensor, num_cells: int) -> Tensor:
    """What ``bev_pool`` computes, spelled out (same arguments; materialises every product)."""
    points = depth[..., None] * features[:, None]
    target = torch.where(cells < 0, num_cells, cells).flatten()
    pooled = points.new_zeros(num_cells + 1, features.shape[1])
    return pooled.index_add(0, target, points.flatten(0, 1))[:num_cells]


class _BevPool(torch.autograd.Function):
    """Forward: one bag of points per cell. Backward: one bag of points per pixel, which needs no sorting."""

    @staticmethod
    def forward(ctx: Any, depth: Tensor, features: Tensor, cells: Tensor, num_cells: int) -> Tensor:
        ctx.save_for_backward(depth, features, cells)
        flat = torch.where(cells < 0, num_cells, cells).flatten()
        if flat.device.type == "cpu":
            kept = (flat < num_cells).nonzero()[:, 0]  # dropping points early costs a synchronisation on a GPU only
            # 32-bit keys sort fastest; int16 would not hold every grid.
            ordered, order = torch.sort(flat[kept].int(), stable=True)
            points = kept[order]
        else:
            ordered, points = torch.sort(flat, stable=True)
        starts = torch.searchsorted(ordered, torch.arange(num_cells + 1, device=flat.device, dtype=ordered.dtype))
        if flat.device.type != "cpu":
            outside, total = starts[-1], len(points)
            spare = torch.arange(_SPARE_BAGS, device=flat.device)
            starts = torch.cat([starts[:-1], outside + (total - outside) * spare // _SPARE_BAGS])
        else:
            starts = starts[:-1]
        weights = depth.flatten()[points]
        pixels = points // depth.shape[1]
        pooled = F.embedding_bag(pixels, features, starts, mode="sum", per_sample_weights=weights)
        return pooled[:num_cells]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        depth, features, cells = ctx.saved_tensors
        (grad,) = grads
        table = torch.cat([grad, grad.new_zeros(1, grad.shape[1])]).contiguous()
        # d(sum)/d(features[p]) = sum_d depth[p, d] * grad[cell]; its product with features[p], differentiated once more
        # by depth, is d(sum)/d(depth[p, d]) = <grad[cell], features[p]>.
        with torch.enable_grad():
            weights = depth.detach().contiguous().requires_grad_()
            index = torch.where(cells < 0, len(grad), cells)
            grad_features = F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)
            (grad_depth,) = torch.autograd.grad(grad_features, weights, features.contiguous())
        return grad_depth, grad_features.detach(), None, None
