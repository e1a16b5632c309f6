"""Radar branch: a small network on each point of a pillar, their maximum, a BEV map, and CRKD's calibration block."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor, nn

from crkd_core.config import RadarConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.pillars import Pillars, decorate, pillar_map, pillarize

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
        bev = self.pillar_map(points, sample, batch_size).view(batch_size, *self.grid.shape, -1).permute(0, 3, 1, 2)
        if self.calibration is None or self.activation_head is None:
            return bev, None
        bev = self.calibration(bev)
        return bev, self.activation_head(bev)

    def pillar_map(self, points: Tensor, sample: Tensor, batch_size: int) -> Tensor:
        """(B * nx * ny, out_channels): the features of each pillar in its cell; arguments as in ``forward``.

        The original stores every pillar as 20 slots and runs its network on all of them. Here it runs on the points
        and on ONE empty slot, which stands for all of them: in the batch statistics, too, with their number as weight.
        """
        dtype = next(self.point_layers.parameters()).dtype
        rows, cell = decorate(points, sample, self.grid, batch_size=batch_size, dtype=dtype)
        pillars = pillarize(
            cell,
            sample,
            num_cells=batch_size * self.grid.cells,
            batch_size=batch_size,
            max_points=self.config.max_points_per_pillar,
            max_pillars=self.config.max_pillars[0 if self.training else 1],
        )
        weights = slot_weights(pillars) if self.training else None
        for layer in self.point_layers:
            rows = layer(rows, weights)
        return pillar_map(rows, pillars)


def slot_weights(pillars: Pillars) -> Tensor:
    """(P + 1,) float32: how many stored slots each row of the network stands for; the last row for all empty ones."""
    opens, slot = pillars.slots()
    inside = pillars.cell < pillars.num_cells
    kept = inside & (slot < pillars.max_points)
    empty = pillars.max_points * (opens & inside).sum() - kept.sum()
    weights = torch.empty(len(kept) + 1, device=kept.device)
    weights[pillars.order] = kept.float()
    weights[-1] = empty
    return weights


class PointLayer(nn.Module):
    """Linear, batch norm over weighted rows, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm = WeightedBatchNorm(out_channels, eps=1e-3, momentum=0.01)

    def forward(self, rows: Tensor, weights: Tensor | None) -> Tensor:
        """(R, in_channels), (R,) -> (R, out_channels); the weights count in training only."""
        return F.relu(self.norm(self.linear(rows), weights))


class WeightedBatchNorm(nn.BatchNorm1d):
    """Batch norm in which a row counts as often as its weight says: the same as repeating rows.

    Attributes:
        synchronised: take the statistics over all processes of a distributed run.
    """

    synchronised = False

    def forward(self, rows: Tensor, weights: Tensor | None) -> Tensor:  # type: ignore[override]
        """(R, C), (R,) float32 -> (R, C); the weights count in training only."""
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        assert weights is not None
        values, column = rows.float(), weights[:, None]
        total = self._summed(weights.sum())
        count = total.clamp(min=1.0)
        mean = self._summed((values * column).sum(0)) / count
        variance = self._summed(((values - mean) ** 2 * column).sum(0)) / count
        self._track(mean.detach(), variance.detach(), total)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return ((values - mean) * scale + self.bias).to(rows.dtype)

    def _summed(self, value: Tensor) -> Tensor:
        """The sum over all processes, through which gradients flow."""
        if not self.synchronised:
            return value
        everywhere: Tensor = torch.distributed.nn.functional.all_reduce(value)
        return everywhere

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
