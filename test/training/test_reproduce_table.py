"""The study, called as a user calls it: at the smallest size, killed, resumed, and scored elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from micro import micro_crkd, micro_recipe, micro_teacher
from scripts import script

from crkd_core.cli import UserError
from crkd_core.config import load_recipe, recipe_to_dict
from crkd_core.training.study import ARMS


def main(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduce_table.py", *map(str, args)])
    code: int = script("reproduce_table.py").main()
    return code


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Files of the smallest recipes; what ``--recipes`` takes."""
    folder = tmp_path_factory.mktemp("recipes")
    crkd = micro_crkd(steps=2, batch_size=2)
    student = msgspec.structs.replace(
        crkd, distillation=None, model=msgspec.structs.replace(crkd.model, radar=micro_recipe().model.radar)
    )
    roles = {"crkd": crkd, "student": student, "teacher": micro_teacher(steps=2, batch_size=2)}
    for role, recipe in roles.items():
        (folder / f"{role}.yaml").write_text(yaml.safe_dump(recipe_to_dict(recipe) | {"name": role}))
    return str(folder / "{}.yaml")


def asked(monkeypatch: pytest.MonkeyPatch, *args: str) -> argparse.Namespace:
    """A command line, read."""
    monkeypatch.setattr(sys, "argv", ["reproduce_table.py", "--out", "unused", *args])
    found: argparse.Namespace = script("reproduce_table.py").arguments()
    return found


def test_processes_of_arms_side_by_side_have_one_thread_unless_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    places = script("reproduce_table.py").places
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "3"}
    both = places(asked(monkeypatch, "--gpus", "2"))
    assert both == [{"CUDA_VISIBLE_DEVICES": gpu, **threads} for gpu in ("0", "1")]
    assert places(asked(monkeypatch, "--per-gpu", "2")) == 2 * both[:1]
    assert places(asked(monkeypatch)) == [{"CUDA_VISIBLE_DEVICES": "0"}]


def test_a_teacher_that_nobody_learns_from_waits_for_all_others(monkeypatch: pytest.MonkeyPatch):
    *others, last = script("reproduce_table.py").arm_jobs(asked(monkeypatch, "--arms", "crkd", "baseline"), ["frames"])
    assert (last.name, last.needs) == ("teacher-seed1", ("frames",))
    assert set(last.after) == {job.name for job in others}


@pytest.mark.timeout(300)
def test_arms_run_with_what_they_need_go_on_where_they_were_and_are_scored(
    recipes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("spconv")
    pytest.importorskip("nuscenes")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "study"
    size = ["--drives", "1", "--frames-per-drive", "2", "--test-drives", "1", "--image-width", "96"]
    how = ["--out", out, "--recipes", recipes, "--seeds", "1", "--workers", "0", "--precision", "fp32", *size]
    assert main(monkeypatch, *how, "--arms", "crkd", "--minutes", "0") == 0
    assert "0 of 5 done, 0 failed, 5 not started" in capsys.readouterr().out

    assert main(monkeypatch, *how, "--arms", "crkd", "student_on") == 0
    said = capsys.readouterr().out
    assert "6 of 6 done" in said
    facts = json.loads((out / "student_on-seed0" / "arm.json").read_text())
    assert (facts["steps"], "--teacher" in facts["command"]) == (2, False)
    facts: dict[str, Any] = json.loads((out / "crkd-seed0" / "arm.json").read_text())
    assert (facts["arm"], facts["seed"], facts["steps"], facts["samples"]) == ("crkd", 0, 2, 4)
    assert facts["command"].startswith("training/distill.py ")
    page = (out / "study.md").read_text()
    assert f"4 runs of 4 of the {len(ARMS)} arms are scored" in page
    row = next(line for line in page.splitlines() if line.startswith("| crkd |"))
    assert row.split(" | ")[2] == "1"
    assert (out / "study.png").stat().st_size < 150_000
    assert len(json.loads((out / "teacher-seed0" / "results.json").read_text())["results"]) == 10

    # A killed arm has its resume state, and neither metrics nor arm.json.
    scored = (out / "crkd-seed0" / "metrics.json").read_bytes()
    (out / "crkd-seed0" / "arm.json").unlink()
    assert main(monkeypatch, *how, "--arms", "crkd") == 0
    said = capsys.readouterr().out
    assert said.count("start ") == 1
    assert "start crkd-seed0" in said

    with pytest.raises(UserError, match="teacher-seed0: was run with another 'teacher' than now"):
        main(monkeypatch, *how, "--arms", "crkd", "--set", "train.learning_rate=0.5")
    with pytest.raises(UserError, match=r"frames: was made by .*'0:1'.*, not by .*'0:2'"):
        main(monkeypatch, *how, "--drives", "2")

    noted = (out / "crkd-seed0" / "arm.json").read_text()
    (out / "crkd-seed0" / "arm.json").write_text(noted.replace("teacher-seed0", "teacher-seed9"))
    with pytest.raises(UserError, match="crkd-seed0: did not start with teacher-seed0"):
        main(monkeypatch, *how, "--arms", "crkd")
    (out / "crkd-seed0" / "arm.json").write_text(noted)

    # As on a machine without nuscenes-devkit: results, no metrics; an arm was killed as it wrote its results.
    (out / "crkd-seed0" / "metrics.json").unlink()
    (out / "only_csrd-seed0").mkdir()
    (out / "only_csrd-seed0" / "results.json").write_text('{"meta": {')
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "study_findings.md").write_text("# What came out\n")
    assert main(monkeypatch, "--score", out, "--docs", tmp_path / "docs" / "small") == 0
    assert "](../study_findings.md)" in (tmp_path / "docs" / "small" / "study.md").read_text()
    assert "crkd-seed0: mAP" in capsys.readouterr().out
    assert (out / "crkd-seed0" / "metrics.json").read_bytes() == scored

    # As with --score-later: neither results nor, at first, anything to score on.
    for name in ("metrics.json", "results.json"):
        (out / "crkd-seed0" / name).unlink()
    (out / "evaluation").rename(out / "elsewhere")
    again = rf"nothing to score on; .* python training/make_synthscenes\.py --out {out}/evaluation --seeds 9900:9901 "
    with pytest.raises(UserError, match=again):
        main(monkeypatch, "--score", out)
    (out / "elsewhere").rename(out / "evaluation")
    (out / "an arm without a checkpoint").mkdir()
    (out / "an arm without a checkpoint" / "arm.json").write_text(noted)
    assert main(monkeypatch, "--score", out, "--docs", tmp_path / "docs") == 1
    assert "an arm without a checkpoint: not scored: " in capsys.readouterr().out
    shutil.rmtree(out / "an arm without a checkpoint")
    assert main(monkeypatch, "--score", out, "--docs", tmp_path / "docs") == 0
    assert (out / "crkd-seed0" / "metrics.json").read_bytes() == scored
    page = (tmp_path / "docs" / "study.md").read_text()
    assert "4 runs of 4" in page
    assert "Made by `training/reproduce_table.py --out" in page
    assert "--arms crkd student_on`, then `training/reproduce_table.py" in page
    assert "--resume" not in page
    assert "\npython training/make_synthscenes.py " in page


