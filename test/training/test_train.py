"""The training script, called as a user calls it: a recipe file, a data set, a checkpoint, its score."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import yaml
from micro import micro_recipe
from ranks import on_one_machine
from scripts import FOLDER, SMALL, script

from crkd_core.cli import UserError
from crkd_core.config import recipe_to_dict
from crkd_core.data.synthscenes import DriveKey, SynthConfig
from crkd_core.data.synthscenes.writer import write_nuscenes
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.training.resume import steps_done

SCENE = "scene-0007"
Call = Callable[..., int]


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One simulated drive with two key frames, in nuScenes format."""
    root = tmp_path_factory.mktemp("data") / "drive"
    config = msgspec.structs.replace(SynthConfig(), image_width=160, supersampling=1, lidar_columns=90)
    write_nuscenes(root, [DriveKey(7, config, duration_s=1.0)], version="v1.0-mini", progress=False)
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest recipe, two steps long."""
    path = tmp_path_factory.mktemp("recipe") / "micro.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(micro_recipe(steps=2, batch_size=1))))
    return path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs the script's ``main`` with a command line."""
    train = script("train.py")

    def run(*args: str | Path) -> int:
        common = ["--workers", "0", "--precision", "fp32", "--no-progress"]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, args), *common])
        code: int = train.main()
        return code

    return run


def test_a_run_leaves_a_checkpoint_its_score_and_what_ran_and_the_checkpoint_scores_the_same_again(
    call: Call,
    recipe: Path,
    dataroot: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("nuscenes")
    out = tmp_path / "run"
    data = ["--dataroot", dataroot, "--version", "v1.0-mini"]
    assert call(recipe, *data, "--out", out, "--evaluate-scenes") == 0
    assert "micro: 2 samples, 2 steps of 1" in capsys.readouterr().out
    _, checkpoint = load_checkpoint(out / "model", expected_recipe="micro")
    assert set(checkpoint.metrics) == {"mAP", "NDS"}
    assert (checkpoint.provenance["seed"], checkpoint.provenance["steps"]) == (0, 2)
    assert "train.py" in checkpoint.provenance["command"]
    assert set(json.loads((out / "run.json").read_text())["recipe"]) == set(recipe_to_dict(checkpoint.recipe))
    assert len(json.loads((out / "results.json").read_text())) == 2
    assert [path.name for path in out.rglob("*.ckpt")] == ["last.ckpt"]

    scored = ["--split", "synth_train", "--by", "condition", "range", "--out", tmp_path / "scored", "--no-progress"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, [out / "model", *data, *scored])])
    assert script("evaluate.py").main() == 0
    assert "2 of 2 samples of the selection can be scored" in capsys.readouterr().out
    figures = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert figures["metrics"]["official"]["NDS"] == pytest.approx(checkpoint.metrics["NDS"], abs=1e-9)
    assert figures["ceiling"]["official"]["mAP"] > figures["metrics"]["official"]["mAP"]
    *conditions, near, middle, far = figures["groups"]
    assert (near, middle, far) == ("0-20 m", "20-35 m", "35-50 m")
    for condition in conditions:  # of the one drive there is
        assert figures["groups"][condition]["official"] == figures["metrics"]["official"]

    with pytest.raises(UserError, match="holds a run already; add --resume"):
        call(recipe, *data, "--out", out)
    assert call(recipe, *data, "--out", out, "--resume") == 0


