"""Checkpoints of the original: files of its form, converted whole, back again, and every way they can be wrong."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crkd_core.config import load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.official import OfficialError, OfficialFile, converted, exported, read_official, write_official

META = {
    "epoch": 20,
    "iter": 123456,
    "mmdet_version": "2.20.0",
    "hook_msgs": {"best": [0.4, 0.5]},
    "config": "model:\n  type: X",
    "classes": ["car", "truck"],
    "seed": None,
}


def small(name: str) -> FusionDetector:
    """A recipe's architecture at a fraction of its size."""
    values = recipe_to_dict(load_recipe(name))
    values["image"]["size"] = [64, 96]
    values["bev"] |= {"x_range": [-9.6, 9.6], "y_range": [-4.8, 4.8]}
    values["model"]["camera"] |= {"neck_channels": 8, "channels": 8}
    if values["model"]["camera"]["backbone"] == "resnet50":
        values["model"]["camera"]["backbone_width"] = 8
    if values["model"]["radar"]:
        values["model"]["radar"]["channels"] = [8, 8]
    else:
        values["model"]["lidar"] |= {"channels": [4, 4, 8, 8], "out_channels": 4}
    values["model"]["fuser"]["channels"] = 8
    values["model"]["decoder"] |= {"channels": [8, 8, 8], "out_channels": 8}
    values["model"]["head"]["channels"] = 8
    return FusionDetector(recipe_from_dict(values, source="test")).eval()


def needs_spconv(recipe: str) -> None:
    if recipe.startswith("teacher"):
        pytest.importorskip("spconv")


@pytest.mark.golden
@pytest.mark.parametrize("backbone", ["r50", "swint"])
@pytest.mark.parametrize(
    ("entries", "part", "recipe"),
    [
        ("student_gated", "student", "student"),
        ("baseline_student_convfuser", "student", "baseline"),
        ("teacher_gated", "teacher", "teacher"),
        ("distiller", "student", "crkd"),
        ("distiller", "teacher", "teacher"),
    ],
)
def test_every_kind_of_file_is_recognised_and_fits(
    golden_dir: Path, backbone: str, entries: str, part: Any, recipe: str
) -> None:
    needs_spconv(recipe)
    listed = json.loads((golden_dir / f"keys_{backbone}.json").read_text())[entries]
    file = OfficialFile({key: meta_tensor(*form) for key, form in listed.items()}, {})
    assert part in file.parts
    assert file.recipe_name(part) == f"{recipe}_{backbone}"
    with torch.device("meta"):
        model = FusionDetector(load_recipe(file.recipe_name(part)))
    conversion = converted(file, model, part)
    assert conversion.complete, conversion.report()
    assert {k: v.shape for k, v in conversion.weights.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert len(conversion.weights) + len(conversion.constants) + len(conversion.elsewhere) == len(listed)


@pytest.mark.golden
@pytest.mark.parametrize("backbone", ["r50", "swint"])
@pytest.mark.parametrize(
    ("entries", "recipe"), [("student_gated", "student"), ("teacher_gated", "teacher"), ("distiller", "crkd")]
)
def test_an_export_has_every_entry_of_the_original(golden_dir: Path, backbone: str, entries: str, recipe: str) -> None:
    needs_spconv(recipe)
    listed = json.loads((golden_dir / f"keys_{backbone}.json").read_text())[entries]
    if entries == "distiller":
        listed = {key: form for key, form in listed.items() if key.split(".")[0].endswith("_student")}
    state = exported(FusionDetector(load_recipe(f"{recipe}_{backbone}")))
    forms = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()}
    assert forms == listed


def meta_tensor(shape: list[int], dtype: str) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


