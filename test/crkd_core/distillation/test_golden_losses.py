"""The four distillation losses against vectors of the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crkd_core.config import (
    BevConfig,
    FeatureDistillation,
    HeadConfig,
    RadarDistillation,
    RelationDistillation,
    ResponseDistillation,
)
from crkd_core.distillation.features import covered_cells, feature_loss, grown_boxes, object_mask, released_rectangles
from crkd_core.distillation.radar import radar_loss, released_objectness
from crkd_core.distillation.relation import RelationAdapters, relation_loss, resized_maps
from crkd_core.distillation.response import response_loss
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import BOX_MAPS, TASKS, TaskMaps, joined_maps
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import draw_targets

pytestmark = pytest.mark.golden
Load = Callable[[str], Any]
FEATURES = FeatureDistillation(masks="released")
RELATION = RelationDistillation(affinity="released", weight=1.0)
NAMES = [*(name for name, _ in BOX_MAPS), "heatmap"]


def close(found: Tensor, expected: Tensor, *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def task_maps(g: Any, prefix: str) -> tuple[TaskMaps, ...]:
    return tuple(TaskMaps(**{name: g[f"{prefix}task{t}.{name}"] for name in NAMES}) for t in range(len(TASKS)))


def test_radar(load_golden: Load) -> None:
    g = load_golden("lr_kd")
    logits = torch.cat([g[f"in.teacher_logits{t}"] for t in range(len(TASKS))], dim=1)
    close(released_objectness(logits), g["out.lidar_heatmap"])
    config = RadarDistillation(weight=g.meta["loss_weight"], objectness="released", balance="released")
    close(radar_loss(g["in.radar_activation"], logits, config), g["out.loss"])


def masks(boxes: list[Tensor], grid: BevGrid) -> Tensor:
    """Of boxes that have not grown."""
    sample = torch.repeat_interleave(torch.arange(len(boxes)), torch.tensor([len(one) for one in boxes]))
    return covered_cells(released_rectangles(torch.cat(boxes), grid), sample, len(boxes), grid)


@pytest.mark.parametrize("kind", ["scaled", "unscaled"])
def test_masks_of_objects(load_golden: Load, kind: str) -> None:
    g, grid = load_golden("mask_feat_loss"), BevGrid.from_config(BevConfig())
    boxes = [g["in.boxes0"], g["in.boxes1"]]
    if kind == "scaled":
        boxes = [grown_boxes(sample, FEATURES) for sample in boxes]
        for i, sample in enumerate(boxes):
            close(sample, g[f"out.scaled_boxes{i}"])
    for i, sample in enumerate(boxes):
        x4, y0, x0, y2 = g[f"out.gt_masks_{kind}{i}"].long().clamp(0, 179).T
        expected = [torch.minimum(x0, x4), torch.minimum(y0, y2), torch.maximum(x0, x4), torch.maximum(y0, y2)]
        assert torch.equal(released_rectangles(sample, grid), torch.stack(expected, dim=1))
    assert torch.equal(masks(boxes, grid), g[f"out.mask_{kind}"].bool())


def test_masked_features(load_golden: Load, random_stream: Callable[[int, str], np.random.Generator]) -> None:
    g, grid = load_golden("mask_feat_loss"), BevGrid.from_config(BevConfig())
    seed, shape = g.meta["feature_recipe"]["seed"], (2, 3, *grid.shape)
    student, noise = (
        torch.from_numpy(random_stream(seed, name).standard_normal(shape).astype(np.float32))
        for name in ("mask.x", "mask.y")
    )
    teacher = (noise - 0.3).relu()
    student.requires_grad_()
    boxes = [g["in.boxes0"], g["in.boxes1"]]
    close(feature_loss(student, teacher, masks(boxes, grid), batch_divisor=2), g["out.loss_unscaled"])
    loss = feature_loss(student, teacher, object_mask(boxes, grid, FEATURES), batch_divisor=2)
    close(loss, g["out.loss_scaled"])
    loss.backward()
    assert student.grad is not None
    close(student.grad.abs().sum(), g["out.grad_sum_abs"])
    empty = object_mask([torch.zeros(0, 9)] * 2, grid, FEATURES)
    close(feature_loss(student, teacher, empty, batch_divisor=2), g["out.loss_no_boxes"])


def test_relations(load_golden: Load) -> None:
    g = load_golden("affinity_loss")
    scales = tuple(g.meta["downsample_size"])
    student, teacher = g["in.student"].requires_grad_(), resized_maps(g["in.teacher"], scales)
    resized = resized_maps(student, scales)
    for one, scale in zip(resized, scales, strict=True):
        close(one, g[f"out.interp{scale}"])
    close(relation_loss(resized, teacher, RELATION, batch_divisor=len(student)), g["out.loss_noadapt"])
    close(relation_loss(resized[2:3], teacher[2:3], RELATION, batch_divisor=len(student)), g["out.loss_noadapt_only8"])
    adapters = RelationAdapters(student.shape[1], len(scales))
    weights = {
        key.replace("adapt_modules", "adapters").replace(".conv_channel_layer", ""): value
        for key, value in g.group("w.").items()
    }
    adapters.load_state_dict(weights)
    loss = relation_loss(adapters(resized), teacher, RELATION, batch_divisor=len(student))
    close(loss, g["out.loss_adapt"])
    (gradient,) = torch.autograd.grad(loss, student)
    row = g["out.grad_x_adapt_row"]
    rows = (gradient - row[:, :, None]).abs().amax(dim=(0, 1, 3))
    assert rows.min() <= 1e-5 * row.abs().max()


def test_responses(load_golden: Load) -> None:
    g = load_golden("center_head_losses")
    student, teacher = (joined_maps(task_maps(g, f"in.{name}.")) for name in ("student", "teacher"))
    losses = response_loss(student, teacher, ResponseDistillation(task_weights=tuple(g.meta["loss_soft_task_weights"])))
    for t in range(len(TASKS)):
        close(losses[f"heatmap/task{t}"], g[f"out.amp.loss.heatmap/task{t}/kd"])
        close(losses[f"box/task{t}"], g[f"out.amp.loss.bbox/task{t}/kd"])


def test_gradients_of_detection_and_response(load_golden: Load) -> None:
    g = load_golden("center_head_losses")
    raw = task_maps(g, "in.student.")
    inputs = [getattr(maps, name).requires_grad_() for maps in raw for name in NAMES]
    student, teacher = joined_maps(raw), joined_maps(task_maps(g, "in.teacher."))
    half, cells = g.meta["half_extent"], g.meta["cells"]
    grid = BevGrid((-half, -half), (2 * half / cells,) * 2, (cells, cells), (-5.0, 3.0))
    targets = draw_targets([g["in.boxes0"], g["in.boxes1"]], [g["in.labels0"], g["in.labels1"]], grid, HeadConfig())
    losses = [center_loss(student, targets, HeadConfig())]
    losses.append(
        response_loss(student, teacher, ResponseDistillation(task_weights=tuple(g.meta["loss_soft_task_weights"])))
    )
    total = torch.stack([loss for part in losses for loss in part.values()]).sum()
    names = [f"out.amp.grad.task{t}.{name}" for t in range(len(TASKS)) for name in NAMES]
    for name, gradient in zip(names, torch.autograd.grad(total, inputs), strict=True):
        close(gradient, g[name], atol=1e-5 * float(g[name].abs().max()))
