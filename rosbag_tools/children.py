"""Other programs, started and watched: a crash or a timeout is told with the end of the log; nothing stays running."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crkd_core.cli import UserError
from crkd_core.training.jobs import end_with_parent

if TYPE_CHECKING:
    from typing_extensions import Self

TAIL_LINES = 15
POLL_PERIOD = 0.05

# DDS numbers its UDP ports 7400 + 250 * domain + ...; above 101 they reach into Linux's ephemeral ports.
_DDS_BASE, _DDS_PER_DOMAIN, _DDS_UNICAST, _HIGHEST_DOMAIN = 7400, 250, 10, 101


class ChildError(UserError):
    """A program that stopped, failed or took too long; the message ends with the tail of its log."""


class Child:
    """One running program.

    Attributes:
        name: what messages call it.
        log: file that gets its output.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._said: set[str] = set()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
                preexec_fn=_prepare,  # noqa: PLW1509  # this program starts no threads before
            )

    @property
    def returncode(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._process.poll()

    def text(self) -> str:
        """Its output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raise if it has failed.

        Raises:
            ChildError: it has ended with an error.
        """
        if self.returncode not in (None, 0):
            raise self._error(f"stopped with exit code {self.returncode}")

    def wait_for(self, line: str, *, timeout: float, others: Sequence[Child] = ()) -> None:
        """Wait until its output contains ``line``.

        Args:
            line: text to look for.
            timeout: seconds.
            others: programs that must keep running meanwhile.

        Raises:
            ChildError: it, or one of the others, has ended, or it takes too long.
        """
        self._wait(lambda: line in self.text(), timeout, others, f"did not say '{line}' within {timeout:.0f} s")

    def wait(self, *, timeout: float, others: Sequence[Child] = (), on_poll: Callable[[], None] | None = None) -> None:
        """Wait until it has ended without an error.

        Args:
            timeout: seconds.
            others: programs that must keep running meanwhile.
            on_poll: called now and then.

        Raises:
            ChildError: it failed, one of the others has ended, or it takes too long.
        """

        def ended() -> bool:
            if on_poll is not None:
                on_poll()
            return self.returncode == 0

        self._wait(ended, timeout, others, f"did not end within {timeout:.0f} s")

    def stop(self, *, timeout: float = 15.0) -> int:
        """End it: as Ctrl-C does, then less and less kindly. Returns its exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.returncode is None:
                self._signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout)
        self._signal(signal.SIGKILL)  # what it may have started itself
        return self._process.wait()

    def _wait(self, done: Callable[[], bool], timeout: float, others: Sequence[Child], complaint: str) -> None:
        end = time.monotonic() + timeout
        while not done():
            self.check()
            if self.returncode == 0 and not done():
                raise self._error("ended too early")
            for other in others:
                other.check()
                if other.returncode is not None:
                    raise other._error("ended too early")  # noqa: SLF001  # of the same class
            if time.monotonic() > end:
                raise self._error(complaint)
            time.sleep(POLL_PERIOD)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _error(self, what: str) -> ChildError:
        tail = "\n".join(f"    {line}" for line in self.text().splitlines()[-TAIL_LINES:]) or "    (nothing)"
        return ChildError(f"{self.name} {what}; the end of its log {self.log}:\n{tail}")


def _prepare() -> None:
    """In a new program, before it begins."""
    # A shell that starts a program in the background may let it ignore Ctrl-C, and whatever it starts ignores it, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


class Children:
    """Starts programs; on leaving the ``with`` block all of them are ended."""

    def __init__(self, logs: Path, env: Mapping[str, str]) -> None:
        """Nothing is started yet.

        Args:
            logs: folder for one log each.
            env: their environment.
        """
        self._logs = logs
        self._env = env
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Start a program of that name."""
        self._logs.mkdir(parents=True, exist_ok=True)
        child = Child(name, command, self._logs / f"{name}.log", self._env)
        self._children.append(child)
        return child

    def start_module(self, name: str, module: str, arguments: Sequence[str]) -> Child:
        """Start ``python -m module`` with this interpreter."""
        return self.start(name, [sys.executable, "-u", "-m", module, *arguments])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            child.stop()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does, so that ``Children`` are ended, too.

    A signal that this program was started to ignore, as by nohup, stays ignored.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    both = (signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def graph_environment() -> dict[str, str]:
    """This environment, for a ROS graph that only programs of this machine in one free domain share."""
    return {
        **os.environ,
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(free_domain()),
        "PYTHONUNBUFFERED": "1",
    }


def free_domain() -> int:
    """A ROS domain in which no other program of this machine takes part now.

    Raises:
        ChildError: there is none.
    """
    domains = list(range(1, _HIGHEST_DOMAIN + 1))
    random.shuffle(domains)  # two demos that start together should not choose the same
    for domain in domains:
        if _is_free(_DDS_BASE + _DDS_PER_DOMAIN * domain + _DDS_UNICAST):
            return domain
    raise ChildError("ROS graph: no free domain on this machine (1..101 are all in use)")


def _is_free(port: int) -> bool:
    """Whether nobody listens on the ports of a domain's first three participants."""
    for participant in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", port + 2 * participant))
            except OSError:
                return False
    return True
