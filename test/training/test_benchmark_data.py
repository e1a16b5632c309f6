"""The measurements of index and loader, on small data: that they measure what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from micro import micro_recipe
from scripts import FOLDER, script
from tiny_set import TinySet

from crkd_core.cli import UserError
from crkd_core.config import recipe_to_dict


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Runs ``benchmark_data.py loader`` with the smallest recipe."""
    recipe = tmp_path / "micro.yaml"
    recipe.write_text(yaml.safe_dump(recipe_to_dict(micro_recipe(batch_size=2))))

    def call(*words: str | Path) -> None:
        monkeypatch.setattr(sys, "argv", ["benchmark_data.py", "loader", str(recipe), *map(str, words)])
        assert script("benchmark_data.py").main() == 0

    return call


def test_index_is_measured_in_processes_of_its_own(tmp_path: Path):
    words = ["index", "--work", tmp_path / "work", "--scenes", "1", "--out", tmp_path / "figures.json"]
    command = [sys.executable, str(FOLDER / "benchmark_data.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    assert "complete key frames: 40 of 40" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["steps"]) == {"build", "load", "load, one folder changed"}
    assert figures["steps"]["build"]["cpu_s"] > figures["steps"]["load"]["cpu_s"] > 0
    # torch alone takes 100 MB.
    assert all(50 < step["peak_mb"] < 2000 for step in figures["steps"].values())
    assert list((tmp_path / "work").iterdir()) == []


def test_loader_time_is_that_of_its_parts(loader: Callable[..., None], tmp_path: Path):
    data = TinySet(tmp_path / "data")
    out = tmp_path / "figures.json"
    words = ["--dataroot", data.root, "--version", data.version, "--workers", 1, "--samples", 20, "--epochs", 4]
    loader(*words, "--out", out)
    figures = json.loads(out.read_text())
    parts = figures["ms_by_part"]
    whole = parts.pop("all")
    assert sum(parts.values()) == pytest.approx(whole)
    # A part whose function has another name now would take no time.
    assert [part for part, ms in parts.items() if ms <= 0] == []
    assert parts["rest"] < 0.5 * whole
    assert len(figures["epochs"]) == 4
    for epoch in figures["epochs"]:
        assert epoch["samples_per_s"] > 0
        assert epoch["samples_per_s_core"] > 0
        assert epoch["workers_mb"] > 10
        assert epoch["readings"] == 10
    assert abs(figures["memory_growth_percent"]) < 25
    assert figures["memory_growth_error_percent"] < 10


def test_a_leak_of_two_percent_is_told_from_readings_that_scatter_by_five():
    growth = script("benchmark_data.py").growth
    rng = np.random.default_rng(0)
    scatter = np.median(rng.normal(0, 20, (8, 15)), axis=1)  # MB, fifteen readings an epoch
    warm_up = np.array([60.0, *[0.0] * 7])
    leaking, error = growth(400 + 8.0 * np.arange(8) - warm_up + scatter)
    assert leaking == pytest.approx(1.9, abs=3 * error)
    steady, error = growth(400 - warm_up + scatter)
    assert abs(steady) < 3 * error < 1.5
    assert leaking > 4 * error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name either --dataroot DIR or --synthscenes N"),
        (["--synthscenes", "1", "--image-cache"], "--image-cache: name the --dataroot"),
        (["--synthscenes", "1", "--epochs", "0"], "--epochs, --workers and --samples of 1 or more"),
        (["--dataroot", "nowhere"], "data root nowhere: no such folder"),
    ],
)
def test_mistakes_are_told(loader: Callable[..., None], words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        loader(*words)


def test_a_place_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["benchmark_data.py", "index", "--work", "/proc/work", "--scenes", "1"])
    with pytest.raises(UserError, match="--work /proc/work: cannot be written"):
        script("benchmark_data.py").main()


def test_an_epoch_must_be_longer_than_what_is_read_ahead(loader: Callable[..., None], tmp_path: Path):
    data = TinySet(tmp_path / "data")
    with pytest.raises(UserError, match="--samples: expected more than the 16 read ahead, got 8"):
        loader("--dataroot", data.root, "--version", data.version, "--samples", 8)
