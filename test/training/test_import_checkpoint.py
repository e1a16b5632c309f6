"""The command that converts checkpoints: whole files, partial ones, the way back, and mistakes in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crkd_core.config import load_recipe
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.runtime.official import exported

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "import_checkpoint.py"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """student_r50 with narrow layers."""
    path = tmp_path_factory.mktemp("recipe") / "narrow.yaml"
    shipped = SCRIPT.parents[1] / "config" / "recipes" / "student_r50.yaml"
    path.with_name("student_r50.yaml").write_text(shipped.read_text())
    path.write_text(
        "base: student_r50\n"
        "model:\n"
        "  camera: {backbone_width: 8, neck_channels: 8, channels: 8}\n"
        "  radar: {channels: [8]}\n"
        "  fuser: {channels: 8}\n"
        "  decoder: {channels: [8, 8, 8], out_channels: 8}\n"
        "  head: {channels: 8}\n"
    )
    return path


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_import_and_export(tmp_path: Path, recipe: Path) -> None:
    model = FusionDetector(load_recipe(recipe))
    state = exported(model)
    torch.save({"meta": {"epoch": 20, "config": "x" * 1000}, "state_dict": state}, tmp_path / "a.pth")
    done = command(tmp_path / "a.pth", "--recipe", recipe, "--out", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    loaded, checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.provenance["official"] == {"epoch": 20}
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)

    done = command(tmp_path / "model", "--export", tmp_path / "b.pth")
    assert done.returncode == 0, done.stderr
    again = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_a_partial_import_must_be_asked_for(tmp_path: Path, recipe: Path) -> None:
    state = exported(FusionDetector(load_recipe(recipe)))
    del state["decoder.neck.fuse.0.weight"]
    torch.save(state, tmp_path / "a.pth")
    refused = command(tmp_path / "a.pth", "--recipe", recipe, "--out", tmp_path / "model")
    assert refused.returncode == 2
    assert "  decoder.neck.fuse.0.weight" in refused.stdout
    assert refused.stderr.count("\n") == 1
    assert "--partial" in refused.stderr
    assert not (tmp_path / "model").exists()
    done = command(tmp_path / "a.pth", "--recipe", recipe, "--out", tmp_path / "model", "--partial")
    assert done.returncode == 0, done.stderr
    assert "decoder.neck.fuse.0.weight" in load_checkpoint(tmp_path / "model")[1].provenance["incomplete"]
