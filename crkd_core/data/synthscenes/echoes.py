"""What radars look at and what comes back: bodies in sensor axes, echoes, and the random numbers of sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import RadarMount
from crkd_core.data.synthscenes.world import Drive, EgoTrack, States
from crkd_core.types import FloatArray

HALF_VIEW = float(np.deg2rad(60.0))
DIRECT, MIRRORED, DOUBLE, ALIASED, FALSE, RAIN = range(6)
"""How an echo came about: straight; by a wall on the way out and back; twice between target and own vehicle; taken for
another bearing by the antenna; of noise; of rain."""


@dataclass(frozen=True)
class View:
    """The V bodies that K sweeps have in range and in view, in the axes of each sensor; ordered by sweep, then body.

    Attributes:
        sweep, body: (V,) int64.
        xy: (V, 2) m; yaw: (V,) rad; velocity: (V, 2) over ground, m/s.
        own: (K, 2) each sensor's velocity over ground.
        origin, heading: (K, 2) m, (K,) rad, each sensor in the world.
    """

    sweep: NDArray[np.int64]
    body: NDArray[np.int64]
    xy: FloatArray
    yaw: FloatArray
    velocity: FloatArray
    own: FloatArray
    origin: FloatArray
    heading: FloatArray


@dataclass(frozen=True)
class Targets:
    """P reflectors as K sweeps meet them.

    Attributes:
        sweep: (P,) int64, ordered; body: (P,) int64, -1 for what is no body.
        points: (P, 2) sensor axes, m; velocity: (P, 2) over ground, sensor axes, m/s.
        rcs: (P,) mean radar cross-section, dBsm.
    """

    sweep: NDArray[np.int64]
    body: NDArray[np.int64]
    points: FloatArray
    velocity: FloatArray
    rcs: FloatArray


@dataclass(frozen=True)
class Echoes:
    """P echoes of K sweeps; as each seems to a sensor that knows nothing of detours.

    Attributes:
        sweep: (P,) int64, ordered.
        body: (P,) int64, what reflected; -1 for the ground, rain and noise.
        points: (P, 2) apparent place, sensor axes, m.
        velocity: (P, 2) apparent velocity over ground, sensor axes, m/s.
        level: (P,) received power over noise, dB; unit: (P,) what 0 dBsm at that place would give. Their difference is
            the radar cross-section that the sensor concludes; it knows of no rain, dirt or detour.
        cause: (P,) int64, ``DIRECT``, ``MIRRORED`` and so on.
    """

    sweep: NDArray[np.int64]
    body: NDArray[np.int64]
    points: FloatArray
    velocity: FloatArray
    level: FloatArray
    unit: FloatArray
    cause: NDArray[np.int64]

    def picked(self, pick: NDArray[np.bool_] | NDArray[np.int64]) -> Echoes:
        """Some of them."""
        return Echoes(*(getattr(self, f.name)[pick] for f in fields(self)))

    def joined(self, *others: Echoes) -> Echoes:
        """All of them, one list after the other: no longer ordered by sweep."""
        return Echoes(*(np.concatenate([getattr(e, f.name) for e in (self, *others)]) for f in fields(self)))


def polar(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Distance, m, and bearing, rad, of points (P, 2)."""
    return np.hypot(points[:, 0], points[:, 1]), np.arctan2(points[:, 1], points[:, 0])


@dataclass(frozen=True)
class Draws:
    """One generator of random numbers per sweep, so that a sweep is the same in whatever batch it comes."""

    generators: list[np.random.Generator]

    @staticmethod
    def of(drive: Drive, scans: Sequence[tuple[RadarMount, int]]) -> Draws:
        """Of each radar and stamp."""
        index = {r.name: k for k, r in enumerate(drive.config.radars)}
        return Draws([np.random.default_rng([drive.seed, 200 + index[m.name], stamp // 1000]) for m, stamp in scans])

    def uniform(self, sweep: NDArray[np.int64], width: int) -> FloatArray:
        """(P, width) in [0, 1) for rows that belong to sweeps (P,), ordered."""
        counts = np.bincount(sweep, minlength=len(self.generators))
        return np.concatenate([g.random((n, width)) for g, n in zip(self.generators, counts, strict=True)])

    def normal(self, sweep: NDArray[np.int64], width: int) -> FloatArray:
        """(P, width) standard normal, likewise."""
        counts = np.bincount(sweep, minlength=len(self.generators))
        return np.concatenate([g.standard_normal((n, width)) for g, n in zip(self.generators, counts, strict=True)])

    def poisson(self, mean: float) -> NDArray[np.int64]:
        """(poisson-many,) int64: each sweep's index as often as drawn."""
        counts = [g.poisson(mean) for g in self.generators]
        return np.repeat(np.arange(len(counts)), counts)


def view(drive: Drive, scans: Sequence[tuple[RadarMount, int]], track: EgoTrack, states: States) -> View:
    """What each radar has in front of it at its own stamp.

    Args:
        drive: the drive.
        scans: K radars and stamps, ns.
        track, states: the vehicle and all bodies at these stamps.
    """
    lever = turned(np.array([mount.translation[:2] for mount, _ in scans]), track.heading)
    heading = track.heading + np.deg2rad([mount.yaw_deg for mount, _ in scans])
    own = track.velocity + track.yaw_rate[:, None] * np.stack([-lever[:, 1], lever[:, 0]], axis=1)
    origin = track.xy + lever
    xy = turned(states.xy - origin[:, None], -heading[:, None])
    radius, reach = drive.radii, drive.config.radar_range + drive.radii
    sweep, body = np.nonzero((xy[..., 0] > -radius) & ((xy**2).sum(axis=2) < reach**2))
    xy = xy[sweep, body]
    distance = np.hypot(xy[:, 0], xy[:, 1])
    seen = np.abs(np.arctan2(xy[:, 1], xy[:, 0])) < HALF_VIEW + np.arctan2(radius[body], distance)
    sweep, body = sweep[seen], body[seen]
    return View(
        sweep=sweep,
        body=body,
        xy=xy[seen],
        yaw=states.yaw[sweep, body] - heading[sweep],
        velocity=turned(states.velocity[sweep, body], -heading[sweep]),
        own=turned(own, -heading),
        origin=origin,
        heading=heading,
    )


def turned(vectors: FloatArray, angle: FloatArray) -> FloatArray:
    """Vectors (..., 2) turned counter-clockwise by (...,) rad."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([vectors[..., 0] * c - vectors[..., 1] * s, vectors[..., 0] * s + vectors[..., 1] * c], axis=-1)


def pairs(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every (i, j) with ``first[i] <= j < last[i]``, in order."""
    count = np.maximum(last - first, 0)
    i = np.repeat(np.arange(len(count)), count)
    return i, np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + first[i]
