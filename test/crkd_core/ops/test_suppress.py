"""Suppression of whole groups, in Triton's interpreter or on a GPU, against the functions it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crkd_core.ops.suppress import suppress, suppress_reference

KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def crowd(groups: int, count: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes that overlap much, some of them equal, turned by a quarter or sharing an edge."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([25.0, 25.0, 3.0, 8.0, 6.0])
    boxes = torch.rand(groups, count, 5, generator=generator) * scale + 0.1
    if count > 8:
        boxes[:, 5] = boxes[:, 2]
        boxes[:, 6] = boxes[:, 2] + torch.tensor([0, 0, 0, 0, torch.pi / 2])
        boxes[:, 7] = boxes[:, 3] + torch.tensor([0, 0, 0, 0, torch.pi])
        boxes[:, 8] = torch.tensor([12.0, 12, 2, 4, 0])
        boxes[:, 4] = torch.tensor([14.0, 12, 2, 4, 0])
    valid = torch.rand(groups, count, generator=generator) > 0.2
    radius = torch.tensor([4.0, 0.0, 0.0, 1.0])[torch.arange(groups) % 4]
    return boxes, valid, radius


@pytest.mark.kernels
@pytest.mark.parametrize(("count", "max_kept"), [(1, 3), (9, 5), (64, 83), (130, 20)])
def test_kernels_keep_the_same_boxes(count: int, max_kept: int) -> None:
    from crkd_core.ops.kernels.suppress import launch_suppress

    boxes, valid, radius = crowd(4, count, seed=count)
    expected = suppress_reference(boxes, valid, radius, 0.2, max_kept)
    on_device = [x.to(KERNEL_DEVICE) for x in (boxes, valid, radius)]
    found = launch_suppress(*on_device, 0.2, max_kept).cpu()
    assert torch.equal(found, expected)


@pytest.mark.kernels
@pytest.mark.parametrize(("groups", "count"), [(0, 4), (2, 0)])
def test_kernels_keep_nothing_of_nothing(groups: int, count: int) -> None:
    from crkd_core.ops.kernels.suppress import launch_suppress

    arguments = torch.zeros(groups, count, 5), torch.zeros(groups, count, dtype=torch.bool), torch.zeros(groups)
    found = launch_suppress(*(x.to(KERNEL_DEVICE) for x in arguments), 0.2, 3)
    assert found.tolist() == [[-1] * 3] * groups


def test_boxes_that_are_not_there_suppress_nothing() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 4, 0], [0.1, 0, 2, 4, 0], [0.2, 0, 2, 4, 0]]])
    for radius in (0.0, 9.0):
        found = suppress(boxes, torch.tensor([[False, True, True]]), torch.tensor([radius]), 0.2, 2)
        assert found.tolist() == [[1, -1]]


def test_the_operator_is_what_compilers_expect() -> None:
    torch.library.opcheck(suppress, (*crowd(2, 9, seed=0), 0.2, 4))
