"""Batch norm folded into the convolutions before it: the same network at inference with fewer passes over its maps."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Module = TypeVar("Module", bound=nn.Module)

_PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("conv", "bn"))
"""Names of convolutions and of the batch norm that follows each."""


def folded(model: Module) -> Module:
    """A copy for inference, in eval mode, equal to the model up to rounding. Its parameter names differ.

    Every convolution that a batch norm follows, by position in an ``nn.Sequential`` or by the names of ``_PAIRS``,
    takes over its scale and shift.
    """
    result = copy.deepcopy(model).eval()
    for parent in result.modules():
        for conv_name, norm_name in _followers(parent):
            conv, norm = getattr(parent, conv_name), getattr(parent, norm_name)
            transpose = isinstance(conv, nn.ConvTranspose2d)
            setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm, transpose))
            setattr(parent, norm_name, nn.Identity())
    return result


def _followers(parent: nn.Module) -> list[tuple[str, str]]:
    """Pairs of child names: a convolution and the batch norm that follows it."""
    names = [name for name, _ in parent.named_children()]
    candidates = list(pairwise(names)) if isinstance(parent, nn.Sequential) else list(_PAIRS)
    return [
        (a, b)
        for a, b in candidates
        if isinstance(getattr(parent, a, None), (nn.Conv2d, nn.ConvTranspose2d))
        and isinstance(getattr(parent, b, None), nn.BatchNorm2d)
    ]
