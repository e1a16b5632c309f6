"""The same work on many items, spread over processes; one that dies ends the work with words instead of a hang."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

import cv2

from crkd_core.data.errors import DataError

AHEAD = 2
"""Parts handed out for each process, the one it works on among them: what bounds the results that wait for a turn."""

SHOWN = 6
"""Items named when a process has died."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def in_order(
    work: Callable[[ItemT], ResultT],
    items: Sequence[ItemT],
    *,
    jobs: int,
    name: Callable[[ItemT], str] = str,
    part: int = 1,
) -> Iterator[ResultT]:
    """``map(work, items)`` on other processes, in which OpenCV uses one thread.

    Args:
        work: a function that can be pickled.
        items: what it is called with.
        jobs: processes.
        name: of an item, for errors.
        part: items that a process takes at a time; neighbours share what ``work`` keeps between calls.

    Raises:
        DataError: a process has died, such as one that was killed for want of memory; names what it worked on.
        Exception: what ``work`` raises.
    """
    waiting: deque[tuple[Sequence[ItemT], Future[list[ResultT]]]] = deque()
    processes: set[BaseProcess] = set()
    context = multiprocessing.get_context("spawn")
    jobs = max(1, min(jobs, -(-len(items) // part)))
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin) as pool:
        try:
            for first in range(0, len(items), part):
                if len(waiting) == AHEAD * jobs:
                    yield from waiting[0][1].result()
                    waiting.popleft()
                mine = items[first : first + part]
                others = set(multiprocessing.active_children())
                waiting.append((mine, pool.submit(_all, work, mine)))
                processes |= set(multiprocessing.active_children()) - others
            while waiting:
                yield from waiting[0][1].result()
                waiting.popleft()
        except BrokenProcessPool:
            # The pool ends those that it knows of, and would wait forever for one that it was just starting.
            for process in processes:
                process.kill()
            unfinished = [item for mine, done in waiting if not _finished(done) for item in mine]
            raise DataError(_obituary([name(item) for item in unfinished[: jobs * part]], jobs)) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _begin() -> None:
    """Set up a process of the pool."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process of Python's pool would wait for work forever if the one that started it were killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _all(work: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> list[ResultT]:
    return [work(item) for item in items]


def _finished(done: Future[list[ResultT]]) -> bool:
    return done.done() and done.exception() is None


def _obituary(names: Sequence[str], jobs: int) -> str:
    """Parts are taken in order, so the first unfinished ones were under way: ``names``."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
    return (
        f"one of {jobs} processes has died, probably for want of memory; under way: "
        f"{', '.join(different[:SHOWN]) or 'nothing'}{more}; use fewer processes (--jobs; --workers of train.py)"
    )
