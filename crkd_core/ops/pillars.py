"""Dynamic pillars: which grid cell each point belongs to, and the maximum of point features per cell.

Nothing here has a data-dependent shape, so that no GPU synchronisation is needed and everything can be captured in a
CUDA graph: a caller that wants one size for all inputs adds points outside the grid, which are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crkd_core.geometry.grid import BevGrid


@dataclass(frozen=True)
class Pillars:
    """Which of P points share a pillar, a cell of the grid over its whole height.

    Attributes:
        order: (P,) int64, the points by cell, those of a cell in input order; dropped points come last.
        cell: (P,) int32, IN THAT ORDER: ``(sample * nx + ix) * ny + iy``; ``num_cells`` for a dropped point.
        num_cells: cells of the batch.
        max_points: the first so many points of a pillar count.
    """

    order: Tensor
    cell: Tensor
    num_cells: int
    max_points: int

    def slots(self) -> tuple[Tensor, Tensor]:
        """In the order of ``cell``: (P,) bool, whether a point opens its pillar; (P,) int64, its place in it."""
        opens = torch.ones_like(self.cell, dtype=torch.bool)
        opens[1:] = self.cell[1:] != self.cell[:-1]
        position = torch.arange(len(opens), device=opens.device)
        start = torch.cummax(torch.where(opens, position, 0), 0).values if len(opens) else position
        return opens, position - start


def decorate(
    points: Tensor,  # [P, F]
    sample: Tensor,  # [P]
    grid: BevGrid,
    *,
    batch_size: int,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The features of each point for the network, and its cell: ``floor((p - lower) / size)`` in float32.

    Args:
        points: (P, F) float32, columns x, y, z first, metres. P may be 0.
        sample: (P,) int64, ascending, the sample of each point.
        grid: the pillars.
        batch_size: number of samples B.
        dtype: of the rows.

    Returns:
        (P + 1, F + 2) rows: x, y, z normalised to [0, 1] over the grid, the other columns, then the offset (m) of x and
        y from the centre of the cell; the last row is zero, what the original stores in an empty slot. And (P,) int32,
        the cell of each point, see ``Pillars``; ``B * nx * ny`` outside the grid.
    """
    lower, size = (*grid.lower, grid.z_range[0]), (*grid.cell, grid.z_range[1] - grid.z_range[0])
    if points.device.type != "cpu":
        rows, cell = _decorate(points, sample, lower, size, grid.shape, batch_size * grid.cells, dtype)
        return rows, cell
    low, edge = points.new_tensor(lower), points.new_tensor(size)
    index = torch.floor((points[:, :3] - low) / edge)
    inside = ((index >= 0) & (index < index.new_tensor([*grid.shape, 1]))).all(1)
    ixy = torch.where(inside[:, None], index[:, :2], 0.0)
    flat = (sample * grid.shape[0] + ixy[:, 0].long()) * grid.shape[1] + ixy[:, 1].long()
    cell = torch.where(inside, flat, batch_size * grid.cells).int()
    normalised = (points[:, :3] - low) / (edge * edge.new_tensor([*grid.shape, 1]))
    offset = points[:, :2] - (ixy * edge[:2] + (0.5 * edge + low)[:2])
    rows = torch.cat([normalised, points[:, 3:], offset], dim=1)
    return torch.cat([rows, rows.new_zeros(1, rows.shape[1])]).to(dtype), cell


def pillarize(
    cell: Tensor,  # [P]
    sample: Tensor,  # [P]
    *,
    num_cells: int,
    batch_size: int,
    max_points: int,
    max_pillars: int,
) -> Pillars:
    """Group points by cell.

    Per pillar the first ``max_points`` points count, per sample the first ``max_pillars`` pillars in order of their
    first points.

    Args:
        cell: (P,) int32, see ``decorate``.
        sample: (P,) int64, ascending, the sample of each point.
        num_cells: cells of the batch; the cell of points outside the grid.
        batch_size: number of samples.
        max_points: points kept per pillar.
        max_pillars: pillars kept per sample.
    """
    if len(cell) > max_pillars:  # so few points cannot open more
        inside = cell < num_cells
        limits = {"max_points": len(cell), "max_groups": max_pillars}
        *_, kept = grouped(cell, inside, sample, batch_size=batch_size, **limits)
        cell = torch.where(kept, cell, num_cells)
    ordered, order = torch.sort(cell, stable=True)
    return Pillars(order, ordered, num_cells, max_points)


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
    group_start = torch.searchsorted(ordered, ordered)  # of equal keys the first; a running maximum is slow on a GPU
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


