"""Which slots boxes of a batch take, and which leave none."""

from __future__ import annotations

import torch

from crkd_core.config import HeadConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_targets import draw_targets, sample_of_each

GRID = BevGrid((-8.0, -4.0), (1.0, 1.0), (16, 8), (-5.0, 3.0))
CAR, TRUCK, VEHICLE, BUS = range(4)


def boxes(*centers: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([[x, y, -1.0, 2.0, 4.0, 1.5, 0.0, 0.0, 0.0] for x, y in centers]).reshape(-1, 9)


def test_boxes_take_slots_class_by_class_in_their_order() -> None:
    """A construction vehicle before two trucks: the trucks come first; a car is of another task."""
    given = boxes((0.5, 0.5), (1.5, 0.5), (2.5, 0.5), (3.5, 0.5))
    targets = draw_targets([given], [torch.tensor([VEHICLE, TRUCK, CAR, TRUCK])], GRID, HeadConfig(max_boxes=4))
    row = targets.cells[0, 1, :3] // GRID.shape[1]
    assert row.tolist() == [9, 11, 8]
    assert targets.mask.sum(2).tolist() == [[1, 3, 0, 0, 0, 0]]
    assert targets.codes[0, 1, :3, :2].unique().tolist() == [0.5]
    assert [int(n) for n in (targets.heatmap == 1).sum((0, 2, 3))] == [1, 2, 1, 0, 0, 0, 0, 0, 0, 0]


def test_ignored_boxes_and_those_outside_or_beyond_the_slots_have_none() -> None:
    given = boxes((0.5, 0.5), (1.5, 0.5), (8.5, 0.5), (2.5, 0.5), (3.5, 0.5))
    flat = boxes((4.5, 0.5))
    flat[0, 3] = 0.0
    labels = [torch.tensor([-1, BUS, BUS, BUS, BUS]), torch.tensor([], dtype=torch.long), torch.tensor([CAR])]
    targets = draw_targets([given, boxes(), flat], labels, GRID, HeadConfig(max_boxes=3))
    # The one outside keeps its slot empty.
    assert targets.mask.flatten(1).sum(1).tolist() == [2, 0, 0]
    assert targets.mask[0, 2].tolist() == [True, False, True]
    # A box without a slot is drawn all the same.
    assert (targets.heatmap == 1).flatten(1).sum(1).tolist() == [3, 0, 0]


def test_targets_of_a_task_are_its_part_of_all() -> None:
    targets = draw_targets([boxes((0.5, 0.5))], [torch.tensor([BUS])], GRID, HeadConfig())
    bus = targets.tasks()[2]
    assert bus.heatmap.shape == (1, 2, *GRID.shape)
    assert bus.heatmap[0, 0, 8, 4] == 1
    assert bus.mask.sum() == targets.mask.sum() == 1


def test_boxes_know_their_sample() -> None:
    assert sample_of_each([boxes(), boxes((0, 0), (1, 1)), boxes(), boxes((2, 2))]).tolist() == [1, 1, 3]
