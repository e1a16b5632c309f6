"""Dynamic pillars: which grid cell each point belongs to, and pooling of point features per cell.

Nothing here has a data-dependent shape, so that no GPU synchronisation is needed: P points make at most P pillars, and
tables of pillars have P rows, of which only the first ones are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crkd_core.geometry.grid import BevGrid


@dataclass(frozen=True)
class Pillars:
    """The pillar of each of P points. Pillars are numbered by their first point, over all samples.

    Attributes:
        pillar: (P,) int64, pillar of the point; P for a point that was dropped.
        slot: (P,) int64, position of the point within its pillar, in input order (meaningless if dropped).
        cell: (P, 2) int64, ix and iy of the point (meaningless if dropped).
        flat_cell: (P + 1,) int64, by PILLAR: ``(sample * nx + ix) * ny + iy``, or ``B * nx * ny`` for unused rows.
        count: (P + 1,) int64, by PILLAR: points kept in it; 0 for unused rows.
    """

    pillar: Tensor
    slot: Tensor
    cell: Tensor
    flat_cell: Tensor
    count: Tensor


def pillarize(
    points: Tensor,  # [P, >=3]
    sample: Tensor,  # [P]
    grid: BevGrid,
    *,
    batch_size: int,
    max_points: int,
    max_pillars: int,
) -> Pillars:
    """Assign points to pillars: ``floor((p - lower) / size)`` in float32, as the original's voxeliser.

    Per pillar the first ``max_points`` points are kept, per sample the first ``max_pillars`` pillars in order of their
    first point.

    Args:
        points: (P, F) float32, columns x, y, z first, metres. P may be 0.
        sample: (P,) int64, ascending, the sample of each point.
        grid: the pillars, each a cell over the whole height ``grid.z_range``.
        batch_size: number of samples B.
        max_points: points kept per pillar.
        max_pillars: pillars kept per sample.
    """
    n, device = len(points), points.device
    index, inside = _grid_index(points, grid)
    outside_key = batch_size * grid.cells
    key = torch.where(inside, sample * grid.cells + index[:, 0] * grid.shape[1] + index[:, 1], outside_key)
    number, slot, kept = grouped(
        key, inside, sample, batch_size=batch_size, max_points=max_points, max_groups=max_pillars
    )

    pillar = torch.where(kept, number, n)
    flat_cell = torch.full((n + 1,), outside_key, device=device).scatter_(
        0, pillar, torch.where(kept, key, outside_key)
    )
    count = torch.zeros(n + 1, dtype=torch.int64, device=device).scatter_add_(0, pillar, kept.long())
    return Pillars(pillar, slot, index, flat_cell, count)


def grouped(
    key: Tensor,  # [P]
    inside: Tensor,  # [P]
    sample: Tensor,  # [P]
    *,
    batch_size: int,
    max_points: int,
    max_groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups of points of equal key, numbered by their first points, within the limits of a voxeliser.

    Args:
        key: (P,) int64, other keys for other samples.
        inside: (P,) bool, points that take part; the others share one key.
        sample: (P,) int64, ascending.
        batch_size: number of samples.
        max_points: points kept per group.
        max_groups: groups kept per sample, in the order of their first points.

    Returns:
        (P,) int64, number of the point's group, over all samples; (P,) int64, position of the point within its group,
        in input order; (P,) bool, whether it is kept (if not, the other two are meaningless).
    """
    n = len(key)
    position = torch.arange(n, device=key.device)
    ordered, order = torch.sort(key, stable=True)
    is_first = torch.ones_like(inside)
    is_first[1:] = ordered[1:] != ordered[:-1]
    group_start = torch.cummax(torch.where(is_first, position, 0), 0).values if n else position
    slot = torch.empty_like(position).scatter_(0, order, position - group_start)
    first_point = torch.empty_like(position).scatter_(0, order, order[group_start])

    # Number the groups by their first points, within each sample to apply the limit, then over the batch.
    opens = (first_point == position) & inside
    opened = torch.cumsum(opens, 0)
    before_sample = _opened_before(opened, sample, batch_size)
    rank = opened[first_point] - 1 - before_sample
    kept = inside & (rank < max_groups)
    number = torch.cumsum(opens & kept, 0)[first_point] - 1
    return number, slot, kept & (slot < max_points)


def pool_pillars(
    features: Tensor,  # [P, C]
    padding: Tensor,  # [C]
    pillars: Pillars,
    *,
    max_points: int,
) -> Tensor:
    """Maximum over the points of each pillar; the empty slots of a pillar that is not full count as ``padding``.

    The original pushes zero points through its network for the empty slots and lets them take part in the maximum
    (quirk Q6); ``padding`` is the result for such a point.

    Args:
        features: (P, C), one row per point.
        padding: (C,), the row of an empty slot.
        pillars: of P points.
        max_points: slots of a pillar.

    Returns:
        (P + 1, C), one row per pillar; unused rows hold arbitrary finite values.
    """
    n, channels = features.shape
    lowest = torch.finfo(features.dtype).min
    index = pillars.pillar[:, None].expand(n, channels)
    table = features.new_full((n + 1, channels), lowest)
    highest = table.scatter_reduce(0, index, features, "amax", include_self=False)
    full = (pillars.count >= max_points)[:, None]
    return torch.where(full, highest, torch.maximum(highest, padding))


def scatter_pillars(
    table: Tensor,  # [P + 1, C]
    pillars: Pillars,
    grid: BevGrid,
    *,
    batch_size: int,
) -> Tensor:
    """Write each pillar into its cell of an otherwise zero map.

    Args:
        table: (P + 1, C), one row per pillar.
        pillars: where they belong.
        grid: the map's cells.
        batch_size: number of samples B.

    Returns:
        (B, C, nx, ny) in channels-last memory, rows x, columns y.
    """
    cells = batch_size * grid.cells
    bev = table.new_zeros(cells + 1, table.shape[1]).index_copy(0, pillars.flat_cell, table)
    return bev[:cells].view(batch_size, *grid.shape, table.shape[1]).permute(0, 3, 1, 2)


def _grid_index(points: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """(P, 2) int64 indices along x and y, and (P,) bool: inside the grid."""
    xyz = points[:, :3].float()
    size = xyz.new_tensor([*grid.cell, grid.z_range[1] - grid.z_range[0]])
    cells = torch.floor((xyz - xyz.new_tensor([*grid.lower, grid.z_range[0]])) / size)
    inside = ((cells >= 0) & (cells < cells.new_tensor([*grid.shape, 1]))).all(1)
    return torch.where(inside[:, None], cells[:, :2], 0.0).long(), inside


def _opened_before(opened: Tensor, sample: Tensor, batch_size: int) -> Tensor:
    """(P,): how many pillars the samples before each point's own one have opened."""
    samples = torch.arange(batch_size, device=sample.device)
    start = torch.searchsorted(sample.contiguous(), samples)
    padded = torch.cat([opened.new_zeros(1), opened])
    return padded[start][sample]
