"""The measurement of a training step, on small data: that its parts are those of the step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from micro import micro_crkd, micro_recipe, micro_teacher
from scripts import script
from torch.optim import SGD

from crkd_core.cli import UserError
from crkd_core.config import Recipe, recipe_to_dict
from crkd_core.data.packed import pack_simulated
from crkd_core.data.simulated import simulated_keys
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.detector import FusionOutput
from crkd_core.training.detection_training import DetectionTraining
from crkd_core.types import NetworkInput

Measure = Callable[..., dict[str, object]]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed") / "frames"
    keys = simulated_keys(range(2), frames_per_drive=2)
    pack_simulated(folder, keys, image_width=128, radar_sweeps=6, lidar_sweeps=range(3), jobs=1)
    return folder


@pytest.fixture
def benchmark() -> ModuleType:
    return script("benchmark_training.py")


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frames: Path, benchmark: ModuleType) -> Measure:
    """Runs ``benchmark_training.py`` with a recipe; returns its figures."""

    def call(recipe: Recipe, *words: str | Path) -> dict[str, object]:
        out = tmp_path / "figures.json"
        command = [file_of(recipe, tmp_path), "--frames", frames, "--steps", 2, "--workers", 0, *words, "--out", out]
        monkeypatch.setattr(sys, "argv", ["benchmark_training.py", *map(str, command)])
        assert benchmark.main() == 0
        found: dict[str, object] = json.loads(out.read_text())
        return found

    return call


def file_of(recipe: Recipe, folder: Path) -> Path:
    """The recipe as a file."""
    path = folder / f"{recipe.name}.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    return path


def test_a_plain_step_has_no_teacher(measure: Measure):
    found = measure(micro_recipe(steps=100), "--batch", "1")
    assert found["samples_per_step"] == 1
    parts = found["step_ms"]
    assert isinstance(parts, dict)
    assert list(parts) == ["student", "targets and detection losses", "backward", "clipping and optimiser"]
    assert all(found[speed] > 0 for speed in ("training_samples_per_s", "loader_samples_per_s"))  # type: ignore[operator]
    assert "distillation_losses" not in found


def test_a_slow_part_takes_its_share_of_the_step(measure: Measure, monkeypatch: pytest.MonkeyPatch):
    class Slow(SGD):
        def step(self, closure: Any = None) -> Any:
            time.sleep(0.5)
            return super().step(closure)

    def slow(self: DetectionTraining) -> dict[str, object]:
        return {"optimizer": Slow(self.parameters(), lr=1e-3)}

    monkeypatch.setattr(DetectionTraining, "configure_optimizers", slow)
    found = measure(micro_recipe(steps=100, batch_size=1, accumulate=2))
    parts = found["step_ms"]
    assert isinstance(parts, dict)
    assert parts["clipping and optimiser"] >= 500
    # Two samples of each step, which takes at least half a second.
    assert found["training_samples_per_s"] < 4  # type: ignore[operator]


def test_a_distilled_step_says_what_its_losses_cost(measure: Measure, tmp_path: Path):
    pytest.importorskip("spconv")
    found = measure(micro_crkd(steps=100, batch_size=2), "--teacher", file_of(micro_teacher(), tmp_path))
    assert found["samples_per_step"] == 2
    assert {"teacher", "distillation losses"} < set(found["step_ms"])  # type: ignore[call-overload]
    cost = found["distillation_losses"]
    assert isinstance(cost, dict)
    assert cost["share_of_step"] == pytest.approx(cost["ms"] / sum(found["step_ms"].values()))  # type: ignore[attr-defined]


def test_steps_with_the_losses_and_without_take_turns(
    measure: Measure, benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    pytest.importorskip("spconv")
    calls: list[str] = []
    asked, compared = Distiller.taught, Distiller.losses

    def taught(self: Distiller, inputs: NetworkInput) -> FusionOutput:
        calls.append("asked")
        return asked(self, inputs)

    def losses(self: Distiller, *maps: Any) -> dict[str, torch.Tensor]:
        calls.append("compared")
        clock["s"] += 0.3
        return compared(self, *maps)

    clock = {"s": 0.0}  # stands still but for the losses
    monkeypatch.setattr(Distiller, "taught", taught)
    monkeypatch.setattr(Distiller, "losses", losses)
    monkeypatch.setattr(benchmark, "now", lambda: clock["s"])
    found = measure(micro_crkd(steps=100, batch_size=2), "--teacher", file_of(micro_teacher(), tmp_path))
    steps = 10 + 2  # warm-up and --steps
    assert calls[-3 * steps :] == ["asked", "compared", "asked"] * steps
    assert found["distillation_losses"] == pytest.approx({"ms": 300, "share_of_step": 1})


def test_what_cannot_be_measured_is_refused(measure: Measure):
    with pytest.raises(UserError, match="--teacher: expected one with a recipe that distils, none with others"):
        measure(micro_crkd(steps=100))
    with pytest.raises(UserError, match=r"train\.steps: expected at least 12 to measure 2, got 6"):
        measure(micro_recipe(steps=6))
