"""A thread that works on the newest item, or on all of them in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Calls a function with items that are handed over without waiting.

    Attributes:
        dropped: items replaced by a newer one before their turn came.
    """

    def __init__(self, work: Callable[[T], None], *, latest_only: bool, on_error: Callable[[Exception], None]) -> None:
        """Start the thread.

        Args:
            work: called in the thread, one item at a time.
            latest_only: an item that still waits is replaced by the next one; otherwise all are worked on, in order.
            on_error: called in the thread when ``work`` raised; the thread goes on.
        """
        self.dropped = 0
        self._work = work
        self._latest_only = latest_only
        self._on_error = on_error
        self._items: deque[T] = deque()
        self._busy = False
        self._idle_since = time.monotonic()
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="detector worker", daemon=True)
        self._thread.start()

    @property
    def idle_for(self) -> float:
        """Seconds since there was anything to do; 0 while there is."""
        with self._changed:
            return 0.0 if self._busy or self._items else time.monotonic() - self._idle_since

    def submit(self, item: T) -> None:
        """Hand over an item; returns at once."""
        with self._changed:
            if self._latest_only and self._items:
                self.dropped += len(self._items)
                self._items.clear()
            self._items.append(item)
            self._changed.notify()

    def stop(self, timeout: float = 10.0) -> bool:
        """Drop what waits, and wait for what is being worked on; False if that took too long (s)."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._idle_since = time.monotonic()
                self._changed.wait_for(lambda: self._stopped or self._items)
                if self._stopped:
                    return
                item = self._items.popleft()
                self._busy = True
            try:
                self._work(item)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next frame deserves its chance
                self._on_error(error)
