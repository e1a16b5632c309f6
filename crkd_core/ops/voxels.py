"""Voxels with the mean of their points, as a sparse convolution takes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crkd_core.ops.pillars import grouped


@dataclass(frozen=True)
class VoxelGrid:
    """nx x ny x nz voxels. All lengths in metres.

    Attributes:
        lower: lower border along x, y, z.
        size: edges of a voxel along x, y, z.
        shape: number of voxels along x, y, z.
    """

    lower: tuple[float, float, float]
    size: tuple[float, float, float]
    shape: tuple[int, int, int]


def voxel_means(
    points: Tensor,  # [L, F]
    sample: Tensor,  # [L]
    grid: VoxelGrid,
    *,
    batch_size: int,
    max_points: int,
    max_voxels: int,
) -> tuple[Tensor, Tensor]:
    """Voxels that hold a point, in the order of their first points: ``floor((p - lower) / size)`` in float32.

    Args:
        points: (L, F) float32, columns x, y, z first, metres. L may be 0.
        sample: (L,) int64, ascending, sample of each point.
        grid: the voxels.
        batch_size: number of samples.
        max_points: the first so many points of a voxel count.
        max_voxels: the first so many voxels of a sample are kept.

    Returns:
        (V, F) float32, mean of the points of each voxel; (V, 4) int32, sample, ix, iy, iz.
    """
    nx, ny, nz = grid.shape
    cells = torch.floor((points[:, :3].float() - points.new_tensor(grid.lower)) / points.new_tensor(grid.size))
    inside = ((cells >= 0) & (cells < cells.new_tensor(grid.shape))).all(1)
    index = torch.where(inside[:, None], cells, 0.0).long()
    key = ((sample * nx + index[:, 0]) * ny + index[:, 1]) * nz + index[:, 2]
    key = torch.where(inside, key, batch_size * nx * ny * nz)
    number, slot, kept = grouped(
        key, inside, sample, batch_size=batch_size, max_points=max_points, max_groups=max_voxels
    )
    first = kept & (slot == 0)
    count = int(first.sum())
    coordinates = torch.cat([sample[:, None], index], dim=1)[first].int()
    number = torch.where(kept, number, count)
    sums = points.new_zeros(count + 1, points.shape[1]).index_add_(0, number, points)
    members = points.new_zeros(count + 1).index_add_(0, number, kept.to(points.dtype))
    return (sums / members.clamp(min=1.0)[:, None])[:count], coordinates
