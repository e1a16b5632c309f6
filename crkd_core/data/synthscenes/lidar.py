"""A spinning LiDAR: rays against the boxes that bodies are made of, and the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import lidar_mounting
from crkd_core.data.synthscenes.projection import bearings
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import LIDAR_DTYPE, FloatArray, LidarSweep

ELEVATIONS_DEG = np.linspace(-30.67, 10.67, 32)
"""Elevations of the 32 beams; the position is the ``ring``."""
GROUND, NOTHING = -1, -2
_RANGE_NOISE = 0.02  # m
_INTENSITY = {-1: 30.0, 0: 45.0, 5: 60.0, 9: 90.0}  # by label; others 35


@dataclass(frozen=True)
class Scan:
    """What every ray of one revolution met; rows are beams, columns azimuths.

    Attributes:
        azimuth: (C,) in base axes (x forward), rad.
        horizontal: (32, C) distance from the sensor's axis, m; inf where nothing was met.
        body: (32, C) int64, index of the body met, GROUND or NOTHING.
        would_hit: (N,) rays that would meet each body were nothing in front of it.
    """

    azimuth: FloatArray
    horizontal: FloatArray
    body: NDArray[np.int64]
    would_hit: NDArray[np.int64]

    def hits(self) -> NDArray[np.int64]:
        """(N,) rays that met each body."""
        return np.bincount(self.body[self.body >= 0], minlength=len(self.would_hit))


def scan(drive: Drive, stamp_ns: int, *, whole: bool = False) -> Scan:
    """Cast one revolution, frozen at its stamp (the vehicle's motion within the 50 ms of a turn is not modelled).

    Args:
        drive: the drive.
        stamp_ns: when.
        whole: take each body as one box instead of its parts; three times faster, for visibility estimates.
    """
    config, states = drive.config, drive.states(stamp_ns)
    T = drive.ego(stamp_ns).T_world_from_base
    base_yaw = np.arctan2(T[1, 0], T[0, 0])
    height = config.lidar_translation[2]
    sensor = T[:2, :2] @ np.array(config.lidar_translation[:2]) + T[:2, 3]
    cos, sin = np.cos(base_yaw), np.sin(base_yaw)
    xy = (states.xy - sensor) @ np.array([[cos, -sin], [sin, cos]])
    yaw = states.yaw - base_yaw
    near = np.flatnonzero(np.linalg.norm(xy, axis=1) - np.hypot(*drive.sizes[:, :2].T) / 2 < config.lidar_range)
    azimuth = -np.pi + (np.arange(config.lidar_columns) + 0.5) * 2 * np.pi / config.lidar_columns
    slope = np.tan(np.deg2rad(ELEVATIONS_DEG))
    with np.errstate(divide="ignore"):
        to_ground = np.where(slope < 0, -height / slope, np.inf)
    limit = config.lidar_range * np.cos(np.deg2rad(ELEVATIONS_DEG))
    horizontal = np.repeat(np.where(to_ground < limit, to_ground, np.inf)[:, None], len(azimuth), axis=1)
    body = np.where(np.isfinite(horizontal), GROUND, NOTHING)
    would_hit = np.zeros(len(drive.sizes), dtype=np.int64)
    caster = _Caster(azimuth, slope, limit, height, horizontal, body)
    for n, low, high in _boxes(drive, near, whole=whole):
        would_hit[n] += caster.cast(n, xy[n], float(yaw[n]), low, high)
    return Scan(azimuth, horizontal, body, would_hit)


def lidar_sweep(drive: Drive, stamp_ns: int, result: Scan | None = None) -> LidarSweep:
    """The points of one revolution in the LIDAR_TOP frame, with range noise and dropped rays.

    Args:
        drive: the drive.
        stamp_ns: when.
        result: the ``scan`` of that stamp, if it is at hand.
    """
    result = scan(drive, stamp_ns) if result is None else result
    config = drive.config
    rng = np.random.default_rng([drive.seed, 100, stamp_ns // 1000])
    ring, column = np.nonzero((result.body != NOTHING) & (rng.uniform(size=result.body.shape) > config.lidar_dropout))
    elevation = np.deg2rad(ELEVATIONS_DEG)[ring]
    distance = result.horizontal[ring, column] + rng.normal(0, _RANGE_NOISE, len(ring)) * np.cos(elevation)
    forward, left = distance * np.cos(result.azimuth[column]), distance * np.sin(result.azimuth[column])
    label = np.append(drive.labels, [-2, -2])[result.body[ring, column]]
    base = np.array([_INTENSITY.get(k, 35.0) for k in range(-2, 10)])
    base[0] = 12.0  # the ground
    points = np.empty(len(ring), dtype=LIDAR_DTYPE)
    points["x"], points["y"], points["z"] = -left, forward, distance * np.tan(elevation)
    points["intensity"] = np.clip(np.rint(base[label + 2] * rng.uniform(0.4, 1.6, len(ring))), 0, 255)
    points["ring"] = ring
    return LidarSweep(points, lidar_mounting(config), drive.ego(stamp_ns).T_world_from_base, stamp_ns)


def _boxes(drive: Drive, near: NDArray[np.int64], *, whole: bool) -> list[tuple[int, FloatArray, FloatArray]]:
    """(body, lower corner (3,), upper corner (3,)) in the body's frame."""
    if whole:
        size = drive.sizes
        half = np.concatenate([size[:, :2] / 2, size[:, 2:]], axis=1)
        low = half * np.array([-1, -1, 0])
        return [(int(n), low[n], half[n]) for n in near]
    shapes = drive.shapes
    out = []
    for n in near:
        count = int(np.isfinite(shapes.part_low[n, :, 0]).sum())
        out += [(int(n), shapes.part_low[n, p], shapes.part_high[n, p]) for p in range(count)]
    return out


@dataclass(frozen=True)
class _Caster:
    """The grid of rays; ``cast`` lets one box take the rays that it stops first."""

    azimuth: FloatArray
    slope: FloatArray
    limit: FloatArray
    height: float
    horizontal: FloatArray
    body: NDArray[np.int64]

    def cast(self, n: int, xy: FloatArray, yaw: float, low: FloatArray, high: FloatArray) -> int:
        """Returns how many rays would meet the box."""
        c, s = np.cos(yaw), np.sin(yaw)
        middle, half = 0.5 * (low[:2] + high[:2]), 0.5 * (high[:2] - low[:2])
        center = xy + np.array([middle[0] * c - middle[1] * s, middle[0] * s + middle[1] * c])
        columns = self._columns(center, yaw, half)
        azimuth = self.azimuth[columns]
        dx, dy = np.cos(azimuth), np.sin(azimuth)
        enter, leave = np.full(len(columns), 1e-6), np.full(len(columns), np.inf)
        for axis, (ax, ay) in enumerate(((c, s), (-s, c))):
            direction = dx * ax + dy * ay
            direction = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
            at = center[0] * ax + center[1] * ay
            a, b = (at - half[axis]) / direction, (at + half[axis]) / direction
            enter, leave = np.maximum(enter, np.minimum(a, b)), np.minimum(leave, np.maximum(a, b))
        met = enter < leave
        if not met.any():
            return 0
        columns, enter, leave = columns[met], enter[met], leave[met]
        # A ray rises by ``slope`` per metre: between which distances is it as high as the box?
        slope = np.where(np.abs(self.slope) < 1e-9, 1e-9, self.slope)
        a, b = (low[2] - self.height) / slope, (high[2] - self.height) / slope
        rise_in, rise_out = np.minimum(a, b), np.maximum(a, b)
        rows = np.flatnonzero((rise_in < leave.max()) & (rise_out > enter.min()))
        start = np.maximum(rise_in[rows, None], enter[None])
        hit = (start < np.minimum(rise_out[rows, None], leave[None])) & (start < self.limit[rows, None])
        grid = np.ix_(rows, columns)
        first = hit & (start < self.horizontal[grid])
        self.horizontal[grid] = np.where(first, start, self.horizontal[grid])
        self.body[grid] = np.where(first, n, self.body[grid])
        return int(hit.sum())

    def _columns(self, center: FloatArray, yaw: float, half: FloatArray) -> NDArray[np.int64]:
        count = len(self.azimuth)
        bearing, low, high = bearings(center[None], np.array([yaw]), half[None])
        per_column = 2 * np.pi / count
        first = int(np.floor((bearing[0] + low[0] + np.pi) / per_column))
        last = int(np.ceil((bearing[0] + high[0] + np.pi) / per_column))
        return np.arange(first, min(last, first + count - 1) + 1) % count
