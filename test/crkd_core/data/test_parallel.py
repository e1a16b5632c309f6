"""Work on several processes: in order, in bounded memory, and with an end when a process dies."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGCHLD, SIGKILL, raise_signal
from typing import Any

import pytest

from crkd_core.cli import UserError
from crkd_core.data.errors import DataError
from crkd_core.data.parallel import AHEAD, in_order


class Watched(list[float]):
    """Knows how far it has been read."""

    read = 0

    def __getitem__(self, key: Any) -> Any:
        self.read = max(self.read, key.stop)
        return super().__getitem__(key)


def test_results_come_in_the_order_of_the_items_from_other_processes() -> None:
    assert list(in_order(math.sqrt, [float(i * i) for i in range(23)], jobs=2, part=3)) == list(range(23))
    assert list(in_order(math.sqrt, [], jobs=2)) == []
    assert list(in_order(os.readlink, ["/proc/self"], jobs=1)) != [str(os.getpid())]


def test_no_more_is_handed_out_than_fits_in_memory() -> None:
    items = Watched(map(float, range(100)))
    results = in_order(math.sqrt, items, jobs=2, part=3)
    next(results)
    assert items.read <= 3 * (AHEAD * 2 + 1)
    results.close()


@pytest.mark.timeout(60)
def test_a_process_that_is_killed_ends_the_work_and_what_it_did_is_named() -> None:
    # Signal 17 does nothing, signal 9 kills the process that sends it to itself.
    signals = [SIGCHLD] * 20 + [SIGKILL] + [SIGCHLD] * 20
    with pytest.raises(UserError, match=r"one of 2 processes has died.*SIGKILL.*fewer processes \(--jobs;") as raised:
        list(in_order(raise_signal, signals, jobs=2, name=lambda signal: signal.name))
    assert isinstance(raised.value, DataError)


@pytest.mark.timeout(60)
def test_processes_end_with_the_one_that_started_them() -> None:
    code = (
        "import os; from crkd_core.data.parallel import in_order\n"
        "for pid in in_order(os.readlink, ['/proc/self'] * 10**6, jobs=1):\n"
        "    print(pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -SIGKILL
    status = Path("/proc", done.stdout.strip(), "status")
    while status.exists() and "(zombie)" not in status.read_text():
        time.sleep(0.1)


def test_many_items_under_way_are_counted() -> None:
    letters = iter("abcdefghijklmnop")
    with pytest.raises(DataError, match=r"under way: a, b, c, d, e, f and 10 more; use"):
        list(in_order(raise_signal, [SIGKILL] * 20, jobs=1, part=16, name=lambda _: next(letters)))


def test_an_error_of_the_work_is_that_of_the_caller() -> None:
    with pytest.raises(ValueError, match="math domain error"):
        list(in_order(math.sqrt, [4.0, -1.0], jobs=2))
