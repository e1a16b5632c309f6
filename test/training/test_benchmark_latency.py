"""What is compared on a GPU computes the same boxes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro_frame, micro_recipe

from crkd_core.config import recipe_from_dict, recipe_to_dict
from crkd_core.data.encode import encode
from crkd_core.models.detector import FusionDetector

SCRIPTS = Path(__file__).resolve().parents[2] / "training"


@pytest.fixture(scope="module")
def benchmark_reference() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_reference", SCRIPTS / "benchmark_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_released_codes_way_gives_the_same_boxes(benchmark_reference: Any) -> None:
    values = recipe_to_dict(micro_recipe())
    values["image"]["resize"] = "pil_bicubic"
    torch.manual_seed(1)
    model = FusionDetector(recipe_from_dict(values, source="test")).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frame = micro_frame(3).frame
    reference = benchmark_reference.ReferenceDetector(model, autocast=False)
    inputs = reference.preprocess(frame)
    with torch.inference_mode():
        expected_inputs = encode(frame, model.recipe)
        expected = model.detect(expected_inputs)[0]
    torch.testing.assert_close(inputs.images, expected_inputs.images, rtol=0, atol=1e-5)
    found = reference.network(inputs)
    assert len(found.scores) == len(expected.scores) > 5
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    distance = (found.boxes[:, None] - expected.boxes[None]).abs().amax(-1)
    assert (distance.min(1).values < 1e-3).float().mean() > 0.95


def test_too_few_runs_are_refused() -> None:
    command = [sys.executable, SCRIPTS / "benchmark_latency.py", "student_tiny", "--runs", "4"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--runs: expected 5 or more, got 4" in result.stderr