def test_the_best_checkpoint_on_the_way_is_kept_with_its_figures(
    call: Call, recipe: Path, dataroot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("nuscenes")
    out = tmp_path / "run"
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--out", out, "--evaluate-scenes"]
    assert call(recipe, *data, "--evaluate-every", "1", "--set", "train.steps=3", "train.ema_decay=0.5") == 0
    rows = list(csv.DictReader((out / "evaluations.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    _, best = load_checkpoint(out / "best")
    assert best.metrics["NDS"] == max(float(row["NDS"]) for row in rows)
    assert float(rows[best.provenance["steps"] - 1]["NDS"]) == best.metrics["NDS"]
    _, final = load_checkpoint(out / "model")
    assert final.metrics["NDS"] == float(rows[2]["NDS"])
    assert capsys.readouterr().out.count(", the best") >= 1


def test_recipe_values_can_be_changed_and_shown(
    call: Call, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    args = [recipe, "--synthscenes", "3", "--frames-per-drive", "2", "--out", tmp_path / "run", "--dry-run"]
    assert call(*args, "--set", "train.steps=5", "image.train_flip=false", "train.learning_rate=2e-4") == 0
    shown = capsys.readouterr().out
    assert "micro: 6 samples, 5 steps of 1" in shown
    resolved = yaml.safe_load(shown.partition("micro: 6 samples")[0])
    assert (resolved["image"]["train_flip"], resolved["train"]["learning_rate"]) == (False, 2e-4)
    assert not (tmp_path / "run").exists()


def test_a_detector_of_radars_alone_trains_on_simulated_drives_and_names_the_simulator(call: Call, tmp_path: Path):
    values = recipe_to_dict(micro_recipe(steps=1, batch_size=1))
    values["model"] |= {"camera": None, "fuser": {"type": "conv", "channels": 16}}
    file = tmp_path / "radar.yaml"
    file.write_text(yaml.safe_dump(values))
    data = ["--synthscenes", "1", "--frames-per-drive", "1", "--image-width", "64"]
    assert call(file, *data, "--out", tmp_path / "run") == 0
    model, checkpoint = load_checkpoint(tmp_path / "run" / "model")
    assert model.camera is None
    assert checkpoint.provenance["synthscenes"] == SynthConfig().config_hash()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--synthscenes", "1", "--dataroot", "/nowhere"],
            "name one of --dataroot DIR, --synthscenes N and --frames FOLDER",
        ),
        ([], "name one of --dataroot DIR, --synthscenes N and --frames FOLDER"),
        (["--synthscenes", "1", "--evaluate-scenes"], "name it with --evaluate-root"),
        (
            ["--synthscenes", "1", "--evaluate-every", "5"],
            "--evaluate-every: expected 1 or more, with --evaluate-scenes",
        ),
        (["--frames", "/nowhere"], "/nowhere: no packed frames"),
        (["--synthscenes", "9001"], "seed 9000: expected one to train on, 0 to 8999"),
        (["--dataroot", "/nowhere"], "data root /nowhere: no such folder"),
        (["--synthscenes", "1", "--set", "train.speed=9"], "--set train.speed=9: expected KEY=VALUE with a key of"),
        (["--synthscenes", "1", "--set", "train.steps=many"], "train.steps"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    call: Call, recipe: Path, tmp_path: Path, arguments: list[str], message: str
):
    with pytest.raises(UserError, match=message):
        call(recipe, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_an_unknown_scene_is_named_with_those_there(call: Call, recipe: Path, dataroot: Path, tmp_path: Path):
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--scenes", "scene-9999"]
    with pytest.raises(UserError, match=f"no scene 'scene-9999'; expected one of {SCENE}"):
        call(recipe, *data, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "train.steps=[1"], "not readable as YAML"),
        (["--frames-per-drive", "0"], "--frames-per-drive of 1 or more"),
        (["--image-width", "1"], "--image-width: expected 64 to 4096 pixels, got 1"),
        (["--max-minutes", "nan"], "expected a number"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], message: str
):
    line = ["train.py", "student_tiny", "--synthscenes", "1", "--out", str(tmp_path / "run"), *words]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(UserError, match=message):
        script("train.py").main()
    assert not (tmp_path / "run").exists()


def test_changes_of_a_recipe_add_up(call: Call, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    args = [recipe, "--synthscenes", "1", "--out", tmp_path / "run", "--dry-run"]
    assert call(*args, "--set", "train.steps=5", "--set", "train.accumulate=3") == 0
    assert "5 steps of 3" in capsys.readouterr().out


def logged_steps(part: Path) -> list[int]:
    file = part / "metrics.csv"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = [line for line in lines if line.endswith("\n")]  # the run may be writing the last one
    return [int(row["step"]) for row in csv.DictReader(whole)]


def stopped(
    command: list[str], part: Path, *, group: bool, stderr: Path, environment: dict[str, str] | None = None
) -> tuple[int, list[int]]:
    """Exit code of a command that is sent SIGTERM in its third step, and the steps it has logged in ``part``.

    Args:
        command: trains.
        part: of its log.
        group: all its processes are told, as torchrun and SLURM do; else the one started here.
        stderr: file for what it says.
        environment: of the command, besides that of the test.
    """
    environment = os.environ | SMALL | (environment or {})
    with (
        stderr.open("w") as file,
        subprocess.Popen(command, env=environment, stderr=file, start_new_session=True) as process,
    ):
        while len(logged_steps(part)) < 2:
            assert process.poll() is None, stderr.read_text()[-2000:]
            time.sleep(0.02)
        (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    return process.returncode, logged_steps(part)


@pytest.mark.timeout(400)
def test_a_run_that_is_told_to_stop_saves_and_goes_on_also_with_another_number_of_processes(
    recipe: Path, dataroot: Path, tmp_path: Path
):
    """Two processes of torchrun, which is told; then one and its loading process, which are all told."""
    out, stderr = tmp_path / "run", tmp_path / "stderr"
    how = ["--set", "train.steps=1000000", "--save-every", "1000000", "--log-every", "1", "--precision", "fp32"]
    run = [FOLDER / "train.py", recipe, "--dataroot", dataroot, "--version", "v1.0-mini", "--out", out, *how]
    torchrun, environment = on_one_machine()
    alone = [sys.executable, *run, "--set", "train.accumulate=2", "--workers", "1", "--resume"]
    both = [*map(str, [*torchrun, *run]), "--workers", "0"]
    code, first = stopped(both, out / "log" / "version_0", group=False, stderr=stderr, environment=environment)
    assert code != 0
    assert first == list(range(steps_done(out))), stderr.read_text()[-2000:]
    code, second = stopped([*map(str, alone)], out / "log" / "version_1", group=True, stderr=stderr)
    assert code == 143, stderr.read_text()[-2000:]
    assert f"SIGTERM: stopped after {steps_done(out)} steps; --resume goes on from there" in stderr.read_text()
    assert [*first, *second] == list(range(steps_done(out)))
    assert not (out / "model").exists()


def test_a_run_that_cannot_go_on_leaves_the_folder_as_it_is(call: Call, recipe: Path, dataroot: Path, tmp_path: Path):
    run = [recipe, "--dataroot", dataroot, "--version", "v1.0-mini", "--out", tmp_path / "run"]
    assert call(*run) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(UserError, match=r"train\.weight_decay was 0\.\d+, is 0\.5; of a recipe only"):
        call(*run, "--resume", "--set", "train.weight_decay=0.5")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