@pytest.mark.golden
def test_constants_of_the_view_transform(load_golden: Callable[[str], Any]) -> None:
    g = load_golden("lss_geometry")
    from crkd_core.geometry.grid import BevGrid
    from crkd_core.models.view_transform import LiftSplat
    from crkd_core.runtime.official import _view_constants

    lower, cell, count = (g["out.bx"] - g["out.dx"] / 2).tolist(), g["out.dx"].tolist(), g["out.nx"].tolist()
    view = LiftSplat(
        4,
        4,
        image_size=tuple(g.meta["image_size"]),
        feature_size=tuple(g.meta["feature_size"]),
        depth=tuple(g.meta["dbound"]),
        grid=BevGrid((lower[0], lower[1]), (cell[0], cell[1]), (int(count[0]), int(count[1])), (-5.0, 3.0)),
    )
    constants = _view_constants(view)
    for name in ("dx", "bx", "nx", "frustum"):
        torch.testing.assert_close(constants[name].double(), g[f"out.{name}"].double(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("recipe", ["student_r50", "baseline_swint", "crkd_r50", "teacher_r50"])
def test_weights_survive_the_way_there_and_back(tmp_path: Path, recipe: str) -> None:
    needs_spconv(recipe)
    torch.manual_seed(0)
    model = small(recipe)
    path = write_official(tmp_path / "there.pth", model, model.recipe)
    file = read_official(path)
    part = file.parts[0]
    assert file.recipe_name(part) == recipe
    conversion = converted(file, small(recipe), part)
    assert conversion.complete, conversion.report()
    expected = model.state_dict()
    assert conversion.weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in conversion.weights.items())


def state_of(recipe: str) -> dict[str, Tensor]:
    return exported(small(recipe))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "bare"])
def test_wrapped_and_bare_files_with_plain_meta_are_read(tmp_path: Path, wrapper: str) -> None:
    state = state_of("student_r50")
    torch.save(state if wrapper == "bare" else {"meta": META, wrapper: state}, tmp_path / "x.pth")
    file = read_official(tmp_path / "x.pth")
    assert file.state.keys() == state.keys()
    assert file.meta == ({} if wrapper == "bare" else META)


def test_objects_in_meta_are_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"meta": {"args": argparse.Namespace(a=1)}, "state_dict": state_of("student_r50")}, tmp_path / "x.pth")
    with pytest.raises(OfficialError, match=r"x.pth: expected tensors .* found argparse.Namespace; .* save it again"):
        read_official(tmp_path / "x.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(OfficialError, match=r"x\.pth: "):
        read_official(tmp_path / "x.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OfficialError, match=r"none\.pth: no such file"):
        read_official(tmp_path / "none.pth")


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"meta": META, "optimizer": {"lr": 1.0}}, tmp_path / "x.pth")
    with pytest.raises(OfficialError, match="expected a state dict, bare or under state_dict or model, found meta"):
        read_official(tmp_path / "x.pth")


def test_every_difference_is_reported_by_its_original_name() -> None:
    state = state_of("student_r50")
    del state["decoder.neck.fuse.0.weight"]
    state["heads.object.shared_conv.conv.bias"] = torch.zeros(8)
    state["fuser.input_conv_sensor_1.weight"] = torch.zeros(3, 3)
    conversion = converted(OfficialFile(state, {}), small("student_r50"), "student")
    assert conversion.missing == ["decoder.neck.fuse.0.weight"]
    assert conversion.unexpected == ["heads.object.shared_conv.conv.bias"]
    assert conversion.reshaped == [("fuser.input_conv_sensor_1.weight", (8, 16, 3, 3), (3, 3))]
    assert not conversion.complete
    report = conversion.report()
    for line in ("1 missing", "1 unexpected", "1 of another shape", "expected (8, 16, 3, 3), found (3, 3)"):
        assert line in report


def test_a_student_file_has_no_teacher() -> None:
    with pytest.raises(OfficialError, match="--part teacher: the file holds a student only"):
        converted(OfficialFile(state_of("student_r50"), {}), small("student_r50"), "teacher")


def test_another_model_is_not_recognised() -> None:
    with pytest.raises(OfficialError, match="not a checkpoint of CRKD"):
        OfficialFile({"conv.weight": torch.zeros(1)}, {}).recipe_name("student")
