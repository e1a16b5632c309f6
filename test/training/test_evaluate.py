"""The evaluation script, called as a user calls it."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from micro import micro_recipe
from PIL import Image
from ranks import on_one_machine
from scripts import SMALL

from crkd_core.cli import UserError
from crkd_core.data.synthscenes import DriveKey, SynthConfig
from crkd_core.data.synthscenes.writer import write_nuscenes
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import save_checkpoint

pytest.importorskip("nuscenes")

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "evaluate.py"
Call = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs the script's ``main`` with a command line."""
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*args: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, args), "--no-progress"])
        code: int = script.main()
        return code

    return run


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One simulated drive with two key frames, whose scene has the name of one of nuScenes' test split."""
    root = tmp_path_factory.mktemp("data") / "drive"
    config = msgspec.structs.replace(SynthConfig(), image_width=160, supersampling=1, lidar_columns=90)
    write_nuscenes(root, [DriveKey(7, config, duration_s=1.0)], version="v1.0-mini", progress=False)
    table = root / "v1.0-mini" / "scene.json"
    table.write_text(table.read_text().replace("scene-0007", "scene-0077"))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector that has learnt nothing."""
    torch.manual_seed(0)
    recipe = micro_recipe()
    return save_checkpoint(tmp_path_factory.mktemp("run") / "model", FusionDetector(recipe), recipe)


def test_a_report_of_a_checkpoint_has_figures_curves_and_pictures_and_compares_with_another_run(
    call: Call, checkpoint: Path, dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--scenes", "scene-0077"]
    assert call(checkpoint, *data, "--out", tmp_path / "a", "--pictures", "1") == 0
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1
    assert "<polyline" in page
    assert " missed, " in page
    assert not any(f'{kind}="http' in page for kind in ("src", "href"))
    assert Image.open(tmp_path / "a" / "curves.png").width > 800
    capsys.readouterr()

    other = tmp_path / "a" / "metrics.json"
    assert call(checkpoint, *data, "--compare", other, "--score-threshold", "0.9") == 0
    table = capsys.readouterr().out.partition("other: ")[2].splitlines()
    figures = json.loads(other.read_text())["metrics"]["official"]
    row = next(line.split() for line in table if line.startswith("NDS"))
    assert float(row[2]) == pytest.approx(figures["NDS"], abs=5e-4)
    assert float(row[1]) - float(row[2]) == pytest.approx(float(row[3]), abs=1.1e-3)
    with pytest.raises(UserError, match="cannot be read"):
        call(checkpoint, *data, "--compare", tmp_path / "none.json")


def test_the_test_split_gives_a_file_for_the_server_and_no_score(
    call: Call, checkpoint: Path, dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--split", "test"]
    with pytest.raises(UserError, match="name a checkpoint and --out"):
        call(checkpoint, *data)
    assert call(checkpoint, *data, "--out", tmp_path / "submission") == 0
    assert "2 samples of the test split, not scored" in capsys.readouterr().out
    content = json.loads((tmp_path / "submission" / "results.json").read_text())
    sensors = {"use_camera": True, "use_radar": True, "use_lidar": False, "use_map": False, "use_external": False}
    assert content["meta"] == sensors
    assert len(content["results"]) == 2
    assert [path.name for path in (tmp_path / "submission").iterdir()] == ["results.json"]


@pytest.mark.timeout(300)
def test_processes_share_the_detection_and_one_scores(call: Call, checkpoint: Path, dataroot: Path, tmp_path: Path):
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--scenes", "scene-0077", "--device", "cpu"]
    assert call(checkpoint, *data, "--out", tmp_path / "one") == 0
    launcher, environment = on_one_machine()
    command = [*launcher, SCRIPT, checkpoint, *data, "--out", tmp_path / "two", "--pictures", "0", "--no-progress"]
    command, environment = list(map(str, command)), os.environ | SMALL | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("2 of 2 samples") == 1
    assert done.stdout.count("means over") == 1
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["metrics"]["official"] == pytest.approx(two["metrics"]["official"], abs=1e-6)
    assert one["metrics"]["classes"].keys() == two["metrics"]["classes"].keys()
    own, shared = (json.loads((tmp_path / name / "results.json").read_text())["results"] for name in ("one", "two"))
    assert list(own) == list(shared)
    for token, boxes in own.items():
        assert len(boxes) > 10
        for name in ("translation", "size", "detection_score"):
            expected, found = (np.array([box[name] for box in of[token]]) for of in (own, shared))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "nowhere", "--dataroot", str(tmp_path), "--split", "val"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: data root")
    assert len(done.stderr.splitlines()) == 1


def test_something_to_score_must_be_named(call: Call, tmp_path: Path):
    with pytest.raises(UserError, match="either a checkpoint or --results"):
        call("--dataroot", tmp_path, "--split", "val")
    with pytest.raises(UserError, match="either a checkpoint or --results"):
        call("checkpoint", "--results", "r.json", "--dataroot", tmp_path, "--split", "val")


@pytest.mark.nuscenes
def test_a_result_file_is_scored_and_written_again(
    call: Call, nuscenes_root: Path, nuscenes_results_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = nuscenes_results_dir / "cc_3dt_scene0916_only.json"
    root = ["--dataroot", nuscenes_root, "--version", "v1.0-mini"]
    out = ["--recipe", "student_tiny", "--out", tmp_path / "scored"]
    assert call("--results", source, *root, "--split", "mini_val", *out) == 0
    assert "41 of 41 samples" in capsys.readouterr().out
    content = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    reference = json.loads((nuscenes_results_dir / "devkit_reference_metrics_scene0916.json").read_text())
    assert content["metrics"]["official"]["NDS"] == pytest.approx(reference["nd_score"], abs=1e-6)
    assert 0.6 < content["ceiling"]["classes"]["pedestrian"]["ap"] < 0.9
    again = json.loads((tmp_path / "scored" / "results.json").read_text())
    assert again["results"] == json.loads(source.read_text())["results"]
    assert again["meta"]["use_camera"]


@pytest.mark.nuscenes
def test_samples_can_be_listed_in_a_file(
    call: Call, nuscenes_root: Path, nuscenes_results_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = nuscenes_results_dir / "cc_3dt_scene0916_only.json"
    tokens = list(json.loads(source.read_text())["results"])[:2]
    (tmp_path / "tokens.txt").write_text("\n".join(tokens))
    args = ["--results", source, "--dataroot", nuscenes_root, "--version", "v1.0-mini", "--samples"]
    assert call(*args, tmp_path / "tokens.txt", "--dry-run") == 0
    assert "2 of 2 samples" in capsys.readouterr().out
    (tmp_path / "tokens.txt").write_text("nobody")
    with pytest.raises(UserError, match="1 unknown sample tokens"):
        call(*args, tmp_path / "tokens.txt")
    with pytest.raises(UserError, match="cannot be read"):
        call(*args, tmp_path / "none.txt")
