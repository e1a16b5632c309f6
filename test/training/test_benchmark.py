"""The table of parameters and operations."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from crkd_core.config import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.models.detector import FusionDetector

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small() -> Recipe:
    values = recipe_to_dict(load_recipe("student_tiny"))
    values["image"]["size"] = [64, 96]
    values["bev"] |= {"x_range": [-14.4, 14.4], "y_range": [-14.4, 14.4]}
    return recipe_from_dict(values, source="test")


def test_operations_are_those_of_a_real_forward_pass(benchmark: Any) -> None:
    recipe = small()
    with torch.device("meta"):
        counted = benchmark.flops(FusionDetector(recipe).eval(), benchmark.empty_input(recipe))
    inputs = benchmark.empty_input(recipe)
    for name in ("images", "radar", "image_sample", "radar_sample"):
        getattr(inputs, name).zero_()
    for name in ("intrinsics", "T_bev_from_cam", "image_augment", "bev_augment"):
        getattr(inputs, name).copy_(torch.eye(getattr(inputs, name).shape[-1]))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        FusionDetector(recipe).eval()(inputs)
    # On a CPU the products that place the rays count, too: one in eighty thousand here.
    assert counted == pytest.approx(counter.get_total_flops(), rel=1e-4)
    assert counted > 1e8


def test_a_convolution_counts_twice_its_multiplications() -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nn.Conv2d(3, 8, 3, padding=1, bias=False)(torch.zeros(1, 3, 10, 10))
    assert counter.get_total_flops() == 2 * 10 * 10 * 8 * 3 * 9


def test_the_page_holds_a_row_per_recipe(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--describe", "--recipes", "student_tiny", "--out", str(tmp_path / "models.md")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "models.md").read_text()
    (row,) = [line for line in page.splitlines() if "student_tiny" in line]
    total = sum(p.numel() for p in FusionDetector(load_recipe("student_tiny")).parameters())
    assert f"**{total / 1e6:.2f}**" in row
    assert f"torch {torch.__version__}" in page


def test_every_shipped_recipe_stands_in_the_committed_page() -> None:
    page = (SCRIPT.parents[1] / "docs" / "models.md").read_text()
    for path in (SCRIPT.parents[1] / "config" / "recipes").glob("*.yaml"):
        assert f"`{path.stem}`" in page, f"{path.stem}: run training/benchmark.py --describe --out docs/models.md"
