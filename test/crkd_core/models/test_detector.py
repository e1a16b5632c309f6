"""The composed detector: every sensor may be missing, sizes come from the recipe, training reaches every weight."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import crkd_core.models
from crkd_core.config import HeadConfig, Recipe, RecipeError, load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.models.center_head import CenterHead
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.detector import FusionDetector
from crkd_core.models.folding import folded
from crkd_core.types import NetworkInput

CAMERA = torch.tensor([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""An optical frame that looks along x of the BEV frame."""


def small_recipe(**model: Any) -> Recipe:
    """student_tiny, smaller still, on a grid that is not square."""
    values = recipe_to_dict(load_recipe("student_tiny"))
    values["image"]["size"] = [64, 96]
    values["bev"] = {"x_range": [-14.4, 14.4], "y_range": [-7.2, 14.4], "z_range": [-5.0, 3.0], "cell": 0.9}
    values["model"]["camera"] |= {"backbone_width": 16, "neck_channels": 8, "channels": 8, "depth": [1.0, 20.0, 1.0]}
    values["model"]["radar"] |= {"channels": [8, 8]}
    values["model"]["decoder"] = {"channels": [16, 16, 32], "blocks": [1, 1, 1], "out_channels": 16}
    values["model"]["fuser"]["channels"] = 16
    values["model"]["head"]["channels"] = 8
    for section, change in model.items():
        values["model"][section] = None if change is None else values["model"][section] | change
    return recipe_from_dict(values, source="test")


def random_input(images: tuple[int, ...], points: tuple[int, ...], seed: int = 0) -> NetworkInput:
    """One image and point count per sample."""
    generator = torch.Generator().manual_seed(seed)
    count, samples = sum(images), torch.arange(len(images))
    radar = torch.randn(sum(points), 45, generator=generator)
    radar[:, :2] *= 6.0
    return NetworkInput(
        images=torch.randn(count, 3, 64, 96, generator=generator),
        image_sample=torch.repeat_interleave(samples, torch.tensor(images)),
        intrinsics=torch.tensor([[50.0, 0, 48], [0, 50, 32], [0, 0, 1]]).repeat(count, 1, 1),
        T_bev_from_cam=CAMERA.repeat(count, 1, 1),
        image_augment=torch.eye(3).repeat(count, 1, 1),
        bev_augment=torch.eye(4).repeat(len(images), 1, 1),
        radar=radar,
        radar_sample=torch.repeat_interleave(samples, torch.tensor(points)),
    )


