"""Lift-splat pooling: the fast form against the one spelled out, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crkd_core.ops.bev_pool import bev_pool, bev_pool_reference

CASES = {
    "dense": (50, 7, 5, 12),
    "more cells than points": (3, 2, 4, 1000),
    "one point": (1, 1, 3, 4),
    "one cell": (20, 5, 1, 1),
    "odd sizes": (33, 13, 17, 101),
    "no pixel": (0, 5, 3, 6),
    "no depth bin": (4, 0, 3, 6),
}


def case(pixels: int, bins: int, channels: int, cells: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(pixels * 31 + bins)
    depth = torch.rand(pixels, bins, generator=generator, dtype=dtype)
    features = torch.randn(pixels, channels, generator=generator, dtype=dtype)
    index = torch.randint(-2, cells, (pixels, bins), generator=generator).clamp(min=-1)
    return depth, features, index, cells


@pytest.mark.parametrize("name", CASES)
def test_forward_equals_reference(name: str) -> None:
    arguments = case(*CASES[name], dtype=torch.float32)
    torch.testing.assert_close(bev_pool(*arguments), bev_pool_reference(*arguments))


@pytest.mark.parametrize("name", CASES)
def test_backward_equals_reference(name: str) -> None:
    depth, features, index, cells = case(*CASES[name], dtype=torch.float32)
    weight = torch.randn(cells, features.shape[1], generator=torch.Generator().manual_seed(1))
    grads = []
    for pool in (bev_pool, bev_pool_reference):
        d, f = depth.clone().requires_grad_(), features.clone().requires_grad_()
        (pool(d, f, index, cells) * weight).sum().backward()
        grads.append((d.grad, f.grad))
    for ours, reference in zip(*grads, strict=True):
        torch.testing.assert_close(ours, reference)


def test_backward_in_double_matches_finite_differences() -> None:
    depth, features, index, cells = case(4, 3, 2, 5, dtype=torch.float64)
    leaves = (depth.requires_grad_(), features.requires_grad_())
    assert torch.autograd.gradcheck(lambda d, f: bev_pool(d, f, index, cells), leaves)


def test_non_contiguous_inputs() -> None:
    depth, features, index, cells = case(20, 6, 5, 9, dtype=torch.float32)
    strided = [x.T.contiguous().T for x in (depth, features, index)]
    assert not strided[0].is_contiguous()
    torch.testing.assert_close(bev_pool(*strided, cells), bev_pool_reference(depth, features, index, cells))


def test_only_dropped_points_give_zero() -> None:
    depth, features, index, cells = case(5, 4, 3, 6, dtype=torch.float32)
    assert torch.equal(bev_pool(depth, features, torch.full_like(index, -1), cells), torch.zeros(6, 3))


def test_same_input_gives_the_same_bits() -> None:
    arguments = case(400, 30, 8, 50, dtype=torch.float32)
    assert torch.equal(bev_pool(*arguments), bev_pool(*arguments))


def test_wrong_shapes_are_named() -> None:
    depth, features, index, cells = case(5, 4, 3, 6, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"got depth \(5, 4\), features \(4, 3\)"):
        bev_pool(depth, features[:4], index, cells)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_gpu_equals_cpu(name: str) -> None:
    depth, features, index, cells = case(*CASES[name], dtype=torch.float32)
    results = []
    for device in ("cpu", "cuda"):
        d, f = (x.detach().to(device).requires_grad_() for x in (depth, features))
        pooled = bev_pool(d, f, index.to(device), cells)
        pooled.square().sum().backward()
        results.append([x.detach().cpu() for x in (pooled, d.grad, f.grad) if x is not None])
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu)
