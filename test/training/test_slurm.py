"""The job script for SLURM, run by bash with stand-ins for srun and scontrol."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripts import FOLDER, script
from torch.distributed.run import get_args_parser

JOB = FOLDER / "slurm" / "train.sbatch"
PROGRAMS = {
    # Notes what it is asked to start, one word a line; runs until the job is requeued, or ends with the test's code.
    "srun": """printf '%s\\n' "$@" > "$BOX/srun"
while [ -e "$BOX/runs" ]; do sleep 0.01; done
sleep "${SRUN_ENDS_LATER:-0}"
exit "${CODE:-0}"
""",
    "scontrol": """echo "$*" >> "$BOX/scontrol"
case "$1" in
  show) printf 'gpu-a7\\ngpu-a9\\n' ;;
  requeue) rm "$BOX/runs"; sleep "${SCONTROL_ENDS_LATER:-0}" ;;
esac
""",
}
SLURM = {
    "SLURM_JOB_ID": "4711042",
    "SLURM_JOB_NODELIST": "gpu-a[7,9]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_PER_TASK": "32",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a job on two machines; ``$BOX`` holds what the programs were told."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}")
        (programs / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return clean | SLURM | {"BOX": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}


def command(out: Path) -> list[str]:
    return ["training/train.py", "student_tiny", "--synthscenes", "2", "--out", str(out), "--set", "train.steps=5"]


def started(environment: dict[str, str], *words: str) -> list[str]:
    """What the job asks srun to start."""
    subprocess.run(["bash", JOB, *words], env=environment, check=True, timeout=20)
    return (Path(environment["BOX"]) / "srun").read_text().splitlines()


def test_srun_starts_torchrun_on_each_machine_and_torchrun_the_training(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = started(environment, *command(tmp_path / "a run"))
    place = words.index("torchrun")
    assert words[:place] == ["--cpus-per-task=32", "--kill-on-bad-exit=1"]
    torchrun = get_args_parser().parse_args(words[place + 1 :])
    assert (torchrun.nnodes, torchrun.nproc_per_node, torchrun.max_restarts) == ("2", "gpu", 3)
    assert (torchrun.rdzv_backend, torchrun.rdzv_endpoint, torchrun.rdzv_id) == ("c10d", "gpu-a7:21042", "4711042")
    assert torchrun.training_script == "training/train.py"
    assert torchrun.training_script_args == [*command(tmp_path / "a run")[1:], "--no-progress"]
    monkeypatch.setattr(sys, "argv", ["train.py", *torchrun.training_script_args, "--dry-run"])
    assert script("train.py").main() == 0
    assert "student_tiny: 8 samples, 5 steps of 32" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["--out {}", "--out={}"])
def test_a_job_that_was_requeued_resumes_when_there_is_something_to_resume(
    environment: dict[str, str], tmp_path: Path, form: str
):
    line = ["training/train.py", "student_tiny", *shlex.split(form.format(tmp_path / "run")), "--half"]
    again = environment | {"SLURM_RESTART_COUNT": "1"}
    assert started(again, *line)[-2:] == ["--half", "--no-progress"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").touch()
    assert started(again, *line)[-3:] == ["--half", "--no-progress", "--resume"]
    # Submitted anew by hand: train.py asks whether that is meant.
    assert started(environment, *line)[-2:] == ["--half", "--no-progress"]


@pytest.mark.parametrize("later", ["SRUN_ENDS_LATER", "SCONTROL_ENDS_LATER"])
def test_before_the_time_limit_the_job_puts_itself_back_into_the_queue(
    environment: dict[str, str], tmp_path: Path, later: str
):
    (tmp_path / "runs").touch()
    environment |= {later: "0.3"}
    with subprocess.Popen(["bash", JOB, *command(tmp_path)], env=environment, stdout=subprocess.PIPE) as job:
        while not (tmp_path / "srun").exists():
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGUSR1)
        said, _ = job.communicate(timeout=20)
    assert b"back into the queue" in said
    assert (tmp_path / "scontrol").read_text().splitlines() == ["show hostnames gpu-a[7,9]", "requeue 4711042"]
    assert job.returncode == 0


def test_a_job_whose_training_fails_fails(environment: dict[str, str], tmp_path: Path):
    done = subprocess.run(["bash", JOB, *command(tmp_path)], env=environment | {"CODE": "3"}, check=False, timeout=20)
    assert done.returncode == 3


def test_a_job_without_a_folder_is_refused(environment: dict[str, str]):
    line = ["bash", str(JOB), "training/train.py", "student_tiny"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch [OPTIONS OF SBATCH] training/slurm/train.sbatch training/")
    assert not (Path(environment["BOX"]) / "srun").exists()
