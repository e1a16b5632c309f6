"""What every distillation loss must do, whatever the weights."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch

from crkd_core.config import (
    BevConfig,
    FeatureDistillation,
    RadarDistillation,
    RelationDistillation,
    ResponseDistillation,
)
from crkd_core.distillation.features import feature_loss, grown_boxes, object_mask, rectangles_around
from crkd_core.distillation.radar import highest_score, radar_loss, released_objectness
from crkd_core.distillation.relation import RelationAdapters, relation_loss, resized_maps
from crkd_core.distillation.response import box_losses, response_loss
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import TASKS, TaskMaps, joined_maps

CORRECTED, RELEASED = FeatureDistillation(), FeatureDistillation(masks="released")
GRID = BevGrid.from_config(BevConfig())


def box(*, x: float = 0.0, y: float = 10.0, r: float = 0.0, vx: float = 0.0, vy: float = 0.0) -> torch.Tensor:
    return torch.tensor([[x, y, -1.0, 2.0, 4.0, 1.5, r, vx, vy]])


def maps(seed: int) -> list[TaskMaps]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(channels: int) -> torch.Tensor:
        return torch.randn(2, channels, 6, 5, generator=generator)

    return [TaskMaps(drawn(2), drawn(1), drawn(3), drawn(2), drawn(2), drawn(len(task))) for task in TASKS]


def cells(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """First and last row, first and last column."""
    rows, columns = (int(v) for v in mask.nonzero().amin(0)), (int(v) for v in mask.nonzero().amax(0))
    (r0, c0), (r1, c1) = rows, columns
    return r0, r1, c0, c1


def test_a_near_standing_box_grows_by_the_least_amount():
    assert grown_boxes(box(), CORRECTED)[0, 3:5].tolist() == [2.5, 4.5]


def test_a_far_and_fast_box_grows_along_its_motion():
    # Range: half of each; speed: half of the length more, four metres at most.
    forward = box(y=40.0, vy=5.0)
    assert grown_boxes(forward, CORRECTED)[0, 3:5].tolist() == [3.0, 8.0]
    # The same box, driving forward to the right: its length still grows.
    turned = grown_boxes(box(y=40.0, r=math.pi / 2, vx=5.0), CORRECTED)[0, 3:5]
    torch.testing.assert_close(turned, torch.tensor([3.0, 8.0]))


def test_the_released_growth_takes_vx_for_the_width_whatever_the_heading():
    turned = grown_boxes(box(y=40.0, r=math.pi / 2, vx=5.0), RELEASED)[0, 3:5]
    assert turned.tolist() == [4.0, 6.0]


def test_the_mask_holds_the_cells_of_a_box_along_the_frame_across_it_and_at_an_angle():
    along, across, slanted = object_mask([box(), box(r=math.pi / 2), box(r=math.pi / 4)], GRID, CORRECTED)
    # Grown to 2.5 x 4.5 m: x from -1.25 to 1.25 m, y from 7.75 to 12.25 m, in cells of 0.6 m from -54 m on.
    assert cells(along) == (87, 92, 102, 110)
    assert cells(across) == (86, 93, 104, 108)
    # Half the diagonal sum of 2.5 and 4.5 m at 45 degrees: 2.475 m either way.
    assert cells(slanted) == (85, 94, 102, 110)


def test_the_released_mask_of_a_box_across_the_frame_is_empty():
    longer = box()
    longer[0, 4] = 4.2
    along, across = object_mask([longer, box(r=math.pi / 2)], GRID, RELEASED)
    # Grown to 2.5 x 4.7 m; the rows of x = 1.25 m and of y = 12.35 m do not count.
    assert cells(along) == (87, 91, 102, 109)
    assert not across.any()


@pytest.mark.parametrize("x", [-53.9, 53.9])
def test_a_box_at_the_border_counts_up_to_it(x: float):
    first_row, _, end_row, _ = rectangles_around(box(x=x), GRID)[0].tolist()
    assert (first_row, end_row) == ((0, 2) if x < 0 else (178, 180))


def test_a_box_outside_the_grid_has_no_cell():
    assert not object_mask([box(x=70.0)], GRID, CORRECTED).any()


def test_boxes_of_one_sample_do_not_mask_another():
    mask = object_mask([torch.zeros(0, 9), box()], GRID, CORRECTED)
    assert not mask[0].any()
    assert mask[1].any()


def test_cells_where_the_teacher_is_silent_do_not_count():
    student, teacher = torch.ones(1, 2, *GRID.shape), torch.zeros(1, 2, *GRID.shape)
    mask = object_mask([box()], GRID, CORRECTED)
    assert feature_loss(student, teacher, mask, batch_divisor=1) == 0
    teacher[:, 0, 89, 105] = 3.0
    assert feature_loss(student, teacher, mask, batch_divisor=1) == pytest.approx(0.5 * (2.0**2 + 1.0) / 2)


@pytest.mark.parametrize("affinity", ["corrected", "released"])
def test_equal_relations_cost_nothing_and_adapters_learn(affinity: Literal["corrected", "released"]):
    config = RelationDistillation(affinity=affinity)
    features = torch.randn(2, 4, 40, 40)
    resized = resized_maps(features, config.scales)
    assert relation_loss(resized, resized, config, batch_divisor=2) == 0
    adapters = RelationAdapters(4, len(config.scales))
    relation_loss(adapters(resized), resized, config, batch_divisor=2).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in adapters.parameters())


def test_only_the_released_relation_depends_on_the_size_of_the_features():
    features, config = resized_maps(torch.randn(1, 4, 32, 32), (8,)), RelationDistillation(weight=1.0, scales=(8,))
    tripled = [3 * one for one in features]
    torch.testing.assert_close(relation_loss(tripled, features, config, batch_divisor=1), torch.tensor(0.0))
    released = RelationDistillation(weight=1.0, scales=(8,), affinity="released")
    affinity = features[0].flatten(2).transpose(1, 2) @ features[0].flatten(2)
    torch.testing.assert_close(relation_loss(tripled, features, released, batch_divisor=1), 8 * affinity.abs().mean())


def test_the_radar_learns_where_any_class_scores():
    logits = joined_maps(maps(0)).heatmap
    expected = highest_score(logits)
    torch.testing.assert_close(expected, logits.sigmoid().amax(1, keepdim=True))
    assert radar_loss(expected, logits, RadarDistillation()) == 0
    assert radar_loss(expected + 0.25, logits, RadarDistillation(weight=2.0, balance="released")) == pytest.approx(0.5)


def one_object_of(cells: int) -> torch.Tensor:
    logits = torch.full((1, 10, 1, cells), -5.0)
    logits[0, 3, 0, 0] = 2.0
    return logits


def test_the_radar_learns_as_much_from_one_object_as_from_all_empty_cells():
    logits = one_object_of(4)
    activation = torch.full((1, 1, 1, 4), 0.05, requires_grad=True)
    loss = radar_loss(activation, logits, RadarDistillation(weight=100.0))
    seen, empty = torch.tensor(2.0).sigmoid() - 0.05, 0.05 - torch.tensor(-5.0).sigmoid()
    torch.testing.assert_close(loss, 100 * (seen + empty) / 4)
    loss.backward()
    torch.testing.assert_close(activation.grad.flatten(), torch.tensor([-1.0, 1 / 3, 1 / 3, 1 / 3]) * 25)


def test_as_released_the_empty_cells_outvote_the_objects():
    activation = torch.full((1, 1, 1, 20), 0.05, requires_grad=True)
    radar_loss(activation, one_object_of(20), RadarDistillation(balance="released")).backward()
    assert activation.grad.sum() == pytest.approx(100 * 18 / 20)


def test_the_radar_learns_nothing_where_the_teacher_sees_nothing():
    logits = torch.full((2, 10, 3, 3), -9.0)
    assert radar_loss(torch.ones(2, 1, 3, 3), logits, RadarDistillation()) == 0


def test_the_released_objectness_of_one_sure_task_stays_far_below_one():
    logits = torch.full((1, 10, 1, 1), -9.0)
    logits[:, : len(TASKS[0])] += 18.0
    released = radar_loss(torch.zeros(1, 1, 1, 1), logits, RadarDistillation(weight=1.0, objectness="released"))
    corrected = radar_loss(torch.zeros(1, 1, 1, 1), logits, RadarDistillation(weight=1.0))
    assert released == pytest.approx(1 / 6, rel=1e-2)
    assert corrected == pytest.approx(1.0, rel=1e-3)
    assert released == released_objectness(logits).mean()


def test_equal_box_answers_cost_nothing_and_weights_scale_a_task():
    student, teacher = joined_maps(maps(0)), joined_maps(maps(1))
    same = response_loss(teacher, teacher, ResponseDistillation())
    assert all(loss == 0 for name, loss in same.items() if name.startswith("box/"))
    single, double = (
        response_loss(student, teacher, ResponseDistillation(task_weights=(w, w, w, w, w, w))) for w in (1.0, 2.0)
    )
    for name, loss in single.items():
        torch.testing.assert_close(2 * loss, double[name])


def test_velocities_that_are_not_taught_cost_nothing():
    student, teacher = joined_maps(maps(0)), joined_maps(maps(1))
    taught, untaught = (response_loss(student, teacher, ResponseDistillation(velocity_weight=w)) for w in (1.0, 0.0))
    codes = student.codes.clone()
    codes[..., :8] = teacher.codes[..., :8]
    velocities = response_loss(replace(student, codes=codes), teacher, ResponseDistillation())
    for name in (name for name in taught if name.startswith("box/")):
        assert velocities[name] > 0
        torch.testing.assert_close(taught[name], untaught[name] + velocities[name])


def test_a_teacher_without_confident_cells_still_teaches_boxes():
    score = torch.full((1, 2, 4, 4), 0.02)
    score[0, 0, 1, 2], score[0, 1, 3, 3] = 0.047, 0.3
    student, teacher = torch.zeros(1, 16, 2, 10), torch.full((1, 16, 2, 10), 2.0)
    unsure, sure = box_losses(student, teacher, score, box_score=0.1, velocity_weight=1.0).tolist()
    # Threshold 0.04 is the first that a cell exceeds: smooth L1 of 2 is 1.5, times 10, times the score.
    assert unsure == pytest.approx(1.5 * 10 * 0.047, rel=1e-5)
    assert sure == pytest.approx(1.5 * 10 * 0.3, rel=1e-5)