def test_drives_to_train_on_are_simulated_with_what_teacher_and_student_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(monkeypatch, "--out", tmp_path / "study", "--arms", "teacher", "--dry-run") == 0
    frames = capsys.readouterr().out.splitlines()[0]
    assert frames.startswith("frames: python training/pack_synthscenes.py ")
    assert "--radar-sweeps 6 --image-width 448 --lidar-sweeps 4 --lidar-step 3" in frames


def test_a_dry_run_lists_every_arm_of_a_data_set_with_the_full_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    data = ["--dataroot", "/data", "--prepared", "/prepared"]
    assert main(monkeypatch, "--out", tmp_path / "table", "--gpus", "4", *data, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(ARMS)
    assert "--set train.accumulate=4 " in lines[0]  # as many samples a step as four processes have
    assert lines[0].startswith("teacher-seed0: python training/train.py teacher_r50 ")
    assert (
        "--dataroot /data --version v1.0-trainval --split train --prepared /prepared --evaluate-split val" in lines[0]
    )
    crkd = next(line for line in lines if line.startswith("crkd-seed1: "))
    assert "training/distill.py crkd_r50" in crkd
    assert f"--teacher {tmp_path}/table/teacher-seed0/model --student {tmp_path}/table/student-seed1/model" in crkd
    scratch = next(line for line in lines if line.startswith("crkd_scratch-seed1: "))
    assert "--student" not in scratch
    alone = load_recipe("student_r50").train
    schedule = (
        f"train.steps={alone.steps} train.batch_size={alone.batch_size} train.learning_rate={alone.learning_rate} "
    )
    assert f"--set train.accumulate=4 {schedule}" in scratch
    assert not (tmp_path / "table").exists()

    several = ["--processes", "2", "--pretrained", "r50.pth", "--set", "train.steps=9"]
    assert main(monkeypatch, "--out", tmp_path / "table", "--gpus", "4", *data, *several, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    torchrun = "python -m torch.distributed.run --standalone --nproc-per-node 2 training/train.py teacher_r50 "
    assert lines[0].startswith(f"teacher-seed0: {torchrun}")
    assert "--pretrained r50.pth --set train.accumulate=2 train.steps=9" in lines[0]
    pretrained = {line.partition("-seed")[0]: "--pretrained r50.pth" in line for line in lines}
    assert {name for name, given in pretrained.items() if given} == {"teacher", "student", "baseline", "crkd_scratch"}


def test_arms_that_are_scored_later_neither_wait_for_what_they_are_scored_on_nor_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    how = ["--out", tmp_path / "study", "--arms", "crkd", "--seeds", "1", "--score-later", "--half", "--workers", "2"]
    assert main(monkeypatch, *how, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["frames", "teacher-seed0", "student-seed0", "crkd-seed0"]
    assert not any("--evaluate" in line for line in lines)
    assert all(line.endswith(" --half") for line in lines[1:])
    assert ["--workers 6 " in line for line in lines[1:]] == [True, False, False]  # all wait for the teacher


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "nobody"], "--arms nobody: expected some of teacher, student"),
        (["--recipes", "student_tiny"], "expected {} where the role goes"),
        (["--seeds", "0"], "--seeds: expected 1 or more, got 0"),
        (["--gpus", "3", "--processes", "2"], "--gpus 3: expected a multiple of --processes 2"),
        (
            ["--gpus", "3", "--processes", "3", "--dataroot", "/data"],
            "--processes 3: the full recipes are written for 4",
        ),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        main(monkeypatch, "--out", tmp_path / "study", *words)
    assert not (tmp_path / "study").exists()
