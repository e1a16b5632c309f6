"""Necks that bring the image backbone's maps to one map at stride 8."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SecondFPN(nn.Module):
    """Every level is brought to stride 8 by one (transposed) convolution; the results are concatenated.

    Attributes:
        out_channels: channels of the output, those of all branches together.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        """One branch for each of four levels.

        Args:
            in_channels: channels at strides 4, 8, 16, 32.
            channels: channels of each branch.
        """
        super().__init__()
        c4, c8, c16, c32 = in_channels
        resizers = (
            nn.Conv2d(c4, channels, 2, 2, bias=False),
            nn.ConvTranspose2d(c8, channels, 1, 1, bias=False),
            nn.ConvTranspose2d(c16, channels, 2, 2, bias=False),
            nn.ConvTranspose2d(c32, channels, 4, 4, bias=False),
        )
        self.deblocks = nn.ModuleList(
            nn.Sequential(r, nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU(inplace=True)) for r in resizers
        )
        self.out_channels = 4 * channels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 -> (M, out_channels, H / 8, W / 8), in level order."""
        return torch.cat([block(x) for block, x in zip(self.deblocks, maps, strict=True)], dim=1)


class GeneralizedLSSFPN(nn.Module):
    """Top-down pyramid over three levels; only its finest map is used.

    Attributes:
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        """Lateral and output convolutions of the two finer levels.

        Args:
            in_channels: channels at strides 8, 16, 32.
            channels: channels of the output.
        """
        super().__init__()
        c8, c16, c32 = in_channels
        self.lateral_convs = nn.ModuleList(
            [ConvNormReLU(c8 + channels, channels, 1), ConvNormReLU(c16 + c32, channels, 1)]
        )
        self.fpn_convs = nn.ModuleList([ConvNormReLU(channels, channels, 3), ConvNormReLU(channels, channels, 3)])
        self.out_channels = channels

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps at strides 8, 16, 32 -> (M, out_channels, H / 8, W / 8)."""
        return self.pyramid(maps)[0]

    def pyramid(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The output maps at strides 8 and 16."""
        fine, middle, coarse = maps
        middle = self._merge(1, middle, coarse)
        return self._merge(0, fine, middle), middle

    def _merge(self, level: int, fine: Tensor, coarse: Tensor) -> Tensor:
        up = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        merged: Tensor = self.fpn_convs[level](self.lateral_convs[level](torch.cat([fine, up], dim=1)))
        return merged


class ConvNormReLU(nn.Sequential):
    """Bias-free convolution ``conv``, batch norm ``bn``, ReLU; Kaiming-normal (fan out) weights."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels), relu=nn.ReLU(inplace=True))
        super().__init__(layers)
