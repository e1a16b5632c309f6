"""Commands that depend on each other, run side by side, one per place (a GPU); what is done is not run again."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crkd_core.cli import UserError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: unique among the jobs.
        command: program and arguments; asked for when the job starts, for it may depend on what was left behind.
        done: whether its work is there; asked before it starts.
        finish: called when the command has ended well; raises UserError where its work is not whole all the same.
        prepare: called just before the command starts.
        log: file that its output is appended to.
        needs: names of the jobs whose work it reads.
        after: names of jobs that go before it, whatever becomes of them.
        alone: it uses the whole machine, nothing runs beside it.
    """

    name: str
    command: Callable[[], Sequence[str]]
    done: Callable[[], bool]
    finish: Callable[[], None]
    log: Path
    prepare: Callable[[], None] = lambda: None
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    alone: bool = False


@dataclass
class Outcome:
    """What became of the jobs, by name.

    Attributes:
        done: work that is there, made now or before.
        failed: why, of commands that ended badly or left work that is not whole.
        left: not started: out of time, or what they need is not there.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def run_jobs(
    jobs: Sequence[Job],
    places: Sequence[Mapping[str, str]],
    *,
    seconds: float | None = None,
    say: Callable[[str], None],
    poll_seconds: float = 0.2,
) -> Outcome:
    """Run jobs; the first in order that has what it needs goes to the next free place.

    When this process is interrupted, the running commands are ended; their work so far stays.

    Args:
        jobs: in order of importance.
        places: what each place adds to the environment of a command, say CUDA_VISIBLE_DEVICES.
        seconds: no command starts later than this; None: no limit.
        say: told of each start and end.
        poll_seconds: between two looks at the running commands.
    """
    outcome, begin = Outcome(), time.monotonic()
    waiting = [job for job in jobs if not job.done()]
    outcome.done = [job.name for job in jobs if job not in waiting]
    running: dict[int, tuple[Job, subprocess.Popen[bytes], float]] = {}
    try:
        while True:
            in_time = seconds is None or time.monotonic() - begin < seconds
            for place in range(len(places)):
                job = _next(waiting, outcome, [other for other, *_ in running.values()])
                if place in running or job is None or not in_time:
                    continue
                waiting.remove(job)
                say(f"start {job.name}")
                running[place] = job, _started(job, places[place]), time.monotonic()
            if not running:
                break
            time.sleep(poll_seconds)
            for place, (job, process, since) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[place]
                minutes = (time.monotonic() - since) / 60
                why = f"exit code {code}" if code else _finished(job)
                if why:
                    outcome.failed[job.name] = why
                    say(f"FAILED {job.name}, {why} after {minutes:.1f} min, see {job.log}")
                else:
                    outcome.done.append(job.name)
                    say(f"done {job.name}, {minutes:.1f} min")
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()
    outcome.left = [job.name for job in waiting]
    return outcome


def _finished(job: Job) -> str:
    """Finishes a job whose command has ended well; why that did not go, or nothing."""
    try:
        job.finish()
    except (UserError, OSError) as error:
        return str(error)
    return ""


def _next(waiting: Sequence[Job], outcome: Outcome, running: Sequence[Job]) -> Job | None:
    if any(job.alone for job in running):
        return None
    left = {job.name for job in (*waiting, *running)} - _lost(waiting, outcome)
    for job in waiting:
        if set(job.needs) <= set(outcome.done) and not left & set(job.after):
            return None if job.alone and running else job
    return None


def _lost(waiting: Sequence[Job], outcome: Outcome) -> set[str]:
    """Names of what has failed, and of what will never start since it needs that."""
    lost = set(outcome.failed)
    while more := {job.name for job in waiting if lost & set(job.needs)} - lost:
        lost |= more
    return lost


def end_with_parent() -> None:
    """In a new program: be ended when the program that started it dies, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _started(job: Job, place: Mapping[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.prepare()
    with job.log.open("ab") as log:
        return subprocess.Popen(
            list(job.command()),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **place},
            preexec_fn=end_with_parent,  # noqa: PLW1509  # this program starts no threads before
        )
