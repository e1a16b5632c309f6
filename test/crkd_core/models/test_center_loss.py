"""The detection loss by hand: what counts, how much, and for which task."""

from __future__ import annotations

import math

import pytest
import torch

from crkd_core.config import HeadConfig
from crkd_core.models.center_head import TASKS, TaskMaps, joined_maps
from crkd_core.models.center_loss import box_losses, center_loss, heatmap_losses, sum_by_task
from crkd_core.models.center_targets import CenterTargets

SHAPE = (4, 3)


def maps(seed: int) -> list[TaskMaps]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(channels: int) -> torch.Tensor:
        return torch.randn(2, channels, *SHAPE, generator=generator)

    return [TaskMaps(drawn(2), drawn(1), drawn(3), drawn(2), drawn(2), drawn(len(task))) for task in TASKS]


def no_targets(slots: int = 2) -> CenterTargets:
    shape, heatmap = (2, len(TASKS), slots), torch.zeros(2, 10, *SHAPE)
    codes, cells = torch.zeros(*shape, 10), torch.zeros(shape, dtype=torch.long)
    return CenterTargets(heatmap, codes, cells, torch.zeros(shape, dtype=torch.bool))


def test_losses_of_a_task_are_of_its_own_maps() -> None:
    targets = no_targets()
    targets.mask[0, :, 0] = True
    one, other = maps(0), maps(1)
    changed = [*one[:2], other[2], *one[3:]]
    before, after = (center_loss(joined_maps(tasks), targets, HeadConfig()) for tasks in (one, changed))
    assert {name for name in before if before[name] != after[name]} == {"heatmap/task2", "box/task2"}
    assert list(before) == [f"{kind}/task{t}" for kind in ("heatmap", "box") for t in range(len(TASKS))]


def test_classes_of_a_task_are_added_up() -> None:
    values = torch.arange(10.0).repeat(2, 1)
    assert sum_by_task(values, dim=1)[1].tolist() == [0, 1 + 2, 3 + 4, 5, 6 + 7, 8 + 9]


def test_a_centre_and_cells_near_it_cost_what_the_focal_loss_says() -> None:
    logits, target = torch.full((2, 10, *SHAPE), -30.0), torch.zeros(2, 10, *SHAPE)
    target[0, 0, 1, 1], target[1, 0, 2, 2], target[0, 0, 1, 2] = 1.0, 1.0, 0.5
    logits[0, 0, 1, 1], logits[1, 0, 2, 2], logits[0, 0, 1, 2] = math.log(3), 0.0, 0.0
    losses = heatmap_losses(logits, target)
    centers = -math.log(3 / 4) / 16 - math.log(1 / 2) / 4
    assert losses[0] == pytest.approx((centers - math.log(1 / 2) / 4 * 0.5**4) / 2, rel=1e-5)
    assert losses[1:].max() < 1e-9


def test_box_codes_count_at_their_cell_and_unknown_ones_not() -> None:
    targets, cell = no_targets(), 1 * SHAPE[1] + 2
    targets.mask[1, 3, 0], targets.cells[1, 3, 0], targets.codes[1, 3, 0] = True, cell, 2.0
    codes = torch.zeros(2, SHAPE[0] * SHAPE[1], len(TASKS), 10)
    codes[1, cell, 3] = 1.0
    codes.requires_grad_()
    losses = box_losses(codes, targets, 0.2)
    assert losses.tolist() == pytest.approx([0, 0, 0, 0.25 * (8 + 2 * 0.2) / (1 + 1e-4), 0, 0])
    targets.codes[1, 3, 0, 8:] = math.nan
    losses = box_losses(codes, targets, 0.2)
    assert float(losses[3]) == pytest.approx(0.25 * 8 / (1 + 1e-4))
    losses.sum().backward()
    assert codes.grad is not None
    assert codes.grad.nonzero().tolist() == [[1, cell, 3, code] for code in range(8)]
