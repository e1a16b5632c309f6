"""Lift-splat pooling on a CPU, in Triton's interpreter and on a GPU against the form spelled out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crkd_core.ops.bev_pool import (
    CONTINUES,
    DROPPED,
    PoolPlan,
    _pool,
    bev_pool,
    bev_pool_reference,
    plan_of_runs,
    pool_plan,
)

# images, rows, columns, bins, channels, cells
CASES = {
    "several images": (2, 5, 3, 6, 20, 12),
    "more cells than points": (1, 3, 1, 2, 4, 60),
    "one point": (1, 1, 1, 1, 3, 4),
    "one cell": (1, 4, 5, 5, 1, 1),
    "odd sizes": (1, 3, 2, 17, 33, 31),
    "more rows than a block": (1, 19, 1, 3, 5, 7),
}
EMPTY = {"no image": (0, 3, 4, 5, 3, 6), "no row": (1, 0, 4, 5, 3, 6)}
KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

Case = tuple[Tensor, Tensor, int]


def case(
    images: int, rows: int, columns: int, bins: int, channels: int, cells: int, *, dtype: torch.dtype = torch.float32
) -> Case:
    """(M, D + C, H, W) logits and context; (M, W, D, H) cells, most of a column in one; number of cells."""
    generator = torch.Generator().manual_seed(rows * 31 + bins)
    per_pixel = torch.randn(images, bins + channels, rows, columns, generator=generator).to(dtype)
    shape = (images, columns, bins, rows)
    column_cells = torch.randint(-2, cells, (*shape[:3], 1), generator=generator, dtype=torch.int32).clamp(min=-1)
    other_cells = torch.randint(-2, cells, shape, generator=generator, dtype=torch.int32).clamp(min=-1)
    turned = torch.rand(shape, generator=generator) < 0.3
    return per_pixel, torch.where(turned, other_cells, column_cells), cells


def reference_with_gradient(per_pixel: Tensor, cells: Tensor, num_cells: int, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = per_pixel.float().clone().requires_grad_()
    pooled = bev_pool_reference(leaf, cells, num_cells)
    pooled.backward(grad.float())
    assert leaf.grad is not None
    return pooled.detach(), leaf.grad


def random_gradient(arguments: Case) -> Tensor:
    per_pixel, cells, num_cells = arguments
    shape = (num_cells, per_pixel.shape[1] - cells.shape[2])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(per_pixel.dtype)


def kernel_forward(per_pixel: Tensor, plan: PoolPlan, *, max_partial: int) -> Tensor:
    from crkd_core.ops.kernels import bev_pool as kernels

    channels = per_pixel.shape[1] - plan.cells.shape[2]
    roles, order, starts = (x.to(KERNEL_DEVICE) for x in (plan.roles, plan.order, plan.starts))
    pooled: Tensor = kernels.forward(
        per_pixel.to(KERNEL_DEVICE), roles, order, starts, channels=channels, max_partial=max_partial
    )
    return pooled.cpu()


@pytest.mark.parametrize("name", CASES | EMPTY)
def test_cpu_equals_reference(name: str) -> None:
    arguments = case(*(CASES | EMPTY)[name])
    grad = random_gradient(arguments)
    expected, expected_grad = reference_with_gradient(*arguments, grad)
    per_pixel, cells, num_cells = arguments
    per_pixel.requires_grad_()
    pooled = bev_pool(per_pixel, pool_plan(cells, num_cells))
    pooled.backward(grad)
    torch.testing.assert_close(pooled.detach(), expected)
    torch.testing.assert_close(per_pixel.grad, expected_grad)


def test_cpu_sums_half_precision_in_float32() -> None:
    per_pixel, cells, num_cells = case(*CASES["several images"], dtype=torch.bfloat16)
    grad = random_gradient((per_pixel, cells, num_cells))
    expected, expected_grad = reference_with_gradient(per_pixel, cells, num_cells, grad)
    pooled = bev_pool(per_pixel.requires_grad_(), pool_plan(cells, num_cells))
    pooled.backward(grad)
    tolerance = {"rtol": torch.finfo(torch.bfloat16).eps, "atol": 1e-6}
    torch.testing.assert_close(pooled.float(), expected, **tolerance)
    torch.testing.assert_close(per_pixel.grad.float(), expected_grad, **tolerance)


def test_backward_in_double_matches_finite_differences() -> None:
    per_pixel, cells, num_cells = case(1, 3, 2, 3, 2, 5, dtype=torch.float64)
    plan = pool_plan(cells, num_cells)
    assert torch.autograd.gradcheck(lambda x: bev_pool(x, plan), per_pixel.requires_grad_())


def test_non_contiguous_inputs() -> None:
    per_pixel, cells, num_cells = case(*CASES["several images"])
    strided = per_pixel.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    plan = pool_plan(cells.transpose(1, 2).contiguous().transpose(1, 2), num_cells)
    torch.testing.assert_close(bev_pool(strided, plan), bev_pool_reference(per_pixel, cells, num_cells))


def test_only_dropped_points_give_zero() -> None:
    per_pixel, cells, _ = case(1, 4, 3, 3, 2, 6)
    assert torch.equal(bev_pool(per_pixel, pool_plan(torch.full_like(cells, -1), 6)), torch.zeros(6, 2))


def test_same_input_gives_the_same_bits() -> None:
    per_pixel, cells, num_cells = case(2, 20, 20, 30, 8, 50)
    results = [bev_pool(per_pixel, pool_plan(cells, num_cells)) for _ in range(2)]
    assert torch.equal(*results)


def test_shapes_that_differ_from_the_plan_are_named() -> None:
    per_pixel, cells, num_cells = case(1, 4, 3, 5, 2, 6)
    with pytest.raises(ValueError, match=r"M, H, W, D = \(1, 4, 3, 5\) as in the plan; got \(1, 7, 3, 4\)"):
        bev_pool(per_pixel.transpose(2, 3), pool_plan(cells, num_cells))


def test_a_plan_of_the_cpu_is_refused_elsewhere() -> None:
    per_pixel, cells, num_cells = case(1, 4, 3, 5, 2, 6)
    plan = pool_plan(cells, num_cells)
    with pytest.raises(ValueError, match="the plan was made on a CPU, per_pixel is on meta"):
        bev_pool(per_pixel.to("meta"), plan)


def test_runs_are_rows_of_one_column_bin_and_cell() -> None:
    cells = torch.tensor([4, 4, -1, 4, 2, 2, 2], dtype=torch.int32).view(1, 1, 1, 7)
    plan = plan_of_runs(cells, 6)
    c, d = CONTINUES, DROPPED
    assert plan.roles.flatten().tolist() == [1, c, d, 2, 0, c, c]
    assert plan.order[:3].tolist() == [4, 0, 3]
    assert plan.starts.tolist() == [0, 0, 0, 1, 1, 3, 3]


def test_torch_sees_through_the_operation() -> None:
    per_pixel, cells, num_cells = case(1, 3, 2, 3, 2, 5)
    plan = pool_plan(cells, num_cells)
    torch.library.opcheck(_pool, (per_pixel.requires_grad_(), plan.cells, plan.order, plan.starts, plan.roles))


@pytest.mark.kernels
@pytest.mark.parametrize("max_partial", [1000, 3], ids=["all sums stored", "three stored"])
@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_reference(name: str, max_partial: int) -> None:
    per_pixel, cells, num_cells = case(*CASES[name])
    plan = plan_of_runs(cells, num_cells)
    pooled = kernel_forward(per_pixel, plan, max_partial=max_partial)
    torch.testing.assert_close(pooled, bev_pool_reference(per_pixel, cells, num_cells))


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("max_partial", [1000, 0], ids=["all sums stored", "none stored"])
def test_kernel_sums_half_precision_in_float32(max_partial: int, dtype: torch.dtype) -> None:
    per_pixel, cells, num_cells = case(*CASES["several images"], dtype=dtype)
    plan = plan_of_runs(cells, num_cells)
    pooled = kernel_forward(per_pixel, plan, max_partial=max_partial)
    expected = bev_pool_reference(per_pixel.float(), cells, num_cells)
    # A GPU rounds the depth weights to ten bits.
    torch.testing.assert_close(pooled.float(), expected, rtol=torch.finfo(dtype).eps, atol=2e-3)


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in CASES), *(("several images", dtype) for dtype in list(TOLERANCE)[1:])],
)
def test_backward_kernel_equals_reference(name: str, dtype: torch.dtype) -> None:
    from crkd_core.ops.kernels import bev_pool as kernels

    arguments = case(*CASES[name], dtype=dtype)
    per_pixel, cells, num_cells = arguments
    grad = random_gradient(arguments)
    _, expected = reference_with_gradient(*arguments, grad)
    plan = plan_of_runs(cells, num_cells)
    result = kernels.backward(*(x.to(KERNEL_DEVICE) for x in (grad, per_pixel, plan.cells))).cpu()
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(result, expected.to(dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.kernels
def test_kernels_take_any_strides() -> None:
    from crkd_core.ops.kernels import bev_pool as kernels

    per_pixel, cells, num_cells = case(*CASES["several images"])
    plan = plan_of_runs(cells, num_cells)
    strided = torch.stack([per_pixel, per_pixel], -1).to(KERNEL_DEVICE)[..., 1].permute(3, 0, 2, 1).permute(1, 3, 2, 0)
    assert not strided.is_contiguous()
    assert torch.equal(kernel_forward(strided, plan, max_partial=9), kernel_forward(per_pixel, plan, max_partial=9))
    grad = torch.randn(num_cells, 20).to(KERNEL_DEVICE)
    gradients = [
        kernels.backward(grad, x.to(KERNEL_DEVICE), plan.cells.to(KERNEL_DEVICE)) for x in (strided, per_pixel)
    ]
    assert torch.equal(*gradients)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES | EMPTY)
def test_gpu_equals_reference(name: str) -> None:
    arguments = case(*(CASES | EMPTY)[name])
    grad = random_gradient(arguments)
    expected, expected_grad = reference_with_gradient(*arguments, grad)
    per_pixel, cells, num_cells = arguments
    leaf = per_pixel.cuda().requires_grad_()
    pooled = bev_pool(leaf, pool_plan(cells.cuda(), num_cells))
    pooled.backward(grad.cuda())
    assert leaf.grad is not None
    torch.testing.assert_close(pooled.detach().cpu(), expected)
    torch.testing.assert_close(leaf.grad.cpu(), expected_grad)


@pytest.mark.gpu
def test_gpu_gives_the_same_bits_again() -> None:
    per_pixel, cells, num_cells = (x.cuda() if isinstance(x, Tensor) else x for x in case(2, 20, 20, 30, 8, 50))
    results = []
    for _ in range(2):
        leaf = per_pixel.clone().requires_grad_()
        pooled = bev_pool(leaf, pool_plan(cells, num_cells))
        pooled.square().sum().backward()
        results.append((pooled, leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
