"""Commands side by side: in order, after what they need, not again, and none after the time is up."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from crkd_core.cli import UserError
from crkd_core.training.jobs import Job, Outcome, run_jobs

PLACES = [{"PLACE": "0"}, {"PLACE": "1"}]
TOUCH = "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(os.environ['PLACE'])"


class Jobs:
    """Makes jobs that write a file, and runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def job(self, name: str, *needs: str, code: str = TOUCH, alone: bool = False) -> Job:
        path = self.folder / name
        command = [sys.executable, "-c", code, str(path)]
        finish = self.folder.joinpath(f"{name}.finished").touch
        return Job(name, lambda: command, path.exists, finish, self.folder / "logs" / name, needs=needs, alone=alone)

    def run(self, jobs: Sequence[Job], *, seconds: float | None = None) -> Outcome:
        return run_jobs(jobs, PLACES, seconds=seconds, say=self.said.append, poll_seconds=0.01)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def test_a_job_starts_when_what_it_needs_is_there(jobs: Jobs):
    outcome = jobs.run([jobs.job("c", "a", "b"), jobs.job("a"), jobs.job("b")])
    assert sorted(outcome.done) == ["a", "b", "c"]
    starts = [words for words in jobs.said if words.startswith("start")]
    assert starts == ["start a", "start b", "start c"]
    assert {(jobs.folder / name).read_text() for name in "ab"} == {"0", "1"}
    assert (jobs.folder / "c.finished").exists()


def test_what_is_done_is_not_run_again(jobs: Jobs):
    (jobs.folder / "a").write_text("before")
    outcome = jobs.run([jobs.job("a"), jobs.job("b", "a")])
    assert outcome.done == ["a", "b"]
    assert (jobs.folder / "a").read_text() == "before"
    assert not (jobs.folder / "a.finished").exists()


def test_a_job_that_fails_stops_only_those_that_need_it(jobs: Jobs):
    outcome = jobs.run([jobs.job("a", code="print('why'); raise SystemExit(3)"), jobs.job("b", "a"), jobs.job("c")])
    assert outcome.failed == {"a": "exit code 3"}
    assert (outcome.done, outcome.left) == (["c"], ["b"])
    assert "why" in (jobs.folder / "logs" / "a").read_text()
    assert any("FAILED a, exit code 3" in words and str(jobs.folder / "logs" / "a") in words for words in jobs.said)


def test_a_job_after_others_waits_for_them_whatever_becomes_of_them(jobs: Jobs):
    failing = jobs.job("a", code="import time; time.sleep(0.3); raise SystemExit(3)")
    last = replace(jobs.job("z"), after=("a", "b", "c", "d"))
    outcome = jobs.run([last, failing, jobs.job("b", "a"), jobs.job("c", "b"), jobs.job("d")])
    assert (sorted(outcome.done), sorted(outcome.left)) == (["d", "z"], ["b", "c"])
    words = [one.split()[:2] for one in jobs.said]
    assert words.index(["FAILED", "a,"]) < words.index(["start", "z"])


def test_a_job_whose_work_is_not_whole_has_failed_and_the_others_go_on(jobs: Jobs):
    def finish() -> None:
        raise UserError("no checkpoint")

    outcome = jobs.run([replace(jobs.job("a"), finish=finish), jobs.job("b", "a"), jobs.job("c")])
    assert outcome.failed == {"a": "no checkpoint"}
    assert (outcome.done, outcome.left) == (["c"], ["b"])
    assert any("FAILED a, no checkpoint after" in words for words in jobs.said)


def test_no_job_starts_when_the_time_is_up_and_running_ones_end(jobs: Jobs):
    slow = "import time; time.sleep(3); " + TOUCH
    outcome = jobs.run([jobs.job("a", code=slow), jobs.job("b", "a")], seconds=2)
    assert (outcome.done, outcome.left) == (["a"], ["b"])


def test_a_job_that_wants_the_machine_has_it_alone(jobs: Jobs):
    span = (
        "import pathlib, sys, time; begin = time.monotonic(); time.sleep(0.3);"
        "pathlib.Path(sys.argv[1]).write_text(f'{begin} {time.monotonic()}')"
    )
    names = ["a", "b", "c"]
    jobs.run([jobs.job(name, code=span, alone=name == "b") for name in names])
    a, b, c = (tuple(map(float, (jobs.folder / name).read_text().split())) for name in names)
    assert a[1] <= b[0]
    assert b[1] <= c[0]


def test_when_interrupted_the_running_commands_are_ended(jobs: Jobs):
    def interrupt(words: str) -> None:
        if words == "start b":
            raise KeyboardInterrupt

    long = [jobs.job(name, code="import time; time.sleep(60)") for name in "ab"]
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs(long, PLACES, say=interrupt, poll_seconds=0.01)
    assert time.monotonic() - begin < 30


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_when_killed_the_running_commands_end_too(tmp_path: Path):
    child = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    driver = (
        "import pathlib, sys\n"
        "from crkd_core.training.jobs import Job, run_jobs\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "command = [sys.executable, '-c', sys.argv[2], str(out / 'pid')]\n"
        "job = Job('a', lambda: command, lambda: False, lambda: None, out / 'log')\n"
        "run_jobs([job], [{}], say=lambda words: None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", driver, str(tmp_path), child]) as process:
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    pid, end = int((tmp_path / "pid").read_text()), time.monotonic() + 20
    while _is_running(pid):
        assert time.monotonic() < end, "still running"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()
