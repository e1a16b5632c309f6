"""The measurement on a CPU: that it measures all ways on the same frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from micro import micro_recipe
from scripts import script

from crkd_core.cli import UserError
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import save_checkpoint


def test_all_ways_are_measured_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = micro_recipe()
    checkpoint = save_checkpoint(tmp_path / "model", FusionDetector(recipe).eval(), recipe)
    words = ["benchmark_cpu.py", checkpoint, "--threads", 1, "--runs", 1, "--out", tmp_path / "figures.json"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    assert script("benchmark_cpu.py").main() == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["recipe"] == "micro"
    assert all(ms["wall"] > 0 and ms["cpu"] > 0 for ms in figures["ms"].values())
    assert list(figures["ms"]) == ["released way", "detector, fp32", "detector, bf16"]


def test_no_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["benchmark_cpu.py", str(tmp_path), "--runs", "0"])
    with pytest.raises(UserError, match="--runs: expected 1 or more, got 0"):
        script("benchmark_cpu.py").main()
