"""Branches beside each other compute what they do one after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from crkd_core.config import HeadConfig
from crkd_core.models.branches import can_join, joined_branches
from crkd_core.models.center_head import CenterHead, joined_maps
from crkd_core.models.folding import folded
from crkd_core.models.necks import ConvNormReLU


def branches(outputs: tuple[int, ...]) -> nn.ModuleList:
    torch.manual_seed(0)
    made = nn.ModuleList(nn.Sequential(ConvNormReLU(6, 4, 3), nn.Conv2d(4, n, 3, padding=1)) for n in outputs).double()
    for norm in (branch[0].bn for branch in made):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    return made


def test_training_step_is_the_same() -> None:
    apart = branches((2, 1, 3))
    beside = copy.deepcopy(apart)
    x = torch.randn(3, 6, 7, 5, dtype=torch.float64)
    of_apart, of_beside = x.clone().requires_grad_(), x.clone().requires_grad_()
    maps = [branch(of_apart) for branch in apart], joined_branches(beside, of_beside)
    for found in maps:
        torch.stack([(i + 1) * one.square().sum() for i, one in enumerate(found)]).sum().backward()
    for one, other in zip(*maps, strict=True):
        torch.testing.assert_close(other, one)
    torch.testing.assert_close(of_beside.grad, of_apart.grad)
    for (name, one), other in zip(apart.named_parameters(), beside.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=lambda words, name=name: f"{name}: {words}")
    for (name, one), other in zip(apart.named_buffers(), beside.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=lambda words, name=name: f"{name}: {words}")


@pytest.mark.parametrize("fold", [False, True])
def test_evaluation_is_the_same(fold: bool) -> None:
    parts = branches((1, 2)).eval()
    parts = folded(parts) if fold else parts
    x = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    for one, other in zip([branch(x) for branch in parts], joined_branches(parts, x), strict=True):
        torch.testing.assert_close(other, one)


def test_norms_of_several_processes_are_left_alone() -> None:
    parts = branches((1, 2))
    assert can_join(parts)
    assert not can_join(nn.SyncBatchNorm.convert_sync_batchnorm(parts))


@pytest.mark.gpu
def test_a_head_on_a_gpu_learns_as_on_a_cpu() -> None:
    torch.manual_seed(0)
    head = CenterHead(8, HeadConfig(channels=8)).train()
    on_gpu, x = copy.deepcopy(head).cuda(), torch.randn(2, 8, 10, 9)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        maps = joined_maps(head(x)), joined_maps(on_gpu(x.cuda()))
        for one in maps:
            (one.heatmap.square().sum() + one.codes.square().sum()).backward()
    torch.testing.assert_close(maps[1].codes.cpu(), maps[0].codes, rtol=1e-3, atol=1e-4)
    for (name, one), other in zip(head.named_parameters(), on_gpu.parameters(), strict=True):
        error, size = float((other.grad.cpu() - one.grad).norm()), float(one.grad.norm())
        assert error < 1e-3 * size + 1e-3, f"{name}: {error} of {size}"
    for (name, one), other in zip(head.named_buffers(), on_gpu.buffers(), strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=1e-5, msg=lambda words, n=name: f"{n}: {words}")
