"""Swin-T image backbone as the original uses it: maps are padded to whole windows first and shifted afterwards."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 7
"""Edge of a window, tokens."""
SHIFT = WINDOW // 2
"""Every other block moves its windows by this, tokens."""
DEPTHS = (2, 2, 6, 2)
HEADS = (3, 6, 12, 24)
WIDTH = 96
"""Channels of the first stage; each later one has twice as many."""


class SwinTiny(nn.Module):
    """Swin-T without its classifier.

    Attributes:
        out_channels: channels at strides 4, 8, 16, 32, of which the last three are returned.
    """

    out_channels = tuple(WIDTH * 2**stage for stage in range(4))

    def __init__(self, drop_path: float = 0.2) -> None:
        """A Swin-T with fresh weights.

        Args:
            drop_path: rate at which the last block's residual branches are dropped in training; it grows from 0.
        """
        super().__init__()
        self.patch_embed = PatchEmbedding(WIDTH)
        rates = [drop_path * i / (sum(DEPTHS) - 1) for i in range(sum(DEPTHS))]
        self.stages = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
            first = sum(DEPTHS[:i])
            self.stages.append(Stage(self.out_channels[i], heads, rates[first : first + depth], merge=i < 3))
        for i in (1, 2, 3):
            setattr(self, f"norm{i}", nn.LayerNorm(self.out_channels[i]))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of three strides.

        Args:
            images: (M, 3, H, W) float RGB, ImageNet-normalised; H and W multiples of 4.

        Returns:
            (M, C, H / s, W / s) with C = 192, 384, 768 for s in 8, 16, 32 (sizes rounded up).
        """
        x = self.patch_embed(images)
        maps = []
        for i, stage in enumerate(self.stages):
            x, out = stage(x)
            if i > 0:
                maps.append(getattr(self, f"norm{i}")(out).permute(0, 3, 1, 2))
        return maps


class PatchEmbedding(nn.Module):
    """4 x 4 pixels to one token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, 4, 4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(M, 3, H, W) -> (M, H / 4, W / 4, channels)."""
        tokens: Tensor = self.norm(self.projection(images).permute(0, 2, 3, 1))
        return tokens


class Stage(nn.Module):
    """Blocks whose windows are moved every other time, and the merging of patches for the next stage."""

    def __init__(self, channels: int, heads: int, drop_path: list[float], *, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels, heads, i % 2 == 1, rate) for i, rate in enumerate(drop_path))
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(M, H, W, C) -> the next stage's input (M, H / 2, W / 2, 2 C), and the output (M, H, W, C)."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x), x


class PatchMerging(nn.Module):
    """2 x 2 tokens to one of twice the channels. Channels are ordered channel first, then position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(M, H, W, C) -> (M, ceil(H / 2), ceil(W / 2), 2 C)."""
        m, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.view(m, (height + 1) // 2, 2, (width + 1) // 2, 2, channels).permute(0, 1, 3, 5, 2, 4)
        merged: Tensor = self.reduction(self.norm(x.flatten(3)))
        return merged


class Block(nn.Module):
    """Attention within windows, then a two-layer network, each with a residual branch."""

    def __init__(self, channels: int, heads: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = ShiftedWindows(channels, heads, SHIFT if shifted else 0)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(M, H, W, C) -> (M, H, W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        result: Tensor = x + self.drop_path(self.ffn(self.norm2(x)))
        return result


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(channels, hidden), nn.GELU()), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        result: Tensor = self.layers(x)
        return result


class ShiftedWindows(nn.Module):
    """Cuts a map into windows, moved by ``shift``, and lets each attend to itself."""

    def __init__(self, channels: int, heads: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.w_msa = WindowAttention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        """(M, H, W, C) -> (M, H, W, C)."""
        m, height, width, channels = x.shape
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = _shift_mask(rows, columns, x.device)
        windows = x.view(m, rows, WINDOW, columns, WINDOW, channels).transpose(2, 3)
        attended = self.w_msa(windows.reshape(m, rows * columns, WINDOW * WINDOW, channels), mask)
        x = attended.view(m, rows, columns, WINDOW, WINDOW, channels).transpose(2, 3).reshape(x.shape)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of a window, with a learned bias by relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        steps = torch.arange(WINDOW)
        y, x = (axis.flatten() for axis in torch.meshgrid(steps, steps, indexing="ij"))
        index = (y[:, None] - y + WINDOW - 1) * (2 * WINDOW - 1) + x[:, None] - x + WINDOW - 1
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window.

        Args:
            windows: (M, N, 49, C), N windows.
            mask: (N, 49, 49) bool, which tokens see each other; None: all.

        Returns:
            (M, N, 49, C).
        """
        m, n, tokens, channels = windows.shape
        qkv = self.qkv(windows).view(m * n, tokens, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if mask is not None:
            # The original adds -100 rather than -inf.
            bias = bias + torch.where(mask, 0.0, -100.0)[:, None]
            bias = bias.repeat(m, 1, 1, 1)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        result: Tensor = self.proj(attended.transpose(1, 2).reshape(m, n, tokens, channels))
        return result


class DropPath(nn.Module):
    """In training, drops a residual branch of whole samples at random and scales the rest up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """(M, ...) -> (M, ...)."""
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.dim() - 1), device=branch.device) >= self.rate
        return torch.where(kept, branch / (1 - self.rate), 0.0)


def _shift_mask(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 49, 49) bool: tokens of a moved window that were neighbours before the map was rolled around."""

    def regions(windows: int) -> Tensor:
        region = torch.zeros(windows * WINDOW, dtype=torch.int64, device=device)
        region[-WINDOW:-SHIFT], region[-SHIFT:] = 1, 2
        return region.view(windows, WINDOW)

    region = regions(rows)[:, None, :, None] * 3 + regions(columns)[None, :, None, :]
    region = region.reshape(rows * columns, WINDOW * WINDOW)
    return region[:, :, None] == region[:, None]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
