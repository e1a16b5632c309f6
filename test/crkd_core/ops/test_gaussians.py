"""Gaussians in heat maps: the kernel against torch, and both against the formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crkd_core.ops.gaussians import draw_gaussians, draw_gaussians_reference

KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = [3, 20, 37]


def gaussians(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Some overlap, some reach beyond a border, some belong to no map."""
    generator = torch.Generator().manual_seed(count)
    plane = torch.randint(-1, 4, (count,), generator=generator)
    cell = torch.randint(-2, 38, (count, 2), generator=generator)
    return plane, cell, torch.randint(0, 20, (count,), generator=generator)


def test_the_maximum_of_two_gaussians() -> None:
    maps = draw_gaussians(torch.tensor([1, 1]), torch.tensor([[4, 5], [4, 7]]), torch.tensor([2, 2]), [2, 9, 9])
    expected = torch.zeros(9, 9)
    for row in range(9):
        for column in range(9):
            for x, y in ((4, 5), (4, 7)):
                if abs(row - x) <= 2 and abs(column - y) <= 2:
                    value = math.exp(-((row - x) ** 2 + (column - y) ** 2) / (2 * (5 / 6) ** 2))
                    expected[row, column] = max(expected[row, column].item(), value)
    assert (expected == 1).sum() == 2
    torch.testing.assert_close(maps, torch.stack([torch.zeros(9, 9), expected]))


def test_gaussians_of_no_map_are_left_out() -> None:
    maps = draw_gaussians(torch.tensor([-1, 2]), torch.tensor([[1, 1], [1, 1]]), torch.tensor([9, 9]), [2, 4, 4])
    assert torch.equal(maps, torch.zeros(2, 4, 4))


@pytest.mark.kernels
@pytest.mark.parametrize("count", [0, 1, 30])
def test_kernel_equals_reference(count: int) -> None:
    from crkd_core.ops.kernels import gaussians as kernels

    plane, cell, radius = gaussians(count)
    strided = cell.T.contiguous().T.to(KERNEL_DEVICE)
    maps = kernels.draw(plane.to(KERNEL_DEVICE), strided, radius.to(KERNEL_DEVICE), tuple(SHAPE)).cpu()
    expected = draw_gaussians_reference(plane, cell, radius, SHAPE)
    torch.testing.assert_close(maps, expected)
    assert torch.equal(maps == 1, expected == 1)


def test_torch_sees_through_the_operation() -> None:
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(draw_gaussians, (*gaussians(5), SHAPE), test_utils=checks)
