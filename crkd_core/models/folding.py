"""Batch norm folded into the convolutions before it: the same network at inference with fewer passes over its maps."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from crkd_core.models.resnet import BasicBlock, Bottleneck

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


def fused(model: Module) -> Module:
    """A folded model whose convolutions are followed by their ReLU, and their residual sum, in one cuDNN kernel.

    Changes the model in place, and returns it. It runs on CUDA only; its parameter names differ.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (BasicBlock, Bottleneck)):
                setattr(parent, name, FusedBlock(child))
        if isinstance(parent, nn.Sequential):
            _fuse_sequence(parent)
    return model


def _fuse_sequence(parent: nn.Sequential) -> None:
    """Every convolution that is followed by a ReLU, with nothing but identities between, takes it over."""
    names = [name for name, child in parent.named_children() if not isinstance(child, nn.Identity)]
    for conv_name, relu_name in pairwise(names):
        conv, relu = getattr(parent, conv_name), getattr(parent, relu_name)
        if type(conv) is nn.Conv2d and isinstance(relu, nn.ReLU):
            setattr(parent, conv_name, ConvReLU(conv))
            setattr(parent, relu_name, nn.Identity())


class ConvReLU(nn.Module):
    """Convolution and ReLU, optionally with a sum between them, in one cuDNN kernel."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        assert not isinstance(conv.padding, str)
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """relu(conv(x) + shortcut), in the type of the weights."""
        x, weight, bias = x.to(self.weight.dtype), self.weight, self.bias
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        if shortcut is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
        return torch.cudnn_convolution_add_relu(x, weight, shortcut, 1.0, bias, *geometry)


def _without_bias(shortcut: nn.Module, last: nn.Module) -> nn.Conv2d:
    """The shortcut's convolution, its bias added to that of the convolution with which it is summed."""
    assert isinstance(shortcut, nn.Conv2d)
    assert isinstance(last, ConvReLU)
    if shortcut.bias is not None:
        assert last.bias is not None
        last.bias = nn.Parameter(last.bias + shortcut.bias, requires_grad=False)
        shortcut.bias = None
    return shortcut


class FusedBlock(nn.Module):
    """A folded residual block."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        names = ("conv1", "conv2") if isinstance(block, BasicBlock) else ("conv1", "conv2", "conv3")
        self.convs = nn.ModuleList(ConvReLU(getattr(block, name)) for name in names)
        self.downsample = None if block.downsample is None else _without_bias(block.downsample[0], self.convs[-1])

    def forward(self, x: Tensor) -> Tensor:
        """As the block."""
        out = x
        for conv in self.convs[:-1]:
            out = conv(out)
        result: Tensor = self.convs[-1](out, x if self.downsample is None else self.downsample(x))
        return result
