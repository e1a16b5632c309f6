"""BEV decoder: residual stages at strides 2, 4, 4, then an FPN back to the resolution of the grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crkd_core.config import DecoderConfig
from crkd_core.models.resnet import residual_stage


class BevDecoder(nn.Module):
    """Residual stages and neck."""

    def __init__(self, in_channels: int, config: DecoderConfig) -> None:
        super().__init__()
        widths = (in_channels, *config.channels)
        self.stages = nn.ModuleList(
            residual_stage(widths[i], widths[i + 1], config.blocks[i], stride) for i, stride in enumerate((2, 2, 1))
        )
        self.neck = BevNeck(config.channels[0], config.channels[2], config.out_channels)

    def forward(self, fused: Tensor) -> Tensor:
        """(B, in_channels, nx, ny) -> (B, out_channels, nx, ny)."""
        fine, _, coarse = self.stage_maps(fused)
        decoded: Tensor = self.neck(fine, coarse)
        return decoded

    def stage_maps(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs of the three stages."""
        first = self.stages[0](fused)
        second = self.stages[1](first)
        return first, second, self.stages[2](second)


class BevNeck(nn.Module):
    """Coarse map doubled, joined with the fine one, doubled again (bilinear, corners aligned)."""

    def __init__(self, fine_channels: int, coarse_channels: int, channels: int) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            *_conv_norm_relu(coarse_channels + fine_channels, channels, 1), *_conv_norm_relu(channels, channels, 3)
        )
        self.upsample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), *_conv_norm_relu(channels, channels, 3)
        )

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, fine_channels, X, Y), (B, coarse_channels, X / 2, Y / 2) -> (B, channels, 2 X, 2 Y)."""
        up = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
        result: Tensor = self.upsample(self.fuse(torch.cat([up, fine], dim=1)))
        return result


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
