"""The ground: road, lane lines, sidewalks and patches as flat quadrilaterals, in painting order."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from crkd_core.data.synthscenes.road import Layout, Road
from crkd_core.types import FloatArray

BASE_COLOUR = np.array([112.0, 112.0, 104.0])
"""RGB of the ground wherever nothing else is painted."""
_SEGMENT = 8.0  # m along the road


@dataclass(frozen=True)
class Ground:
    """Flat quadrilaterals at height 0, later ones painted over earlier ones.

    Attributes:
        corners: (M, 4, 2) world, m.
        colours: (M, 3) RGB 0..255, unlit.
        reach: (M,) farthest distance at which one is painted, m (thin lines vanish first).
    """

    corners: FloatArray
    colours: FloatArray
    reach: FloatArray

    def with_over(self, *others: Ground) -> Ground:
        """This with others painted over it."""
        parts = (self, *others)
        return Ground(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(self)))

    @cached_property
    def middle(self) -> FloatArray:
        """(M, 2)."""
        return np.asarray(self.corners.mean(axis=1))

    @cached_property
    def radius(self) -> FloatArray:
        """(M,) of the disc around ``middle`` that holds all corners."""
        return np.asarray(np.linalg.norm(self.corners - self.middle[:, None], axis=2).max(axis=1))


def build_ground(seed: int, road: Road, layout: Layout, first: float, last: float) -> Ground:
    """The ground between two places of the road."""
    rng = np.random.default_rng([seed, 11])
    painter = _Painter(road)
    s = np.arange(first, last, _SEGMENT)
    asphalt = rng.uniform(68, 100) * np.array([1.0, 1.0, rng.uniform(1.0, 1.05)])
    paving = rng.uniform(120, 165) * np.array([1.0, rng.uniform(0.95, 1.0), rng.uniform(0.9, 0.98)])
    for side in (-1, 1):
        yard = rng.uniform(80, 130) * np.array([1.0, rng.uniform(0.94, 1.05), rng.uniform(0.85, 1.0)])
        edge = layout.frontage_edge(side)
        painter.strip(s, side * edge, side * (edge + layout.frontage_depth + 6), yard)
        painter.strip(s, side * layout.walk_edge(side), side * edge, paving)
        painter.strip(s, side * layout.walk_edge(side), side * (layout.walk_edge(side) + 0.25), 1.15 * paving, reach=60)
        painter.strip(s, side * layout.parking_edge(side), side * layout.walk_edge(side), 0.9 * asphalt)
    painter.strip(s, -layout.parking_edge(-1), layout.parking_edge(1), asphalt)
    _patches(rng, painter, layout, s, asphalt)
    _lines(painter, layout, first, last)
    return painter.ground()


def _patches(rng: np.random.Generator, painter: _Painter, layout: Layout, s: FloatArray, asphalt: FloatArray) -> None:
    count = len(s) * 2
    at = rng.uniform(s[0], s[-1], count)
    d = rng.uniform(-layout.frontage_edge(-1), layout.frontage_edge(1), count)
    size = rng.uniform([0.3, 0.3], [4.0, 1.6], (count, 2))
    for k in range(count):
        shade = asphalt * rng.uniform(0.75, 1.2)
        painter.strip(at[k : k + 1], d[k], d[k] + size[k, 1], shade, length=size[k, 0], reach=40)


def _lines(painter: _Painter, layout: Layout, first: float, last: float) -> None:
    white, yellow = np.array([222.0, 222.0, 216.0]), np.array([214.0, 176.0, 60.0])
    long = np.arange(first, last, _SEGMENT)
    dashes = np.arange(first, last, 9.0)
    for offset in (-0.14, 0.14):
        painter.line(long, offset, yellow)
    for side in (-1, 1):
        for index in range(1, layout.lane_count(side)):
            painter.line(dashes, side * index * layout.lane_width, white, length=3.0)
        painter.line(long, side * layout.cycle_edge(side), white)
        painter.line(np.arange(first, last, 4.0), side * layout.parking_edge(side), white, length=1.5)


class _Painter:
    def __init__(self, road: Road) -> None:
        self.road = road
        self._corners: list[FloatArray] = []
        self._colours: list[FloatArray] = []
        self._reach: list[FloatArray] = []

    def strip(
        self, s: FloatArray, d0: float, d1: float, colour: FloatArray, *, length: float = _SEGMENT, reach: float = 90.0
    ) -> None:
        """Quadrilaterals from each s to s + length, between d0 and d1."""
        ends = [self.road.place(s + ds, d).xy for ds, d in ((0, d0), (length, d0), (length, d1), (0, d1))]
        self._corners.append(np.stack(ends, axis=1))
        self._colours.append(np.broadcast_to(np.minimum(colour, 255.0), (len(s), 3)))
        self._reach.append(np.full(len(s), reach))

    def line(self, s: FloatArray, d: float, colour: FloatArray, *, length: float = _SEGMENT) -> None:
        """A line 0.16 m wide."""
        self.strip(s, d - 0.08, d + 0.08, colour, length=length, reach=45.0)

    def ground(self) -> Ground:
        return Ground(np.concatenate(self._corners), np.concatenate(self._colours), np.concatenate(self._reach))


def crossing_street(road: Road, s: float, half: float, length: float) -> Ground:
    """Asphalt across the road around ``s``, ``half`` wide to either side, with a line along its middle."""
    painter, asphalt = _Painter(road), np.array([84.0, 84.0, 86.0])
    first = np.array([s - half])
    for d in np.arange(-length, length, _SEGMENT).tolist():
        painter.strip(first, d, d + _SEGMENT, asphalt, length=2 * half)
        if abs(d + _SEGMENT / 2) > 3 * half:
            painter.strip(first + half - 0.08, d, d + 3.0, np.array([222.0, 222.0, 216.0]), length=0.16, reach=45.0)
    return painter.ground()


def crosswalk(road: Road, layout: Layout, s: float) -> Ground:
    """White bars across the road at ``s``."""
    painter = _Painter(road)
    for d in np.arange(-layout.walk_edge(-1) + 0.5, layout.walk_edge(1) - 0.5, 1.0):
        painter.strip(np.array([s - 2.0]), d, d + 0.5, np.array([224.0, 224.0, 220.0]), length=4.0, reach=60.0)
    return painter.ground()
