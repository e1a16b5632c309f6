"""An iterator that is read ahead by a thread, so that reading and what is done with it take place side by side."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL = 0.1


class _Reader(threading.Thread, Generic[T]):
    """Takes items from a generator and keeps them ready."""

    def __init__(self, items: Generator[T, None, None], depth: int) -> None:
        super().__init__(name="read-ahead", daemon=True)
        self.stopped = threading.Event()
        self._items = items
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)

    def run(self) -> None:
        """In the thread: until the items end, or are not wanted any more."""
        error: BaseException = StopIteration()
        try:
            for item in self._items:
                self._put(item, None)
                if self.stopped.is_set():
                    break
            self._items.close()
        except BaseException as raised:  # noqa: BLE001  # it is raised again where the items are taken
            error = raised
        self._put(None, error)

    def taken(self) -> Iterator[T]:
        """The items, in the thread that wants them."""
        while True:
            item, error = self._ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # no error: an item

    def _put(self, item: T | None, error: BaseException | None) -> None:
        while not self.stopped.is_set():
            with suppress(queue.Full):
                self._ready.put((item, error), timeout=_POLL)
                return


@contextmanager
def read_ahead(items: Generator[T, None, None], *, depth: int) -> Iterator[Iterator[T]]:
    """The items, up to ``depth`` of them read ahead; what reading raises is raised where they are taken.

    Leaving the block closes the generator, in its own thread.

    Args:
        items: used by the thread alone from now on.
        depth: at least 1.
    """
    reader = _Reader(items, depth)
    reader.start()
    try:
        yield reader.taken()
    finally:
        reader.stopped.set()
        reader.join()
