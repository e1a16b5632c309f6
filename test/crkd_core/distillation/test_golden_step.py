"""A whole step of distillation against the original: every loss and every gradient; two samples, batch statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from golden_input import network_input
from torch import Tensor

from crkd_core.config import (
    load_recipe,
)
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.detector import FusionDetector
from crkd_core.models.official_keys import official_key
from crkd_core.runtime.official import OfficialFile, converted, exported

pytestmark = [pytest.mark.golden, pytest.mark.timeout(900)]

NAMES_THERE = {
    "radar": "lr_kd",
    "camera_features": "cam_mask_scale_feat_kd",
    "fused_features": "fused_mask_scale_feat_kd",
    "relation": "fused_affinity_kd",
}


def test_losses_and_gradients_of_a_step(
    load_golden: Callable[[str], Any],
    recipe_weights: Callable[..., dict[str, Tensor]],
    random_stream: Callable[[int, str], np.random.Generator],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("spconv")
    # On a CPU torch sums the statistics of channels-last maps in float32, others in float64: 3e-4 against 3e-6.
    norm = torch.nn.BatchNorm2d.forward
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: norm(self, x.contiguous()))
    g = load_golden("distill_train_r50")
    recipe = load_recipe("crkd_r50_released")
    student, teacher = FusionDetector(recipe).train(), FusionDetector(load_recipe("teacher_r50"))
    for model, part in ((student, "student"), (teacher, "teacher")):
        conversion = converted(OfficialFile(recipe_weights(exported(model), g.meta), {}), model, part)
        model.load_state_dict(conversion.weights)
    distiller = Distiller(teacher, recipe)
    adapters = distiller.adapters()
    assert adapters is not None
    names = {adapter_there(name): name for name in adapters.state_dict()}
    there = recipe_weights({name: adapters.state_dict()[ours] for name, ours in names.items()}, g.meta)
    adapters.load_state_dict({names[name]: value for name, value in there.items()})

    inputs = network_input(g, random_stream)
    boxes, labels = ([g[f"in.{name}{i}"] for i in range(2)] for name in ("gt_boxes", "gt_labels"))
    output = student(inputs)
    targets = center_targets(boxes, [label.long() for label in labels], recipe)
    detection = center_loss(output.joined, targets, recipe.model.head)
    check(g, "teacher_eval_mode", detection, tolerance=2e-4)
    distiller.teacher.eval()
    distilled = distiller.losses(output, distiller.taught(inputs), boxes, adapters)
    # Where a processor rounds otherwise, a frustum point may fall into the next cell, which shows in what is averaged
    # over the cells of objects: by up to 5e-4.
    at_objects = {name: loss for name, loss in distilled.items() if "features" in name or "response/box" in name}
    check(g, "teacher_eval_mode", at_objects, tolerance=1e-3)
    others = {name: loss for name, loss in distilled.items() if name not in at_objects}
    check(g, "teacher_eval_mode", others, tolerance=2e-4)
    distiller.teacher.train()
    distilled = distiller.losses(output, distiller.taught(inputs), boxes, adapters)
    # Through the batch statistics of few voxels a frustum point that changes cell moves the teacher's scores a little.
    check(g, "original_teacher_train_mode", distilled, tolerance=2e-3)
    assert len(detection) + len(distilled) == len(g.group("out.teacher_eval_mode.log.loss/"))

    torch.stack([*detection.values(), *distilled.values()]).sum().backward()
    gradients = {official_key(n, fuser="gated", distilled=True): p.grad for n, p in student.named_parameters()}
    gradients |= {adapter_there(name): p.grad for name, p in adapters.named_parameters()}
    check_gradients(g, gradients)
    state = exported(student)
    for key in (key for key in g.group("out.bn_after.") if "_student." in key):
        torch.testing.assert_close(state[key], g[f"out.bn_after.{key}"], rtol=1e-3, atol=1e-4, msg=key)


def adapter_there(name: str) -> str:
    """The original's name of a parameter of the adapters, ours being for example ``adapters.0.2.bias``."""
    _, scale, rest = name.split(".", 2)
    return f"fused_feat_affinity_loss.adapt_modules.{scale}.conv_channel_layer.{rest}"


def check(g: Any, mode: str, losses: dict[str, Tensor], *, tolerance: float) -> None:
    for name, loss in losses.items():
        key = NAMES_THERE.get(name) or name.removeprefix("response/").replace("box", "bbox")
        suffix = "/kd" if name.startswith("response/") else ""
        expected = g[f"out.{mode}.log.loss/object/{key}{suffix}"].float()
        torch.testing.assert_close(loss.detach(), expected, rtol=tolerance, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def check_gradients(g: Any, gradients: dict[str, Tensor | None]) -> None:
    """Norms of all; a bias in front of a normalisation has none but rounding noise, about 0.01."""
    names, table = g.meta["grad_names"], g["out.grad.table"]
    assert set(names) == set(gradients)
    total = 0.0
    for name, expected in zip(names, table[:, 0].tolist(), strict=True):
        gradient = gradients[name]
        assert gradient is not None, name
        norm = float(gradient.double().norm())
        total += norm**2
        assert norm == pytest.approx(expected, rel=5e-3, abs=0.02), name
    assert total**0.5 == pytest.approx(float(g["out.grad.global_norm"]), rel=5e-4)
