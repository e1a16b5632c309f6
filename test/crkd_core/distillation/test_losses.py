"""What every distillation loss must do, whatever the weights."""

from __future__ import annotations

import math

import pytest
import torch

from crkd_core.config import BevConfig
from crkd_core.distillation.features import feature_loss, object_mask, scaled_boxes
from crkd_core.distillation.radar import objectness, radar_loss
from crkd_core.distillation.relation import RelationAdapters, relation_loss, resized_maps
from crkd_core.distillation.response import box_loss, response_loss
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import TASKS, TaskMaps

GRID = BevGrid.from_config(BevConfig())


def box(*, x: float = 0.0, y: float = 10.0, r: float = 0.0, vx: float = 0.0, vy: float = 0.0) -> torch.Tensor:
    return torch.tensor([[x, y, -1.0, 2.0, 4.0, 1.5, r, vx, vy]])


def maps(seed: int) -> list[TaskMaps]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(channels: int) -> torch.Tensor:
        return torch.randn(2, channels, 6, 5, generator=generator)

    return [TaskMaps(drawn(2), drawn(1), drawn(3), drawn(2), drawn(2), drawn(len(task))) for task in TASKS]


def test_a_near_standing_box_grows_by_the_least_amount():
    assert scaled_boxes(box())[0, 3:5].tolist() == [2.5, 4.5]


def test_a_far_and_fast_box_grows_along_the_axis_of_its_velocity():
    grown = scaled_boxes(box(y=40.0, vy=5.0))[0, 3:5]
    assert grown.tolist() == [3.0, 8.0]  # range: half of each; speed: half of the length more, four metres at most


def test_the_mask_of_a_box_along_the_frame_is_its_cells_and_of_one_across_it_is_empty():
    longer = box()
    longer[0, 4] = 4.2
    along, across = object_mask([longer, box(r=math.pi / 2)], GRID)
    rows, columns = along.nonzero().T
    assert (rows.min(), rows.max()) == (88, 90)  # x from -1 to 1 m
    assert (columns.min(), columns.max()) == (103, 109)  # y from 7.9 to 12.1 m
    assert not across.any()


def test_boxes_of_one_sample_do_not_mask_another():
    mask = object_mask([torch.zeros(0, 9), box()], GRID)
    assert not mask[0].any()
    assert mask[1].any()


def test_cells_where_the_teacher_is_silent_do_not_count():
    student, teacher = torch.ones(1, 2, *GRID.shape), torch.zeros(1, 2, *GRID.shape)
    mask = object_mask([box()], GRID)
    assert feature_loss(student, teacher, mask) == 0
    teacher[:, 0, 89, 105] = 3.0
    assert feature_loss(student, teacher, mask) == pytest.approx(0.5 * (2.0**2 + 1.0) / 2)


def test_equal_relations_cost_nothing_and_adapters_learn():
    features = torch.randn(2, 4, 40, 40)
    resized = resized_maps(features)
    assert relation_loss(resized, resized) == 0
    adapters = RelationAdapters(4)
    relation_loss(adapters(resized), resized).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in adapters.parameters())


def test_the_radar_learns_the_teachers_objectness():
    logits = [task.heatmap for task in maps(0)]
    expected = objectness(logits)
    assert expected.shape == (2, 1, 6, 5)
    assert radar_loss(expected, logits) == 0
    assert radar_loss(expected + 0.25, logits) == pytest.approx(0.25)


def test_equal_box_answers_cost_nothing_and_weights_scale_a_task():
    student, teacher = maps(0), maps(1)
    same = response_loss(teacher, teacher)
    assert all(loss == 0 for name, loss in same.items() if name.startswith("box/"))
    single, double = (response_loss(student, teacher, weights=[weight] * 6) for weight in (1.0, 2.0))
    for name, loss in single.items():
        torch.testing.assert_close(2 * loss, double[name])


def test_a_teacher_without_confident_cells_still_teaches_boxes():
    score = torch.full((1, 1, 4, 4), 0.02)
    score[0, 0, 1, 2] = 0.047
    student, teacher = torch.zeros(1, 10, 4, 4), torch.full((1, 10, 4, 4), 2.0)
    # Threshold 0.04 is the first that a cell exceeds: smooth L1 of 2 is 1.5, times 10, times the score, times 4.
    assert box_loss(student, teacher, score) == pytest.approx(1.5 * 10 * 0.047 * 4, rel=1e-5)
