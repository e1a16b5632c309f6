"""Recipes: shipped ones load, and every mistake is told with its place and what is allowed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
import pytest

from crkd_core.config import (
    BevConfig,
    Recipe,
    RecipeError,
    load_recipe,
    plain_values,
    recipe_folder,
    recipe_from_dict,
    recipe_to_dict,
)


@pytest.mark.parametrize("path", sorted(recipe_folder().glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_recipe_loads_and_is_named_after_its_file(path: Path):
    recipe = load_recipe(path.stem)
    assert recipe.name == path.stem
    assert recipe == load_recipe(path)


def test_student_r50_is_the_original_architecture():
    recipe = load_recipe("student_r50")
    assert recipe.image.size == (256, 704)
    assert (recipe.bev.nx, recipe.bev.ny) == (180, 180)
    assert recipe.model.camera.channels == 80
    assert recipe.model.radar.sweeps == 6
    assert not recipe.model.radar.calibration
    assert load_recipe("crkd_r50").model.radar.calibration


def test_plain_values_give_the_same_recipe():
    recipe = load_recipe("crkd_r50")
    assert recipe_from_dict(recipe_to_dict(recipe), source="model.json") == recipe


def test_recipe_cannot_be_changed():
    with pytest.raises(AttributeError):
        load_recipe("student_r50").name = "other"  # type: ignore[misc]


def test_variant_keeps_what_it_does_not_state(tmp_path: Path):
    (tmp_path / "a.yaml").write_text((recipe_folder() / "student_r50.yaml").read_text())
    (tmp_path / "b.yaml").write_text("base: a\ndescription: b\nmodel: {radar: {sweeps: 3}}\nbev: {cell: 0.9}\n")
    variant, original = load_recipe(tmp_path / "b.yaml"), load_recipe(tmp_path / "a.yaml")
    assert variant.name == "b"
    assert variant.model.radar.sweeps == 3
    assert variant.bev.nx == 120
    assert msgspec.structs.replace(variant.model.radar, sweeps=6) == original.model.radar
    assert variant.model.camera == original.model.camera


MISTAKES: list[tuple[str, Any, str]] = [
    ("model.camera.chanels", 3, "model.camera: .*unknown field `chanels`; allowed: backbone, .*channels"),
    ("modle", {}, "unknown field `modle`; allowed: name, .*model"),
    ("model.camera.backbone", "vgg", "model.camera.backbone: .*'vgg'; allowed: resnet50, resnet18, swin_t"),
    ("train.learning_rate", "1e-3", "train.learning_rate: Expected `float`, got `str` '1e-3'"),
    ("train.learning_rate", -1.0, "train.learning_rate: .*> 0.0, got -1.0"),
    ("train.batch_size", 0, "train.batch_size: .*>= 1, got 0"),
    ("bev.cell", 0, "bev.cell: .*> 0.0, got 0"),
    ("bev.cell", float("nan"), "bev.cell: .*finite.*nan"),
    ("bev.cell", 0.7, "bev: x_range: .*four cells of 0.7 m"),
    ("bev.x_range", [1, -1], r"bev: x_range: .*got \(1.0, -1.0\)"),
    ("bev.z_range", [3, -5], r"bev: z_range: .*got \(3.0, -5.0\)"),
    ("image.size", [255, 704], r"image.size: expected multiples of 32 .*got \(255, 704\)"),
    ("image.resized_width", 0.48, "image.resized_width: Expected `int`, got `float` 0.48"),
    ("image.train_resized_width", [880, 608], r"image: train_resized_width: .*got \(880, 608\)"),
    ("image.train_rotation_deg", float("inf"), "image.train_rotation_deg: .*finite.*inf"),
    ("model.camera.depth", [60, 1, 1], "model.camera: depth: .*first < end"),
    ("model.radar.channels", [], r"model.radar.channels: .*length >= 1, got \[\]"),
    ("bev_augment.scale", [1.1, 0.9], r"bev_augment: scale: .*got \(1.1, 0.9\)"),
    ("image", None, "image: Expected `object`, got `null` None"),
]


@pytest.mark.parametrize(("path", "value", "message"), MISTAKES, ids=[f"{m[0]}={m[1]}" for m in MISTAKES])
def test_mistake_is_told_with_place_found_and_allowed(path: str, value: Any, message: str):
    values = copy.deepcopy(recipe_to_dict(load_recipe("student_r50")))
    *sections, key = path.split(".")
    section = values
    for name in sections:
        section = section[name]
    section[key] = value
    with pytest.raises(RecipeError, match=message) as raised:
        recipe_from_dict(values, source="mine.yaml")
    assert str(raised.value).startswith("mine.yaml: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radar": None, "camera": None}, "model: expected at least one of camera, radar and lidar, got none"),
        ({"radar": None}, "model: fuser.type: 'gated' weighs two maps .* set type: conv"),
        ({"camera": None}, "model: fuser.type: 'gated' weighs two maps .* set type: conv"),
        ({"lidar": {}}, "model: expected radar or lidar, got both; set one of them to null"),
        ({"radar": None, "lidar": {"voxel": [0.1, 0.1, 0.2]}}, "model.lidar.voxel: .* an eighth of bev.cell"),
        ({"radar": None, "lidar": {"voxel": [0.075, 0.075, 0.4]}}, "model.lidar.voxel: .* at least 24 layers, got 0.4"),
        ({"radar": None, "lidar": {"random_sweeps": True, "sweep_step": 2}}, "model.lidar: sweep_step: 2 chooses"),
        ({"radar": None, "lidar": {"swepes": 3}}, "model.lidar: .*unknown field `swepes`; allowed: sweeps"),
    ],
)
def test_branches_that_cannot_be_together_are_refused(change: dict[str, Any], message: str):
    values = recipe_to_dict(load_recipe("student_r50"))
    values["model"] |= change
    with pytest.raises(RecipeError, match=message):
        recipe_from_dict(values, source="mine.yaml")


def test_a_recipe_stored_before_there_were_teachers_still_loads():
    values = recipe_to_dict(load_recipe("student_tiny"))
    del values["model"]["lidar"], values["train"]["camera_backbone_learning_rate_ratio"]
    assert recipe_from_dict(values, source="stored") == load_recipe("student_tiny")


@pytest.mark.parametrize("backbone", ["r50", "swint"])
def test_a_teacher_is_a_student_with_other_eyes(backbone: str):
    teacher, student = load_recipe(f"teacher_{backbone}"), load_recipe(f"student_{backbone}")
    assert (teacher.radar_sweeps, teacher.lidar_sweeps) == (0, range(10))
    assert (student.radar_sweeps, student.lidar_sweeps) == (6, range(0))
    assert teacher.model.decoder == student.model.decoder
    assert teacher.model.head.velocity_code_weight == 0.2
    assert teacher.train.batch_size == 4
    with pytest.raises(RecipeError, match=f"recipe 'teacher_{backbone}': a teacher, which reads LiDAR points"):
        _ = teacher.live_sweeps


def test_tiny_recipes_differ_in_their_sensors_only():
    student = load_recipe("student_tiny")
    camera, radar, teacher = (load_recipe(f"{name}_tiny") for name in ("camera", "radar", "teacher"))
    for one in (camera, radar, teacher):
        assert (one.image, one.bev, one.bev_augment, one.train) == (
            student.image,
            student.bev,
            student.bev_augment,
            student.train,
        )
        assert (one.model.decoder, one.model.head) == (student.model.decoder, student.model.head)
        assert one.model.fuser.channels == student.model.fuser.channels
    assert (camera.model.camera, camera.model.radar) == (student.model.camera, None)
    assert (radar.model.camera, radar.model.radar) == (None, student.model.radar)
    assert (camera.radar_sweeps, radar.radar_sweeps, teacher.lidar_sweeps) == (0, 6, range(0, 10, 3))
    assert [one.live_sweeps for one in (camera, radar, student)] == [1, 6, 6]


def test_missing_key_is_named():
    values = recipe_to_dict(load_recipe("student_r50"))
    del values["train"]["steps"]
    with pytest.raises(RecipeError, match=r"train: .*required field `steps`"):
        recipe_from_dict(values, source="mine.yaml")


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(RecipeError, match=r"recipe 'student_r51': unknown; expected one of .*student_r50"):
        load_recipe("student_r51")


def test_a_recipe_anywhere_may_vary_a_shipped_one(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("base: student_tiny\ndescription: mine\ntrain: {steps: 7}\n")
    mine, shipped = load_recipe(tmp_path / "mine.yaml"), load_recipe("student_tiny")
    assert (mine.name, mine.train.steps) == ("mine", 7)
    assert mine.model == shipped.model


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("-1E+3", -1000.0),
        ("2.5e1", 25.0),
        (".5e3", 500.0),
        (".5e-3", 5e-4),
        ("3.e2", 300.0),
        ("7", 7),
        ("null", None),
        ("e5", "e5"),
        ("1e5x", "1e5x"),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, value: Any):
    found = plain_values(text)
    assert (type(found), found) == (type(value), value)


def test_a_recipe_may_have_a_learning_rate_without_a_point(tmp_path: Path):
    file = tmp_path / "slow.yaml"
    file.write_text("base: student_r50\ndescription: slow\ntrain: {learning_rate: 2e-5}\n")
    assert load_recipe(file).train.learning_rate == 2e-5


def test_broken_yaml_is_one_line(tmp_path: Path):
    (tmp_path / "broken.yaml").write_text("image: [1, 2\nbev: {")
    with pytest.raises(RecipeError, match=r"broken\.yaml: not valid YAML") as caught:
        load_recipe(tmp_path / "broken.yaml")
    assert "\n" not in str(caught.value)


def test_bases_in_a_circle_are_refused(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("base: b\n")
    (tmp_path / "b.yaml").write_text("base: a\n")
    with pytest.raises(RecipeError, match="circle: a -> b"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected a mapping"),
        ("- 1\n", "expected a mapping.*list"),
        ("a: [\n", "not valid YAML"),
        ("base: nope\n", "nope.yaml: no such recipe"),
    ],
)
def test_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str, message: str):
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "x.yaml")


def test_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(tmp_path / "x.yaml")


def test_bev_range_needs_a_multiple_of_four_cells():
    assert BevConfig(x_range=(-10.8, 10.8), cell=0.9).nx == 24
    with pytest.raises(ValueError, match="multiple of four"):
        BevConfig(x_range=(-9.9, 9.9), cell=0.9)


def test_section_names_are_those_of_the_recipe_type():
    assert {field.name for field in msgspec.structs.fields(Recipe)} == set(recipe_to_dict(load_recipe("student_r50")))


def test_full_size_recipes_draw_their_samples_as_the_original():
    for name in ("student", "baseline", "crkd", "teacher"):
        for backbone in ("r50", "swint"):
            recipe = load_recipe(f"{name}_{backbone}")
            assert recipe.samples.class_balanced
            assert recipe.samples.filter_empty_gt
            # Quirk Q10 apart: pasted objects only where a sensor shows them.
            assert (recipe.samples.paste is not None) == (name == "teacher")
            assert recipe.model.radar is None or recipe.model.radar.repeat_oldest
    paste = load_recipe("teacher_r50").samples.paste
    assert paste is not None
    assert (paste.stop_epoch, paste.min_points, paste.fill_up_to.construction_vehicle) == (15, 5, 7)


def test_objects_of_consecutive_sweeps_are_not_pasted_among_others():
    values = recipe_to_dict(load_recipe("teacher_r50"))
    values["model"]["lidar"] |= {"sweeps": 3, "sweep_step": 3}
    with pytest.raises(RecipeError, match=r"samples\.paste: .*consecutive sweeps, but model.lidar.sweep_step is 3"):
        recipe_from_dict(values, source="test")
    values["samples"]["paste"] = None
    assert recipe_from_dict(values, source="test").lidar_sweeps == range(0, 10, 3)


def test_objects_are_pasted_for_a_lidar_only_unless_one_insists():
    values = recipe_to_dict(load_recipe("student_r50"))
    values["samples"]["paste"] = {"stop_epoch": 15}
    with pytest.raises(RecipeError, match=r"samples\.paste: no sensor of this model would see the pasted objects"):
        recipe_from_dict(values, source="test")
    values["samples"]["paste"]["without_lidar"] = True
    assert recipe_from_dict(values, source="test").samples.paste is not None
    values["samples"]["paste"]["fill_up_to"] = {"cars": 2}
    with pytest.raises(RecipeError, match=r"samples\.paste\.fill_up_to: .*unknown field `cars`; allowed: car, truck"):
        recipe_from_dict(values, source="test")
