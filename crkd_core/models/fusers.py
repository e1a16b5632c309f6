"""Fusion of the camera BEV map with the radar (or LiDAR) one.

A detector of one sensor fuses its map with one that has no channels: the convolution is then that of a single map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crkd_core.config import FuserConfig


class ConvFuser(nn.Module):
    """Concatenation and one convolution."""

    def __init__(self, camera_channels: int, other_channels: int, channels: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(
            nn.Conv2d(camera_channels + other_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, camera: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fuse two maps.

        Args:
            camera: (B, camera_channels, nx, ny).
            other: (B, other_channels, nx, ny).

        Returns:
            The fused map (B, channels, nx, ny), and the two maps as they entered the fusion.
        """
        return self.merge(torch.cat([camera, other], dim=1)), camera, other


class GatedFuser(ConvFuser):
    """Each map is first multiplied, channel by channel and cell by cell, with a gate computed from both."""

    def __init__(self, camera_channels: int, other_channels: int, channels: int) -> None:
        super().__init__(camera_channels, other_channels, channels)
        both = camera_channels + other_channels
        self.gate_camera = nn.Conv2d(both, camera_channels, 3, padding=1)
        self.gate_other = nn.Conv2d(both, other_channels, 3, padding=1)

    def forward(self, camera: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``ConvFuser.forward``; the maps returned second and third are gated."""
        both = torch.cat([camera, other], dim=1)
        return super().forward(camera * self.gate_camera(both).sigmoid(), other * self.gate_other(both).sigmoid())


def build_fuser(config: FuserConfig, *, camera_channels: int, other_channels: int) -> ConvFuser:
    """The fuser that a recipe names; a map that does not exist has 0 channels."""
    kind = GatedFuser if config.type == "gated" else ConvFuser
    return kind(camera_channels, other_channels, config.channels)
