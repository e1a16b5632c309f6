"""A thread that works on the newest items, or on all of them in turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


class Worker(Generic[T]):
    """Calls a function with items that are handed over.

    Attributes:
        dropped: items that made way for newer ones before their turn came.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        *,
        on_error: Callable[[Exception], None],
        name: str = "detector worker",
        capacity: int = 1,
        when_full: Literal["drop oldest", "wait"] = "drop oldest",
    ) -> None:
        """Start the thread.

        Args:
            work: called in the thread, one item at a time, in order.
            on_error: called in the thread when ``work`` raised; the thread goes on.
            name: of the thread.
            capacity: items that may wait for their turn.
            when_full: what handing over one more does: drop the one that has waited longest, or wait for room.
        """
        self.dropped = 0
        self._work = work
        self._on_error = on_error
        self._capacity = capacity
        self._when_full = when_full
        self._items: deque[T] = deque()
        self._busy = False
        self._idle_since = time.monotonic()
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle_for(self) -> float:
        """Seconds since there was anything to do; 0 while there is."""
        with self._changed:
            return 0.0 if self._busy or self._items else time.monotonic() - self._idle_since

    def submit(self, item: T) -> None:
        """Hand over an item; returns at once, unless it is to wait for room."""
        with self._changed:
            if self._when_full == "wait":
                self._changed.wait_for(lambda: self._stopped or len(self._items) < self._capacity)
            elif len(self._items) == self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def stop(self, timeout: float = 10.0) -> bool:
        """Drop what waits, and wait for what is being worked on; False if that took too long (s)."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()
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
                self._changed.notify_all()
            try:
                self._work(item)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next frame deserves its chance
                self._on_error(error)
