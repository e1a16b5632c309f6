"""How fast traffic moves: one speed profile per lane, tabulated; the vehicle follows the profile of its own lane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.road import Layout
from crkd_core.types import FloatArray

EGO = 1
"""Index of the vehicle's own profile; 0 stands still."""
_STEP = 0.02  # s
_WAITING = 0.2  # share of drives in which all traffic waits before a crossing
_SLACK = 30.0  # s before and after the drive that profiles cover, for vehicles shifted in time


@dataclass(frozen=True)
class Profiles:
    """Distance covered and speed over time.

    Attributes:
        start: time of the first column, s.
        covered: (P, T) m, 0 at time 0, never decreasing.
        speed: (P, T) m/s.
        lanes: profile of each (side, lane).
    """

    start: float
    covered: FloatArray
    speed: FloatArray
    lanes: dict[tuple[int, int], int]

    def at(self, profile: NDArray[np.int64], t: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(distance covered (N,), speed (N,)) of profiles (N,) at times (N,); speed is constant beyond the table."""
        position = (t - self.start) / _STEP
        i = np.clip(position.astype(np.int64), 0, self.covered.shape[1] - 2)
        f = position - i
        s = self.covered[profile, i] * (1 - f) + self.covered[profile, i + 1] * f
        f = np.clip(f, 0, 1)
        return s, self.speed[profile, i] * (1 - f) + self.speed[profile, i + 1] * f

    def covered_by(self, profile: int, t: float) -> float:
        """Distance covered by one profile at time t, m."""
        return float(self.at(np.array([profile]), np.array([t]))[0][0])

    def lane(self, side: int, index: int) -> int:
        """The profile of a lane."""
        return self.lanes[side, index]

    def cycle_lane(self, side: int) -> int:
        """The profile of a side's cyclists."""
        return self.lanes[side, -1]


def make_profiles(rng: np.random.Generator, layout: Layout, duration_s: float) -> tuple[Profiles, bool]:
    """Profiles of all lanes, and whether all traffic waits for people crossing."""
    t = np.arange(-_SLACK, duration_s + _SLACK + _STEP, _STEP)
    crossing = bool(rng.uniform() < _WAITING)
    speeds: list[FloatArray] = [np.zeros_like(t)]
    lanes: dict[tuple[int, int], int] = {}
    places = [(-1, layout.ego_lane)]
    places += [(-1, i) for i in range(layout.lanes[0]) if i != layout.ego_lane]
    places += [(1, i) for i in range(layout.lanes[1])]
    green = rng.uniform(0, 0.8 * duration_s) if rng.uniform() < 0.2 else None
    for side, index in places:
        lanes[side, index] = len(speeds)
        if crossing:
            speeds.append(np.zeros_like(t))
        elif side < 0 and green is not None:
            speeds.append(np.clip((t - green) * rng.uniform(1.0, 1.8), 0, rng.uniform(7, 12)))
        else:
            speeds.append(_cruise(rng, t))
    for side in (-1, 1):
        lanes[side, -1] = len(speeds)
        speeds.append(np.full_like(t, 0.0 if crossing else rng.uniform(3.0, 6.0)))
    speed = np.stack(speeds)
    covered = np.concatenate(
        [np.zeros((len(speed), 1)), np.cumsum(0.5 * (speed[:, 1:] + speed[:, :-1]) * _STEP, axis=1)], axis=1
    )
    covered -= covered[:, [round(_SLACK / _STEP)]]
    return Profiles(float(t[0]), covered, speed, lanes), crossing


def _cruise(rng: np.random.Generator, t: FloatArray) -> FloatArray:
    """A mean speed with slow waves; low means come to a stop now and then."""
    mean = rng.choice([rng.uniform(0.5, 3), rng.uniform(3, 8), rng.uniform(8, 15)], p=[0.2, 0.4, 0.4])
    speed = np.full_like(t, mean)
    for period in rng.uniform([8, 16], [16, 40]):
        acceleration = rng.uniform(0, 0.9)
        speed += acceleration * period / (2 * np.pi) * np.sin(2 * np.pi * (t / period + rng.uniform()))
    return np.clip(speed, 0, 16)
