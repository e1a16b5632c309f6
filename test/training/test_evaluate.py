"""The evaluation script, called as a user calls it."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crkd_core.cli import UserError

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