def pillar_map(
    rows: Tensor,  # [P + 1, C]
    pillars: Pillars,
) -> Tensor:
    """Maximum over the points of each pillar, in its cell of an otherwise zero map.

    The original pushes zero points through its network for the empty slots and lets them take part in the maximum
    (quirk Q6): the empty slots of a pillar that is not full count as the last row.

    Args:
        rows: (P + 1, C), one row per point, then that of an empty slot.
        pillars: of the P points.

    Returns:
        (num_cells, C). Differentiable in ``rows``.
    """
    if rows.device.type == "cpu":
        return pillar_map_reference(rows, pillars)
    result: Tensor = _pillar_map(rows.contiguous(), pillars.cell, pillars.order, pillars.num_cells, pillars.max_points)
    return result


def pillar_map_reference(rows: Tensor, pillars: Pillars) -> Tensor:
    """What ``pillar_map`` computes, in torch."""
    n, channels = len(pillars.cell), rows.shape[1]
    opens, slot = pillars.slots()
    kept = (pillars.cell < pillars.num_cells) & (slot < pillars.max_points)
    number = torch.where(kept, torch.cumsum(opens, 0) - 1, n)
    table = rows.new_full((n + 1, channels), torch.finfo(rows.dtype).min)
    index = number[:, None].expand(n, channels)
    table = table.scatter_reduce(0, index, rows[pillars.order], "amax", include_self=False)
    count = number.new_zeros(n + 1).scatter_add_(0, number, kept.long())
    table = torch.where((count >= pillars.max_points)[:, None], table, torch.maximum(table, rows[n]))
    target = number.new_full((n + 1,), pillars.num_cells)
    target.scatter_(0, number, torch.where(kept, pillars.cell, pillars.num_cells).long())
    return rows.new_zeros(pillars.num_cells + 1, channels).index_copy(0, target, table)[: pillars.num_cells]


@torch.library.custom_op("crkd::decorate_points", mutates_args=())
def _decorate(
    points: Tensor,
    sample: Tensor,
    lower: list[float],
    size: list[float],
    shape: list[int],
    num_cells: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    from crkd_core.ops.kernels import pillars as kernels

    return kernels.decorate(points, sample, lower=lower, size=size, shape=shape, num_cells=num_cells, dtype=dtype)


@_decorate.register_fake
def _(
    points: Tensor,
    sample: Tensor,
    lower: list[float],
    size: list[float],
    shape: list[int],
    num_cells: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    n, columns = points.shape
    return points.new_empty(n + 1, columns + 2, dtype=dtype), points.new_empty(n, dtype=torch.int32)


@torch.library.custom_op("crkd::pillar_map", mutates_args=())
def _pillar_map(rows: Tensor, cell: Tensor, order: Tensor, num_cells: int, max_points: int) -> Tensor:
    from crkd_core.ops.kernels import pillars as kernels

    return kernels.forward(rows, cell, order, num_cells=num_cells, max_points=max_points)


@_pillar_map.register_fake
def _(rows: Tensor, cell: Tensor, order: Tensor, num_cells: int, max_points: int) -> Tensor:
    return rows.new_empty(num_cells, rows.shape[1])


@torch.library.custom_op("crkd::pillar_map_backward", mutates_args=())
def _pillar_map_backward(grad: Tensor, rows: Tensor, cell: Tensor, order: Tensor, max_points: int) -> Tensor:
    from crkd_core.ops.kernels import pillars as kernels

    return kernels.backward(grad.contiguous(), rows, cell, order, max_points=max_points)


@_pillar_map_backward.register_fake
def _(grad: Tensor, rows: Tensor, cell: Tensor, order: Tensor, max_points: int) -> Tensor:
    return torch.empty_like(rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, cell, order, _, ctx.max_points = inputs
    ctx.save_for_backward(rows, cell, order)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _pillar_map_backward(grad, *ctx.saved_tensors, ctx.max_points), None, None, None, None


_pillar_map.register_autograd(_differentiate, setup_context=_save)


def _opened_before(opened: Tensor, sample: Tensor, batch_size: int) -> Tensor:
    """(P,): how many pillars the samples before each point's own one have opened."""
    samples = torch.arange(batch_size, device=sample.device)
    start = torch.searchsorted(sample.contiguous(), samples)
    padded = torch.cat([opened.new_zeros(1), opened])
    return padded[start][sample]
