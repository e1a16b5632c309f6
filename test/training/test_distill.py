"""Distillation and runs of several processes, called as a user calls them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import torch
import yaml
from micro import micro_crkd, micro_recipe, micro_teacher
from ranks import on_each_of_two_machines, on_one_machine
from scripts import FOLDER, SMALL, script

from crkd_core.cli import UserError
from crkd_core.config import Recipe, RecipeError, recipe_to_dict
from crkd_core.data.synthscenes import DriveKey, SynthConfig
from crkd_core.data.synthscenes.writer import write_nuscenes
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint, save_checkpoint

HOW = ["--workers", "0", "--precision", "fp32", "--no-progress"]


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One simulated drive with four key frames, in nuScenes format."""
    root = tmp_path_factory.mktemp("data") / "drive"
    config = msgspec.structs.replace(SynthConfig(), image_width=160, supersampling=1, lidar_columns=90)
    write_nuscenes(root, [DriveKey(7, config, duration_s=2.0)], version="v1.0-mini", progress=False)
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    pytest.importorskip("spconv")
    torch.manual_seed(1)
    recipe = micro_teacher()
    return save_checkpoint(tmp_path_factory.mktemp("teacher") / "model", FusionDetector(recipe), recipe)


def file_of(recipe: Recipe, folder: Path) -> Path:
    path = folder / f"{recipe.name}.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    return path