def random_truth(samples: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(7)
    boxes = torch.rand(samples, 10, 9, generator=generator) + 0.5
    boxes[..., :2] = boxes[..., :2] * 12 - 6
    boxes[..., 2] = -1.0
    return list(boxes), [torch.arange(10)] * samples


def test_package_imports() -> None:
    assert crkd_core.models.__doc__


@pytest.mark.parametrize(
    ("neck", "fuser", "calibration"),
    [("second_fpn", "gated", True), ("second_fpn", "conv", False), ("generalized_lss_fpn", "gated", False)],
)
def test_training_step_reaches_every_weight(calibration: bool, fuser: str, neck: str) -> None:
    torch.manual_seed(0)
    recipe = small_recipe(radar={"calibration": calibration}, fuser={"type": fuser}, camera={"neck": neck})
    model = FusionDetector(recipe).train()
    output = model(random_input((2, 1), (40, 25)))
    losses = center_loss(output.joined, center_targets(*random_truth(2), recipe), recipe.model.head)
    assert set(losses) == {f"{kind}/task{t}" for kind in ("heatmap", "box") for t in range(6)}
    total = torch.stack(list(losses.values())).sum()
    if output.radar_activation is not None:
        total = total + output.radar_activation.mean()
    total.backward()
    assert torch.isfinite(total)
    silent = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []
    assert (output.radar_activation is not None) == calibration


@pytest.mark.parametrize("absent", ["camera", "radar"])
def test_a_detector_of_one_sensor_trains_and_reads_nothing_else(absent: str) -> None:
    torch.manual_seed(0)
    recipe = small_recipe(**{absent: None, "fuser": {"type": "conv"}})
    model = FusionDetector(recipe).train()
    inputs, other_inputs = random_input((2, 1), (40, 25), seed=0), random_input((2, 1), (40, 25), seed=1)
    output = model(inputs)
    assert output.camera_gated.shape[1] == (0 if absent == "camera" else 8)
    assert output.other.shape[1] == (0 if absent == "radar" else 8)
    losses = center_loss(output.joined, center_targets(*random_truth(2), recipe), recipe.model.head)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    keys = {name.partition(".")[0] for name in model.state_dict()}
    assert keys == {"camera", "radar", "fuser", "decoder", "head"} - {absent}

    fields = ("images", "image_augment") if absent == "camera" else ("radar",)
    changed = dataclasses.replace(inputs, **{name: getattr(other_inputs, name) for name in fields})
    model.eval()
    with torch.inference_mode():
        assert torch.equal(model(inputs).tasks[0].heatmap, model(changed).tasks[0].heatmap)
        assert not torch.equal(model(inputs).tasks[0].heatmap, model(other_inputs).tasks[0].heatmap)
        assert len(folded(model).detect(inputs)) == 2


def test_swin_needs_the_other_neck() -> None:
    with pytest.raises(RecipeError, match=r"model\.camera\.neck: .* set neck: generalized_lss_fpn"):
        FusionDetector(small_recipe(camera={"backbone": "swin_t"}))


def test_a_view_transform_that_needs_lidar_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"view_transform: 'depth_lss' needs LiDAR points"):
        small_recipe(camera={"view_transform": "depth_lss"})


