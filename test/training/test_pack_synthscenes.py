"""Packing simulated frames, and training on them, called as a user calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from micro import micro_recipe
from scripts import script

from crkd_core.cli import UserError
from crkd_core.config import recipe_to_dict
from crkd_core.data.packed import PackedFrames
from crkd_core.data.synthscenes import SynthConfig
from crkd_core.runtime.checkpoint import load_checkpoint


def main(monkeypatch: pytest.MonkeyPatch, name: str, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", [name, *map(str, args), "--no-progress"])
    code: int = script(name).main()
    return code


def test_a_run_reads_packed_frames_and_names_the_simulator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    what = ["--frames-per-drive", "1", "--image-width", "96", "--jobs", "1"]
    what += ["--lidar-sweeps", "2", "--lidar-step", "3"]
    assert main(monkeypatch, "pack_synthscenes.py", "--seeds", "0:2", *what, "--out", tmp_path / "frames") == 0
    assert "2 key frames of 96 pixels, 6 radar and 2 LiDAR sweeps" in capsys.readouterr().out
    assert PackedFrames(tmp_path / "frames").contents.lidar_sweeps == [0, 3]
    recipe = tmp_path / "micro.yaml"
    recipe.write_text(yaml.safe_dump(recipe_to_dict(micro_recipe(steps=1, batch_size=2))))
    how = ["--frames", tmp_path / "frames", "--out", tmp_path / "run", "--workers", "0", "--precision", "fp32"]
    assert main(monkeypatch, "train.py", recipe, *how) == 0
    said = capsys.readouterr().out
    assert "micro: 2 samples, 1 steps of 2" in said
    assert "warning" not in said
    assert load_checkpoint(tmp_path / "run" / "model")[1].provenance["synthscenes"] == SynthConfig().config_hash()


def test_frames_of_another_simulator_are_trained_on_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    what = ["--frames-per-drive", "1", "--image-width", "96", "--jobs", "1"]
    assert main(monkeypatch, "pack_synthscenes.py", "--seeds", "1", *what, "--out", tmp_path / "frames") == 0
    contents, now = tmp_path / "frames" / "frames.json", SynthConfig().config_hash()
    contents.write_text(contents.read_text().replace(now, "6bc32e1bbf7ab3b9"))
    data = ["--frames", tmp_path / "frames", "--out", tmp_path / "run", "--dry-run"]
    assert main(monkeypatch, "train.py", "student_tiny", *data) == 0
    warning = f"warning: frames packed by simulator 6bc32e1bbf7ab3b9, the present one is {now}"
    assert warning in capsys.readouterr().out.splitlines()


def test_packed_drives_for_evaluation_are_not_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    what = ["--frames-per-drive", "1", "--image-width", "0", "--radar-sweeps", "1", "--jobs", "1"]
    assert main(monkeypatch, "pack_synthscenes.py", "--seeds", "9000", *what, "--out", tmp_path / "frames") == 0
    with pytest.raises(UserError, match="seed 9000: expected one to train on"):
        main(monkeypatch, "train.py", "student_tiny", "--frames", tmp_path / "frames", "--out", tmp_path / "run")


def test_numbers_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with pytest.raises(UserError, match="--jobs: expected 1 or more, got 0"):
        main(monkeypatch, "pack_synthscenes.py", "--seeds", "1", "--jobs", "0", "--out", tmp_path / "frames")
    with pytest.raises(UserError, match="--image-width: expected 64 to 4096 pixels, got 100000"):
        main(
            monkeypatch, "pack_synthscenes.py", "--seeds", "1", "--image-width", "100000", "--out", tmp_path / "frames"
        )
    with pytest.raises(UserError, match="--seeds: expected numbers or ranges"):
        main(monkeypatch, "pack_synthscenes.py", "--seeds", "one", "--out", tmp_path / "frames")
    with pytest.raises(UserError, match="--seeds: expected each once, got 0:3 2"):
        main(monkeypatch, "pack_synthscenes.py", "--seeds", "0:3", "2", "--out", tmp_path / "frames")
