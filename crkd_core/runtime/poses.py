"""A pose as a function of time: a bounded buffer of stamped transforms, interpolated between them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from crkd_core.geometry.transforms import interpolated
from crkd_core.types import FloatArray

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class PoseBuffer:
    """Stamped transforms of one pair of frames, in order of time.

    At a stored stamp the stored transform is returned as it is; between two stamps it is interpolated (position
    linearly, rotation by slerp). Beyond the ends it is extrapolated at constant velocity, at most ``max_extrapolation``
    far; across a hole longer than ``max_gap`` there is no answer.
    """

    def __init__(
        self, *, capacity: int = 4096, max_extrapolation: int = 50 * MILLISECOND, max_gap: int = SECOND
    ) -> None:
        """An empty buffer.

        Args:
            capacity: transforms kept; the oldest go first.
            max_extrapolation: ns.
            max_gap: longest time between two transforms that is interpolated, ns.
        """
        self._capacity = capacity
        self._max_extrapolation = max_extrapolation
        self._max_gap = max_gap
        self._stamps: list[int] = []
        self._poses: list[FloatArray] = []
        # A radar sweep is asked for in every frame that it is part of; a transform between its neighbours comes rarely.
        self._interpolated: dict[int, FloatArray] = {}

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def newest(self) -> int | None:
        """Stamp of the newest transform, ns; None when empty."""
        return self._stamps[-1] if self._stamps else None

    def insert(self, stamp: int, T: FloatArray) -> bool:
        """Store a (4, 4) transform; False if that stamp is known already (the first one stays)."""
        i = bisect_left(self._stamps, stamp)
        if i < len(self._stamps) and self._stamps[i] == stamp:
            return False
        if i < len(self._stamps):
            self._interpolated.clear()
        self._stamps.insert(i, stamp)
        self._poses.insert(i, T)
        if len(self._stamps) > self._capacity:
            # Several at a time: deleting from the front of a list moves everything behind.
            surplus = max(1, self._capacity // 16)
            del self._stamps[:surplus], self._poses[:surplus]
            self._interpolated.clear()
        return True

    def covers(self, stamp: int) -> bool:
        """Whether what is known at ``stamp`` can no longer change: a transform at or after it has arrived."""
        return bool(self._stamps) and stamp <= self._stamps[-1]

    def at(self, stamp: int) -> FloatArray | None:
        """The (4, 4) transform at ``stamp``, or None where neither inter- nor extrapolation is sound."""
        i = bisect_left(self._stamps, stamp)
        if i < len(self._stamps) and self._stamps[i] == stamp:
            return self._poses[i]
        if stamp in self._interpolated:
            return self._interpolated[stamp]
        span = self._span(stamp, i) if self._stamps else None
        if span is None:
            return None
        start, end = span
        if start == end:
            return self._poses[start]
        fraction = (stamp - self._stamps[start]) / (self._stamps[end] - self._stamps[start])
        T = interpolated(self._poses[start], self._poses[end], fraction)
        if 0 < i < len(self._stamps):
            if len(self._interpolated) >= self._capacity:
                self._interpolated.clear()
            self._interpolated[stamp] = T
        return T

    def _span(self, stamp: int, i: int) -> tuple[int, int] | None:
        """The two entries between, or from, which the pose at ``stamp`` follows; ``i`` is its place in the order.

        Velocity for extrapolation is taken over a span as long as the reach: neighbours a millisecond apart would
        magnify their noise.
        """
        reach, last = self._max_extrapolation, len(self._stamps) - 1
        if i == 0:
            end = min(bisect_left(self._stamps, self._stamps[0] + reach), last)
            return (0, end) if self._stamps[0] - stamp <= reach else None
        if i > last:
            start = max(bisect_right(self._stamps, self._stamps[last] - reach) - 1, 0)
            return (start, last) if stamp - self._stamps[last] <= reach else None
        return (i - 1, i) if self._stamps[i] - self._stamps[i - 1] <= self._max_gap else None

    def purge_after(self, stamp: int) -> bool:
        """Forget everything newer than ``stamp`` (time jumped back); whether there was anything."""
        i = bisect_right(self._stamps, stamp)
        found = i < len(self._stamps)
        del self._stamps[i:], self._poses[i:]
        self._interpolated.clear()
        return found