def test_swin_student_trains() -> None:
    torch.manual_seed(0)
    recipe = small_recipe(camera={"backbone": "swin_t", "neck": "generalized_lss_fpn"})
    model = FusionDetector(recipe).train()
    output = model(random_input((1, 1), (40, 25)))
    losses = center_loss(output.joined, center_targets(*random_truth(2), recipe), recipe.model.head)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("images", "points"), [((0, 0), (0, 0)), ((0, 0), (9, 0)), ((0, 2), (9, 0)), ((1, 0), (0, 9)), ((1, 1), (0, 0))]
)
@pytest.mark.parametrize("training", [False, True])
def test_any_sensor_may_be_missing(images: tuple[int, ...], points: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    recipe = small_recipe()
    model = FusionDetector(recipe).train(training)
    output = model(random_input(images, points))
    assert output.fused.shape == (2, 16, 32, 24)
    assert output.camera_gated.shape == (2, 8, 32, 24)
    for sample in range(2):
        assert bool(output.camera_gated[sample].abs().sum() > 0) == (images[sample] > 0)
        assert points[sample] > 0 or output.other[sample].abs().sum() == 0
    losses = center_loss(output.joined, center_targets(*random_truth(2), recipe), recipe.model.head)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    statistics = [b for name, b in model.named_buffers() if "running" in name]
    assert all(torch.isfinite(b).all() for b in statistics)
    assert len(model.decode(output)) == 2


def test_samples_of_a_batch_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    model = FusionDetector(small_recipe()).eval()
    one, two = random_input((1,), (30,), seed=1), random_input((2,), (20,), seed=2)
    joined = NetworkInput(
        **{
            f.name: torch.cat([getattr(one, f.name), getattr(two, f.name) + (1 if f.name.endswith("_sample") else 0)])
            for f in dataclasses.fields(NetworkInput)
        }
    )
    with torch.inference_mode():
        apart, together = [model(one), model(two)], model(joined)
    for sample, alone in enumerate(apart):
        for task, expected in zip(together.tasks, alone.tasks, strict=True):
            torch.testing.assert_close(task.heatmap[sample : sample + 1], expected.heatmap, rtol=1e-4, atol=1e-5)


def test_what_targets_say_is_what_decode_reads() -> None:
    """Head maps written from the targets decode to the boxes the targets were drawn from."""
    recipe = small_recipe()
    model = FusionDetector(recipe)
    boxes, labels = random_truth(1)
    boxes[0][:, :2] = torch.stack([torch.linspace(-13, 13, 10), torch.linspace(12, -6, 10)], dim=1)
    targets = center_targets(boxes, labels, recipe)
    output = model.eval()(random_input((1,), (5,)))
    for maps, target in zip(output.tasks, targets.tasks(), strict=True):
        maps.heatmap.data = torch.where(target.heatmap == 1, 9.0, -9.0)
        codes = target.codes.split([2, 1, 3, 2, 2], dim=-1)
        for values, code in zip((maps.reg, maps.height, maps.dim, maps.rot, maps.vel), codes, strict=True):
            flat = values.data.flatten(2)
            flat[0, :, target.cells[0, target.mask[0]]] = code[0, target.mask[0]].T
            values.data = flat.view(values.shape)
    found = model.decode(output)[0]
    order = found.labels.argsort()
    assert torch.equal(found.labels[order], labels[0])
    torch.testing.assert_close(found.boxes[order], boxes[0], rtol=1e-4, atol=1e-4)


def test_detect_folded_gives_the_boxes_of_the_whole_maps() -> None:
    torch.manual_seed(0)
    model = FusionDetector(small_recipe(head={"max_boxes": 40})).eval()
    for module in model.modules():  # fresh statistics would leave the maps nearly flat
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    inputs = random_input((2, 1), (40, 25))
    for task in model.head.tasks:
        torch.nn.init.constant_(task["heatmap"][1].bias, 0.0)  # type: ignore[index]
    with torch.inference_mode():
        expected, found = model.decode(model(inputs)), folded(model).detect(inputs)
    for a, b in zip(expected, found, strict=True):
        assert len(a.boxes) > 20
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.boxes, b.boxes, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_box_codes_at_every_cell_are_those_of_the_maps() -> None:
    torch.manual_seed(0)
    head = CenterHead(6, HeadConfig(channels=5)).eval()
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # zero-padding then differs from a convolution of zeros
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    bev = torch.randn(2, 6, 7, 5)
    maps, (shared, heatmaps) = head(bev), head.heatmaps(bev)
    sample, row, column = torch.ones(2, 7, 5).nonzero(as_tuple=True)
    for t, task in enumerate(maps):
        assert torch.equal(heatmaps[t], task.heatmap)
        whole = torch.cat([task.reg, task.height, task.dim, task.rot, task.vel], dim=1).permute(0, 2, 3, 1)
        torch.testing.assert_close(head.codes_at(t, shared, sample, row, column), whole.reshape(-1, 10))


def test_unknown_velocity_does_not_count() -> None:
    recipe = small_recipe()
    boxes, labels = random_truth(1)
    output = FusionDetector(recipe).eval()(random_input((1,), (5,)))
    boxes[0][:, 7:] = float("nan")
    losses = center_loss(output.joined, center_targets(boxes, labels, recipe), recipe.model.head)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_no_box_at_all() -> None:
    recipe = small_recipe()
    with torch.inference_mode():
        output = FusionDetector(recipe).eval()(random_input((1,), (5,)))
    empty = [torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.int64)]
    losses = center_loss(output.joined, center_targets(*empty, recipe), recipe.model.head)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(float(losses[f"box/task{t}"]) == 0 for t in range(6))


def test_loss_is_computed_in_float32_under_autocast() -> None:
    recipe = small_recipe()
    model = FusionDetector(recipe).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(random_input((1, 1), (20, 20)))
        assert output.tasks[0].heatmap.dtype == torch.bfloat16
        losses = center_loss(output.joined, center_targets(*random_truth(2), recipe), recipe.model.head)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert model.decode(output)[0].boxes.dtype == torch.float32


def test_initial_heatmap_bias_is_the_recipes() -> None:
    model = FusionDetector(small_recipe(head={"heatmap_bias": -3.5}))
    for task in model.head.tasks:
        assert torch.equal(task["heatmap"][1].bias, torch.full_like(task["heatmap"][1].bias, -3.5))  # type: ignore[index]
