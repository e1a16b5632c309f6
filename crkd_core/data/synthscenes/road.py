"""A road as a curved reference line with a cross-section; places are given along (s) and across (d, left positive)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from crkd_core.types import FloatArray

_STEP = 0.5  # m between samples of the reference line


@dataclass(frozen=True)
class Placement:
    """Places on a road.

    Attributes:
        xy: (..., 2), world, m.
        heading: (...,) of the road there, rad.
        curvature: (...,) of the reference line there, 1/m, positive to the left.
    """

    xy: FloatArray
    heading: FloatArray
    curvature: FloatArray


@dataclass(frozen=True)
class Road:
    """The reference line (the divider between the two directions), sampled evenly.

    Attributes:
        start: s of the first sample, m.
        xy: (M, 2), world, m.
        heading: (M,), unwrapped, rad.
        curvature: (M,), 1/m.
    """

    start: float
    xy: FloatArray
    heading: FloatArray
    curvature: FloatArray

    @property
    def end(self) -> float:
        """S of the last sample."""
        return self.start + _STEP * (len(self.xy) - 1)

    def place(self, s: ArrayLike, d: ArrayLike) -> Placement:
        """Where (s, d) lies; beyond its ends the road goes on straight."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        inside = np.clip(s, self.start, self.end)
        position = (inside - self.start) / _STEP
        i = np.minimum(position.astype(np.int64), len(self.xy) - 2)
        f = position - i
        heading = self.heading[i] * (1 - f) + self.heading[i + 1] * f
        along = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        across = np.stack([-along[..., 1], along[..., 0]], axis=-1)
        xy = self.xy[i] * (1 - f)[..., None] + self.xy[i + 1] * f[..., None]
        xy = xy + along * (s - inside)[..., None] + across * d[..., None]
        curvature = np.where(s == inside, self.curvature[i] * (1 - f) + self.curvature[i + 1] * f, 0.0)
        return Placement(xy, heading, curvature)


def make_road(rng: np.random.Generator, start: float, end: float, tightest: float = 1 / 150) -> Road:
    """A road of changing curvature, at most ``tightest`` (1/m), anywhere in a map of some hundred metres."""
    s = np.arange(start, end + _STEP, _STEP)
    curvature = np.zeros_like(s)
    for wavelength in rng.uniform([70, 140, 260], [120, 240, 400]):
        curvature += np.sin(2 * np.pi * (s / wavelength + rng.uniform()))
    curvature *= rng.uniform(0.0, tightest) / 3
    # The trapezoidal rule keeps heading the exact integral of linearly interpolated curvature at the samples.
    heading = rng.uniform(-np.pi, np.pi) + _integral(curvature)
    xy = np.stack([_integral(np.cos(heading)), _integral(np.sin(heading))], axis=1)
    xy += rng.uniform(80, 120, size=2) - xy.min(axis=0)
    return Road(start, xy, heading, curvature)


def _integral(values: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(0.5 * (values[1:] + values[:-1]) * _STEP)])


@dataclass(frozen=True)
class Layout:
    """The cross-section, mirrored about the divider: lanes, cycle lane, parking strip, sidewalk; then frontage.

    Attributes:
        lanes: number of lanes on the right side and on the left side.
        ego_lane: index of the vehicle's lane on the right side, 0 is next to the divider.
    """

    lanes: tuple[int, int]
    ego_lane: int
    lane_width: float = 3.5
    cycle_width: float = 1.8
    parking_width: float = 3.4
    walk_width: float = 4.2
    frontage_depth: float = 20.0

    def lane_center(self, side: int, index: int) -> float:
        """D of a lane's middle; side -1 is the right (with the vehicle), +1 the left (oncoming)."""
        return side * (index + 0.5) * self.lane_width

    def lane_count(self, side: int) -> int:
        """Lanes of a side."""
        return self.lanes[0] if side < 0 else self.lanes[1]

    def cycle_edge(self, side: int) -> float:
        """|d| where the cycle lane begins."""
        return self.lane_count(side) * self.lane_width

    def parking_edge(self, side: int) -> float:
        """|d| where the parking strip begins."""
        return self.cycle_edge(side) + self.cycle_width

    def walk_edge(self, side: int) -> float:
        """|d| where the sidewalk begins."""
        return self.parking_edge(side) + self.parking_width

    def frontage_edge(self, side: int) -> float:
        """|d| where the frontage begins."""
        return self.walk_edge(side) + self.walk_width


def make_layout(rng: np.random.Generator) -> Layout:
    """One or two lanes a side, the vehicle in one of its own."""
    lanes = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    return Layout(lanes=lanes, ego_lane=int(rng.integers(lanes[0])))
