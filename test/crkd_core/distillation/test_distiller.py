"""A teacher beside a student: what it gives, what stays untouched, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro_crkd, micro_frame_with_lidar, micro_recipe, micro_teacher

from crkd_core.config import Recipe, RecipeError, recipe_from_dict, recipe_to_dict
from crkd_core.data.dataset import TrainingBatch, TrainingSet, collate_training
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.detector import FusionDetector
from crkd_core.training.callbacks import TrainingError
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions

pytest.importorskip("spconv")

TEACHER = micro_teacher()
FRAMES = [micro_frame_with_lidar(seed) for seed in range(4)]
OFF: dict[str, Any] = {
    "radar": {"weight": 0.0},
    "features": {"camera_weight": 0.0, "fused_weight": 0.0},
    "relation": {"weight": 0.0},
    "response": {"heatmap_weight": 0.0, "box_weight": 0.0},
}


def samples(recipe: Recipe) -> TrainingSet:
    return TrainingSet(FRAMES, recipe, teacher=TEACHER.model.lidar)


def batch(recipe: Recipe) -> TrainingBatch:
    return collate_training([samples(recipe)[0, i] for i in range(2)])


def losses(recipe: Recipe) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    student, distiller = FusionDetector(recipe).train(), Distiller(FusionDetector(TEACHER), recipe)
    given = batch(recipe)
    return distiller.losses(student(given.inputs), distiller.taught(given.inputs), given.boxes, distiller.adapters())


def test_a_sample_for_distillation_holds_what_both_read():
    inputs = batch(micro_crkd()).inputs
    assert len(inputs.radar) > 0
    assert len(inputs.lidar) > 0


def test_every_loss_of_the_recipe_is_there_and_no_other():
    everything = losses(micro_crkd())
    assert {name.partition("/")[0] for name in everything} == {
        "radar", "camera_features", "fused_features", "relation", "response",
    }  # fmt: skip
    assert all(torch.isfinite(loss) and loss > 0 for loss in everything.values())
    assert losses(micro_crkd(OFF)) == {}


@pytest.mark.parametrize("kept", ["radar", "features", "relation", "response"])
def test_each_loss_can_be_alone(kept: str):
    alone = losses(micro_crkd({key: value for key, value in OFF.items() if key != kept}))
    names = {"features": {"camera_features", "fused_features"}}.get(kept, {kept})
    assert {name.partition("/")[0] for name in alone} == names


def test_the_teacher_says_what_the_detector_in_eval_mode_says():
    recipe = micro_crkd()
    teacher, inputs = FusionDetector(TEACHER), batch(recipe).inputs
    for norm in (module for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()  # fresh statistics would hide a norm that is left out
        norm.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        expected = teacher.eval()(inputs)
    found = Distiller(teacher, recipe).taught(inputs)
    torch.testing.assert_close(found.fused, expected.fused, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.tasks[0].heatmap, expected.tasks[0].heatmap, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_the_teacher_says_it_in_the_precision_of_training(dtype: torch.dtype):
    recipe = micro_crkd()
    # spconv has one build for CPUs and one for GPUs.
    teacher, inputs = FusionDetector(TEACHER).cuda(), batch(recipe).inputs.to("cuda")
    for norm in (module for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.bias.data.normal_()
    with torch.no_grad():
        expected = teacher.eval()(inputs)
    distiller = Distiller(teacher, recipe)
    distiller.onto("cuda", dtype)
    with torch.autocast("cuda", dtype):
        found = distiller.taught(inputs)
    assert found.fused.dtype == dtype
    for name in ("heatmap", "codes"):
        here, there = getattr(found.joined, name).float(), getattr(expected.joined, name)
        error, size = (here - there).norm(), there.norm()
        assert error < 0.1 * size, f"{name}: {error} of {size}"


def test_nothing_to_teach_is_known():
    assert not Distiller(FusionDetector(TEACHER), micro_crkd(OFF)).teaches
    assert Distiller(FusionDetector(TEACHER), micro_crkd({**OFF, "radar": {}})).teaches


@pytest.mark.parametrize(("statistics", "moves"), [("corrected", False), ("released", True)])
def test_only_a_released_teacher_changes_while_it_teaches(statistics: str, moves: bool):
    recipe = micro_crkd({"teacher_statistics": statistics})
    distiller = Distiller(FusionDetector(TEACHER), recipe)
    before = {name: value.clone() for name, value in distiller.teacher.state_dict().items()}
    taught = distiller.taught(batch(recipe).inputs)
    assert not taught.fused.requires_grad
    assert not any(parameter.requires_grad for parameter in distiller.teacher.parameters())
    changed = [name for name, value in distiller.teacher.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(changed) == moves
    assert all("running" in name or "num_batches" in name for name in changed)


def test_losses_are_computed_in_float32_whatever_the_layers_compute_in():
    recipe = micro_crkd()
    torch.manual_seed(0)
    student, distiller, given = FusionDetector(recipe).eval(), Distiller(FusionDetector(TEACHER), recipe), batch(recipe)
    output, taught, adapters = student(given.inputs), distiller.taught(given.inputs), distiller.adapters()
    expected = distiller.losses(output, taught, given.boxes, adapters)
    with torch.autocast("cpu", torch.bfloat16):
        found = distiller.losses(output, taught, given.boxes, adapters)
    assert {name for name in found if "/" not in name} == {"radar", "camera_features", "fused_features", "relation"}
    for name, loss in found.items():
        assert loss == expected[name], name


def test_msfd_and_reld_do_not_depend_on_how_often_a_batch_is_repeated():
    recipe = micro_crkd()
    torch.manual_seed(0)
    student, distiller = FusionDetector(recipe).eval(), Distiller(FusionDetector(TEACHER), recipe)
    adapters = distiller.adapters()
    found = []
    for repeats in (1, 2):
        given = collate_training([samples(recipe)[0, i] for i in range(2)] * repeats)
        taught = distiller.taught(given.inputs)
        found.append(distiller.losses(student(given.inputs), taught, given.boxes, adapters))
    for name in ("camera_features", "fused_features", "relation", "radar"):
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-6)


def changed(recipe: Recipe, path: str, value: Any) -> Recipe:
    values = recipe_to_dict(recipe)
    *sections, key = path.split(".")
    section = values
    for name in sections:
        section = section[name]
    section[key] = value
    return recipe_from_dict(values, source="changed")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("image.size", [64, 128], "image.size: student 'micro_crkd' has"),
        ("bev.cell", 3.6, "bev: student"),
        ("model.fuser.channels", 24, "model.fuser.channels: student 'micro_crkd' has 24, teacher 'micro_teacher' 16"),
        ("model.camera.channels", 4, "model.camera.channels: student"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(path: str, value: Any, said: str):
    with pytest.raises(RecipeError, match=said.replace(".", "[.]")):
        Distiller(FusionDetector(TEACHER), changed(micro_crkd(), path, value))


def test_a_student_without_distillation_and_a_teacher_without_lidar_are_refused():
    with pytest.raises(RecipeError, match="recipe 'micro': no distillation section"):
        Distiller(FusionDetector(TEACHER), micro_recipe())
    with pytest.raises(RecipeError, match="expected a student with cameras and radars and a teacher"):
        Distiller(FusionDetector(micro_recipe()), micro_crkd())


def options(out: Path, **changes: Any) -> TrainingOptions:
    return replace(TrainingOptions(out=out, workers=0, progress=False, save_every=2, log_every=1), **changes)


def test_distillation_resumes_exactly(tmp_path: Path):
    recipe = micro_crkd(steps=4)

    def run(out: Path, **changes: Any) -> FusionDetector:
        torch.manual_seed(3)
        distiller = Distiller(FusionDetector(TEACHER), recipe)
        return train(recipe, samples(recipe), options(out, **changes), distiller=distiller)

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=2)
    parts = run(tmp_path / "parts", resume=True)
    for (name, a), (_, b) in zip(whole.state_dict().items(), parts.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)


def test_a_student_comes_closer_to_its_teacher(tmp_path: Path):
    recipe = micro_crkd(steps=25, learning_rate=4e-3)
    torch.manual_seed(3)
    still = TrainingSet(FRAMES[:2], recipe, augment=False, teacher=TEACHER.model.lidar)
    train(recipe, still, options(tmp_path), distiller=Distiller(FusionDetector(TEACHER), recipe))
    rows = (tmp_path / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    for kind in ("radar", "fused_features", "response/heatmap"):
        column = rows[0].split(",").index(f"distillation/{kind}")
        values = [float(row.split(",")[column]) for row in rows[1:]]
        assert values[-1] < 0.8 * values[0], kind


def test_a_student_starts_from_a_checkpoint_and_its_calibration_block_fresh(tmp_path: Path):
    recipe = micro_crkd(OFF, steps=1, learning_rate=1e-12)
    start = {k: v for k, v in FusionDetector(recipe).state_dict().items() if not k.startswith("radar.calibration")}
    model = train(recipe, samples(recipe), options(tmp_path), start=start)
    weight = "fuser.merge.0.weight"
    torch.testing.assert_close(model.state_dict()[weight], start[weight], rtol=0, atol=1e-6)
    with pytest.raises(TrainingError, match=r"1 of 1 do not fit recipe 'micro_crkd' \(first: decoder\.nothing\)"):
        train(recipe, samples(recipe), options(tmp_path / "x"), start={"decoder.nothing": torch.zeros(1)})
