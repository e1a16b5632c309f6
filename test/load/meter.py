"""CPU time by part, and memory over time, of this process."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

PERIOD = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(msgspec.Struct, frozen=True):
    """The state at one time; CPU times are seconds since the process began.

    Attributes:
        time: ns of the system clock.
        resident: memory, bytes.
        cpu: of the process.
        main: of its main thread.
        outside: of threads that Python does not know: the middleware's.
        parts: part -> CPU time; what is within another part does not count there.
        calls: part -> calls.
    """

    time: int
    resident: int
    cpu: float
    main: float
    outside: float
    parts: dict[str, float]
    calls: dict[str, int]


class Meter:
    """Measures functions that it is told to wrap, in whatever thread they run; holds no more after hours."""

    def __init__(self) -> None:
        self._cpu: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._inside = threading.local()

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Count the CPU time of a function or method as that of a part.

        Raises:
            AttributeError: ``owner`` has nothing of that name.
        """
        setattr(owner, name, self._timed(getattr(owner, name), part))

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            stack = self._inside.__dict__.setdefault("stack", [])
            stack.append(0)
            begun = time.thread_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.thread_time_ns() - begun
                own = whole - stack.pop()
                if stack:
                    stack[-1] += whole
                with self._lock:
                    self._cpu[part] += own
                    self._calls[part] += 1

        return timed

    def sample(self) -> Sample:
        """The state now."""
        known = {thread.native_id for thread in threading.enumerate()}
        times = _thread_times()
        with self._lock:
            parts = {part: spent / 1e9 for part, spent in self._cpu.items()}
            return Sample(
                time=time.time_ns(),
                resident=int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE,
                cpu=time.process_time(),
                main=times[os.getpid()],
                outside=sum(spent for thread, spent in times.items() if thread not in known),
                parts=parts,
                calls=dict(self._calls),
            )

    def start(self, path: Path) -> None:
        """Append a sample to a new file now and every second from now on, as a line of JSON."""
        path.write_bytes(b"")
        self.write(path)
        threading.Thread(target=self._watch, args=(path,), name="meter", daemon=True).start()

    def write(self, path: Path) -> None:
        """Append a sample of now."""
        with path.open("ab") as file:
            file.write(msgspec.json.encode(self.sample()) + b"\n")

    def _watch(self, path: Path) -> None:
        due = time.monotonic()
        while True:
            due += PERIOD
            time.sleep(max(0.0, due - time.monotonic()))
            self.write(path)


def samples_of(path: Path) -> list[Sample]:
    """What a meter wrote."""
    return [msgspec.json.decode(line, type=Sample) for line in path.read_bytes().splitlines()]


def _thread_times() -> dict[int, float]:
    """Thread -> CPU seconds."""
    times = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        times[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return times
