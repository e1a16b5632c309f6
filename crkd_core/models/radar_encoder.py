"""Radar branch: a small network on each point of a pillar, their maximum, a BEV map, and CRKD's calibration block."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crkd_core.config import RadarConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.pillars import Pillars, pillarize, pool_pillars, scatter_pillars

RADAR_COLUMNS = 45
"""Columns of CRKD's radar features (``data.radar.RADAR_FEATURES``); the first three are x, y, z."""


class RadarEncoder(nn.Module):
    """Radar points to a BEV map, with an optional calibration block and the activation head that distils it.

    Attributes:
        out_channels: channels of the map.
    """

    def __init__(self, radar: RadarConfig, grid: BevGrid) -> None:
        super().__init__()
        self.config = radar
        self.grid = grid
        widths = (RADAR_COLUMNS + 2, *radar.channels)
        self.point_layers = nn.ModuleList(PointLayer(a, b) for a, b in pairwise(widths))
        self.out_channels = radar.channels[-1]
        self.calibration = _calibration(self.out_channels) if radar.calibration else None
        self.activation_head = (
            nn.Sequential(nn.Conv2d(self.out_channels, 1, 1, bias=False), nn.ReLU()) if radar.calibration else None
        )

    def forward(self, points: Tensor, sample: Tensor, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Encode the radar points of a batch.

        Args:
            points: (P, 45) float32, augmented BEV frame; P may be 0.
            sample: (P,) int64, ascending, sample of each point.
            batch_size: number of samples B.

        Returns:
            (B, out_channels, nx, ny): zero (before calibration) where there is no point; and the activation map
            (B, 1, nx, ny), or None without a calibration block.
        """
        pillars = pillarize(
            points,
            sample,
            self.grid,
            batch_size=batch_size,
            max_points=self.config.max_points_per_pillar,
            max_pillars=self.config.max_pillars[0 if self.training else 1],
        )
        table = self.pillar_features(points, pillars)
        bev = scatter_pillars(table, pillars, self.grid, batch_size=batch_size)
        if self.calibration is None or self.activation_head is None:
            return bev, None
        bev = self.calibration(bev)
        return bev, self.activation_head(bev)

    def pillar_features(self, points: Tensor, pillars: Pillars) -> Tensor:
        """(P + 1, out_channels): one row per pillar, see ``pool_pillars``.

        The original stores every pillar as 20 slots and runs its network on all of them. Here it runs on the points
        and on ONE empty slot, which stands for all of them: in the batch statistics, too, with their number as weight.
        """
        slots = self.config.max_points_per_pillar
        kept = pillars.pillar < len(points)
        used = pillars.count.sum()
        empty = slots * (pillars.count > 0).sum() - used
        weights = torch.cat([kept, empty[None]]).float()
        decorated = decorate(points, pillars.cell, self.grid)
        rows = torch.cat([decorated, decorated.new_zeros(1, decorated.shape[1])])
        for layer in self.point_layers:
            rows = layer(rows, weights)
        return pool_pillars(rows[:-1], rows[-1], pillars, max_points=slots)


def decorate(points: Tensor, cell: Tensor, grid: BevGrid) -> Tensor:
    """The features of each point for the network.

    Args:
        points: (P, F), columns x, y, z first.
        cell: (P, 2) int64, the cell of each point.
        grid: the cells.

    Returns:
        (P, F + 2): x, y, z normalised to [0, 1] over the grid, the other columns, then the offset (m) of x and y from
        the centre of the cell.
    """
    edge, lower = points.new_tensor(grid.cell), points.new_tensor([*grid.lower, grid.z_range[0]])
    offset = points[:, :2] - (cell.to(points.dtype) * edge + (0.5 * edge + lower[:2]))
    sides = [count * edge for count, edge in zip(grid.shape, grid.cell, strict=True)]
    extent = points.new_tensor([*sides, grid.z_range[1] - grid.z_range[0]])
    normalised = (points[:, :3] - lower) / extent
    return torch.cat([normalised, points[:, 3:], offset], dim=1)


class PointLayer(nn.Module):
    """Linear, batch norm over weighted rows, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm = WeightedBatchNorm(out_channels, eps=1e-3, momentum=0.01)

    def forward(self, rows: Tensor, weights: Tensor) -> Tensor:
        """(R, in_channels), (R,) -> (R, out_channels)."""
        return F.relu(self.norm(self.linear(rows), weights))


class WeightedBatchNorm(nn.BatchNorm1d):
    """Batch norm in which a row counts as often as its weight says: the same as repeating rows."""

    def forward(self, rows: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        """(R, C), (R,) float32 -> (R, C)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values = rows.float()
        total = weights.sum()
        share = (weights / total.clamp(min=1.0))[:, None]
        mean = (values * share).sum(0)
        variance = ((values - mean) ** 2 * share).sum(0)
        self._track(mean.detach(), variance.detach(), total)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((values - mean) * scale + self.bias).to(rows.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Update the running statistics; a batch without any row leaves them as they are."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        step = torch.where(total > 1, self.momentum or 0.0, 0.0)
        self.running_mean += step * (mean - self.running_mean)
        self.running_var += step * (variance * total / (total - 1).clamp(min=1.0) - self.running_var)
        self.num_batches_tracked += 1


def _calibration(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(3):
        conv = nn.Conv2d(channels, channels, 3, padding=2, dilation=2)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
