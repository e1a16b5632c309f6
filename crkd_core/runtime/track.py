"""The recent messages of one sensor, in order of their stamps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Generic, TypeVar

T = TypeVar("T")


class Track(Generic[T]):
    """A bounded list of (stamp, item), sorted by stamp.

    Attributes:
        stamps: ns, ascending.
        items: what belongs to them.
        last: stamp and arrival of the newest message ever added since ``clear``, kept when messages are dropped.
    """

    def __init__(self, capacity: int) -> None:
        """An empty track that holds at most ``capacity`` messages; the oldest go first."""
        self.stamps: list[int] = []
        self.items: list[T] = []
        self.last: tuple[int, int] | None = None
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def newest(self) -> int | None:
        """Stamp of the newest message, ns, even if it is not held any more; None if there was none."""
        return self.last[0] if self.last is not None else None

    def add(self, stamp: int, item: T, arrival: int) -> bool:
        """Put a message in its place; False if one of that stamp is there (the first one stays)."""
        i = bisect_left(self.stamps, stamp)
        if i < len(self.stamps) and self.stamps[i] == stamp:
            return False
        self.stamps.insert(i, stamp)
        self.items.insert(i, item)
        if self.last is None or stamp >= self.last[0]:
            self.last = (stamp, arrival)
        if len(self.stamps) > self._capacity:
            del self.stamps[0], self.items[0]
        return True

    def first_from(self, stamp: int) -> int:
        """Position of the first message at or after ``stamp``; the length if there is none."""
        return bisect_left(self.stamps, stamp)

    def drop_before(self, stamp: int) -> None:
        """Drop the messages older than ``stamp``."""
        i = bisect_left(self.stamps, stamp)
        del self.stamps[:i], self.items[:i]

    def purge_after(self, stamp: int) -> None:
        """Forget the messages newer than ``stamp``, as if they had never come."""
        i = bisect_right(self.stamps, stamp)
        del self.stamps[i:], self.items[i:]
        if self.last is not None and self.last[0] > stamp:
            self.last = (self.stamps[-1], self.last[1]) if self.stamps else None

    def clear(self) -> None:
        """Forget everything."""
        self.stamps.clear()
        self.items.clear()
        self.last = None
