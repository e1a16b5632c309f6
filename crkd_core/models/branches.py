"""Branches of a head beside each other: what many small layers make of one map, by a few large ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crkd_core.ops.constants import constant


def can_join(branches: Iterable[Any]) -> bool:
    """Whether ``joined_branches`` computes what these do: batch norms are folded away, or ones of their own process."""
    return all(type(branch[0].bn) in (nn.BatchNorm2d, nn.Identity) for branch in branches)


def joined_branches(branches: Iterable[Any], x: Tensor) -> list[Tensor]:
    """What each branch makes of a map; the same weights, statistics and gradients as one after the other.

    Args:
        branches: each a ``ConvNormReLU`` of as many channels, then a convolution; both 3x3. See ``can_join``.
        x: (B, in_channels, nx, ny).

    Returns:
        (B, out_channels, nx, ny) of each.
    """
    firsts, lasts = zip(*branches, strict=True)
    middle = F.conv2d(x, *side_by_side([first.conv for first in firsts]), padding=1)
    middle = F.relu(_normed([first.bn for first in firsts], middle), inplace=True)
    joined = F.conv2d(middle, *block_diagonal(lasts), padding=1)
    return list(joined.split([last.out_channels for last in lasts], dim=1))


def side_by_side(convs: Sequence[nn.Conv2d]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias (None without) of one convolution whose output channels are those of all, one after the other."""
    bias = [conv.bias for conv in convs if conv.bias is not None]
    return torch.cat([conv.weight for conv in convs]), torch.cat(bias) if bias else None


def block_diagonal(convs: Sequence[nn.Conv2d]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one over the input channels of all, as many of each, in which each output reads its own."""
    weight, bias = side_by_side(convs)
    own = [[float(i == j) for j in range(len(convs))] for i, conv in enumerate(convs) for _ in range(conv.out_channels)]
    spread = weight[:, None] * constant(own, weight.device, weight.dtype)[..., None, None, None]
    return spread.flatten(1, 2), bias


def _normed(norms: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Each batch norm on its own channels."""
    batch_norms = [norm for norm in norms if isinstance(norm, nn.BatchNorm2d)]
    if not batch_norms:
        return x
    entries = [(norm.running_mean, norm.running_var, norm.weight, norm.bias) for norm in batch_norms]
    mean, var, weight, bias = (torch.cat(one) for one in zip(*entries, strict=True))
    first, training = batch_norms[0], batch_norms[0].training
    normed = F.batch_norm(x, mean, var, weight, bias, training, first.momentum or 0.0, first.eps)
    if training:
        for own, updated in (("running_mean", mean), ("running_var", var)):
            parts = updated.split([norm.num_features for norm in batch_norms])
            torch._foreach_copy_([getattr(norm, own) for norm in batch_norms], parts)
        torch._foreach_add_([norm.num_batches_tracked for norm in batch_norms], 1)  # type: ignore[misc]
    return normed
