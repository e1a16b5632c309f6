"""Checkpoints: what is saved comes back; whatever is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crkd_core.config import load_recipe
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import CheckpointError, load_checkpoint, read_sidecar, save_checkpoint


@pytest.fixture(scope="module")
def model() -> FusionDetector:
    torch.manual_seed(0)
    return FusionDetector(load_recipe("student_tiny"))


@pytest.fixture
def folder(tmp_path: Path, model: FusionDetector) -> Path:
    recipe = load_recipe("student_tiny")
    return save_checkpoint(tmp_path / "tiny", model, recipe, metrics={"mAP": 0.5}, provenance={"seed": 7})


def test_weights_recipe_metrics_and_provenance_come_back(folder: Path, model: FusionDetector) -> None:
    loaded, checkpoint = load_checkpoint(folder)
    assert checkpoint.recipe == load_recipe("student_tiny")
    assert checkpoint.metrics == {"mAP": 0.5}
    assert checkpoint.provenance == {"seed": 7}
    assert not loaded.training
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_saving_again_replaces_and_leaves_nothing_else_behind(folder: Path, model: FusionDetector) -> None:
    save_checkpoint(folder, model, load_recipe("student_tiny"), metrics={"mAP": 0.6})
    assert read_sidecar(folder).metrics == {"mAP": 0.6}
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.json not found; expected a folder with model\.safetensors"):
        load_checkpoint(tmp_path / "absent")


def test_checkpoint_of_another_recipe_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="expected 'student_r50', got 'student_tiny'"):
        load_checkpoint(folder, expected_recipe="student_r50")


def test_truncated_weights_are_noticed(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="sha256"):
        load_checkpoint(folder)


def test_weights_that_do_not_fit_are_listed(folder: Path) -> None:
    import hashlib

    path = folder / "model.safetensors"
    weights = load_file(path)
    first = next(iter(weights))
    weights["strange"] = weights.pop(first)
    save_file(weights, path)
    sidecar = json.loads((folder / "model.json").read_text())
    sidecar["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(sidecar))
    with pytest.raises(CheckpointError, match=r"1 missing \(.*\); 1 unexpected \(strange\)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}'])
def test_sidecar_that_is_not_one_is_refused(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a checkpoint description"):
        read_sidecar(folder)