def main(name: str, monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", [name, *map(str, args), *HOW])
    code: int = script(name).main()
    return code


def test_a_student_is_distilled_from_a_teacher_and_starts_from_a_student(
    teacher: Path, dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = micro_crkd(steps=2, batch_size=2)
    plain = msgspec.structs.replace(recipe, name="plain", distillation=None)
    student = save_checkpoint(tmp_path / "student", FusionDetector(plain), plain)
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--out", tmp_path / "run", "--log-every", "1"]
    pair = ["--teacher", teacher, "--student", student]
    assert main("distill.py", monkeypatch, file_of(recipe, tmp_path), *data, *pair) == 0
    _, checkpoint = load_checkpoint(tmp_path / "run" / "model", expected_recipe="micro_crkd")
    assert checkpoint.provenance["command"].startswith("training/distill.py ")
    rows = list(csv.DictReader((tmp_path / "run" / "log" / "version_0" / "metrics.csv").open()))
    assert float(rows[-1]["distillation/fused_features"]) > 0


def test_what_does_not_fit_together_is_refused(
    teacher: Path, dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--out", tmp_path / "run"]
    crkd, student = (file_of(recipe, tmp_path) for recipe in (micro_crkd(), micro_recipe()))
    with pytest.raises(UserError, match=r"micro_crkd: learns from a teacher; use training/distill\.py"):
        main("train.py", monkeypatch, crkd, *data)
    with pytest.raises(RecipeError, match="recipe 'micro': no distillation section"):
        main("distill.py", monkeypatch, student, *data, "--teacher", teacher)
    with pytest.raises(UserError, match="--teacher: expected a checkpoint; only where all losses have weight 0"):
        main("distill.py", monkeypatch, crkd, *data)
    change = ["--set", "distillation.teacher_backbone=released"]
    with pytest.raises(UserError, match="'released' needs --pretrained FILE"):
        main("distill.py", monkeypatch, crkd, *data, "--teacher", teacher, *change)
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(300)
def test_two_processes_train_and_share_the_evaluation(dataroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("nuscenes")
    out = tmp_path / "run"
    recipe = file_of(micro_recipe(steps=2, batch_size=1), tmp_path)
    launcher, environment = on_one_machine()
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--out", out]
    words = [FOLDER / "train.py", recipe, *data, "--evaluate-scenes", "--evaluate-every", "1", *HOW]
    command, environment = list(map(str, [*launcher, *words])), os.environ | SMALL | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("micro: 4 samples, 2 steps of 2") == 1
    shared = json.loads((out / "results.json").read_text())["results"]
    _, checkpoint = load_checkpoint(out / "model")
    assert checkpoint.provenance["processes"] == 2
    evaluations = list(csv.DictReader((out / "evaluations.csv").open()))
    assert [row["step"] for row in evaluations] == ["1", "2"]
    assert float(evaluations[-1]["NDS"]) == checkpoint.metrics["NDS"]
    assert load_checkpoint(out / "best")[1].metrics["NDS"] == max(float(row["NDS"]) for row in evaluations)

    alone = ["--dataroot", dataroot, "--version", "v1.0-mini", "--split", "synth_train", "--out", tmp_path / "alone"]
    monkeypatch.setattr(sys, "argv", list(map(str, ["evaluate.py", out / "model", *alone, "--no-progress"])))
    assert script("evaluate.py").main() == 0
    assert json.loads((tmp_path / "alone" / "results.json").read_text())["results"] == shared
    figures = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert figures["metrics"]["official"]["NDS"] == pytest.approx(checkpoint.metrics["NDS"], abs=1e-9)


def logged(part: Path) -> dict[int, float]:
    """Step -> loss, of one part of a run's log."""
    rows = csv.DictReader((part / "metrics.csv").open())
    return {int(row["step"]): float(row["loss"]) for row in rows if row.get("loss")}


def losses(folder: Path) -> dict[int, float]:
    """Step -> loss, of all parts of a run; a later part says again what was computed again."""
    return {step: loss for part in sorted((folder / "log").iterdir()) for step, loss in logged(part).items()}


@pytest.mark.timeout(300)
def test_a_run_killed_in_mid_epoch_goes_on_as_if_nothing_had_happened(dataroot: Path, tmp_path: Path):
    recipe = file_of(micro_recipe(steps=27, batch_size=1), tmp_path)
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--log-every", "1", "--save-every", "7", *HOW]
    command = list(map(str, [sys.executable, FOLDER / "train.py", recipe, *data, "--out"]))
    environment = os.environ | SMALL
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)

    killed = tmp_path / "killed"
    with subprocess.Popen([*command, str(killed)], env=environment, stderr=subprocess.DEVNULL) as process:
        while not (killed / "last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    stopped = int(torch.load(killed / "last.ckpt", weights_only=True)["global_step"])
    assert stopped % 7 == 0
    assert stopped % 4 != 0  # in mid-epoch: there are four samples
    subprocess.run([*command, str(killed), "--resume"], env=environment, check=True, capture_output=True)
    whole, resumed = losses(tmp_path / "whole"), losses(killed)
    noise = 1e-4 if torch.cuda.is_available() else 0  # on a CPU the same to the last bit
    assert set(range(stopped, 27)) <= set(resumed)
    for step in range(stopped, 27):
        assert resumed[step] == pytest.approx(whole[step], rel=noise, abs=0), step


@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun_does_not_go_on_with_the_run_of_another_launch(tmp_path: Path, processes: int):
    """That it is refused is a failure, after which torchrun starts the processes again; it must stay refused."""
    (tmp_path / "last.ckpt").touch()
    launcher, environment = on_one_machine(processes, restarts=1)
    what = ["student_tiny", "--synthscenes", "1", "--dry-run", "--out", tmp_path]
    command, environment = list(map(str, [*launcher, FOLDER / "train.py", *what])), os.environ | SMALL | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    refusals = [line for line in done.stderr.splitlines() if line.startswith(f"error: {tmp_path}: holds a run already")]
    assert len(refusals) >= 2, done.stderr
    assert "steps of" not in done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("machines", [1, 2])
def test_torchrun_starts_all_processes_again_when_one_is_killed_and_they_go_on(
    dataroot: Path, tmp_path: Path, machines: int
):
    recipe, out = file_of(micro_recipe(steps=90, batch_size=1), tmp_path), tmp_path / "run"
    data = ["--dataroot", dataroot, "--version", "v1.0-mini", "--log-every", "1", "--save-every", "25", "--out", out]
    words = list(map(str, [FOLDER / "train.py", recipe, *data, *HOW]))
    first = out / "log" / "version_0"
    launches = [on_one_machine(restarts=1)] if machines == 1 else 2 * [on_each_of_two_machines(restarts=1)]
    with ExitStack() as stack:
        said = [stack.enter_context((tmp_path / f"said {number}").open("w")) for number, _ in enumerate(launches)]
        running = [
            stack.enter_context(
                subprocess.Popen([*launcher, *words], env=os.environ | SMALL | environment, stdout=file, stderr=file)
            )
            for (launcher, environment), file in zip(launches, said, strict=True)
        ]
        while not (out / "last.ckpt").exists() or len(logged(first)) < 30:
            for process, file in zip(running, said, strict=True):
                assert process.poll() is None, Path(file.name).read_text()[-2000:]
            time.sleep(0.02)
        *_, last = children(running[-1].pid)
        os.kill(last, signal.SIGKILL)
        codes = [process.wait() for process in running]
        texts = [Path(file.name).read_text() for file in said]
    assert codes == [0] * machines, "\n".join(text[-2000:] for text in texts)
    assert "".join(texts).count("micro: 4 samples, 90 steps of 2") == 2
    whole, resumed = logged(first), logged(out / "log" / "version_1")
    assert list(resumed) in (list(range(saved, 90)) for saved in (25, 50, 75))  # the kill may come late
    for step in whole.keys() & resumed.keys():
        assert resumed[step] == pytest.approx(whole[step], rel=1e-4), step
    assert load_checkpoint(out / "model")[1].provenance["steps"] == 90


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
