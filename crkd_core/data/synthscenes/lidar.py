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
        would_hit: (N,) rays that would meet each body were nothing in front of it and no ray lost.
    """

    azimuth: FloatArray
    horizontal: FloatArray
    body: NDArray[np.int64]
    would_hit: NDArray[np.int64]

    def hits(self) -> NDArray[np.int64]:
        """(N,) rays that met each body."""
        return np.bincount(self.body[self.body >= 0], minlength=len(self.would_hit))


def scan(drive: Drive, stamp_ns: int) -> Scan:
    """Cast one revolution, frozen at its stamp (the vehicle's motion within the 50 ms of a turn is not modelled)."""
    config, states = drive.config, drive.states(stamp_ns)
    T = drive.ego_pose(stamp_ns)
    base_yaw = np.arctan2(T[1, 0], T[0, 0])
    height = config.lidar_translation[2]
    sensor = T[:2, :2] @ np.array(config.lidar_translation[:2]) + T[:2, 3]
    cos, sin = np.cos(base_yaw), np.sin(base_yaw)
    xy = (states.xy - sensor) @ np.array([[cos, -sin], [sin, cos]])
    boxes = _boxes(drive, xy, states.yaw - base_yaw)
    azimuth = -np.pi + (np.arange(config.lidar_columns) + 0.5) * 2 * np.pi / config.lidar_columns
    slope = np.tan(np.deg2rad(ELEVATIONS_DEG))
    limit = config.lidar_range * np.cos(np.deg2rad(ELEVATIONS_DEG))
    with np.errstate(divide="ignore"):
        to_ground = np.where(slope < 0, -height / slope, np.inf)
    to_ground[to_ground > limit] = np.inf
    horizontal = np.repeat(to_ground[:, None], len(azimuth), axis=1)
    body = np.where(np.isfinite(horizontal), GROUND, NOTHING)

    box, column, enter, leave = _crossings(boxes, azimuth)
    start = _met(boxes, box, enter, leave, slope, height)  # (32, P)
    start[start > limit[:, None]] = np.inf
    met = np.isfinite(start)
    owner = boxes.body[box]
    would_hit = np.bincount(owner, weights=met.sum(axis=0), minlength=len(drive.sizes)).astype(np.int64)
    if len(box):
        columns, first = np.unique(column, return_index=True)  # crossings are sorted by column
        nearest = np.minimum.reduceat(start, first, axis=1)
        position = np.repeat(np.arange(len(columns)), np.diff(np.append(first, len(column))))
        ring, winner = np.nonzero(met & (start == nearest[:, position]))
        closer = start[ring, winner] < horizontal[ring, column[winner]]
        ring, winner = ring[closer], winner[closer]
        horizontal[ring, column[winner]] = start[ring, winner]
        body[ring, column[winner]] = owner[winner]
    lost = np.random.default_rng([drive.seed, 100, stamp_ns // 1000]).random(body.shape) < config.lidar_dropout
    horizontal[lost], body[lost] = np.inf, NOTHING
    return Scan(azimuth, horizontal, body, would_hit)


def lidar_sweep(drive: Drive, stamp_ns: int, result: Scan | None = None) -> LidarSweep:
    """The points of one revolution in the LIDAR_TOP frame, with range noise.

    Args:
        drive: the drive.
        stamp_ns: when.
        result: the ``scan`` of that stamp, if it is at hand.
    """
    result = scan(drive, stamp_ns) if result is None else result
    config = drive.config
    rng = np.random.default_rng([drive.seed, 101, stamp_ns // 1000])
    ring, column = np.nonzero(result.body != NOTHING)
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
    return LidarSweep(points, lidar_mounting(config), drive.ego_pose(stamp_ns), stamp_ns)


@dataclass(frozen=True)
class _Boxes:
    """B boxes around the sensor in base axes: body, middle (B, 2), yaw, half (B, 2), bottom and top (B,)."""

    body: NDArray[np.int64]
    xy: FloatArray
    yaw: FloatArray
    half: FloatArray
    bottom: FloatArray
    top: FloatArray


def _boxes(drive: Drive, xy: FloatArray, yaw: FloatArray) -> _Boxes:
    """The boxes of all bodies in range; pyramids count as boxes."""
    low, high = drive.shapes.part_low, drive.shapes.part_high
    near = np.linalg.norm(xy, axis=1) - np.hypot(drive.sizes[:, 0], drive.sizes[:, 1]) / 2 < drive.config.lidar_range
    body, part = np.nonzero(np.isfinite(low[..., 0]) & near[:, None])
    low, high = low[body, part], high[body, part]
    middle = 0.5 * (low + high)
    c, s = np.cos(yaw[body]), np.sin(yaw[body])
    offset = np.stack([middle[:, 0] * c - middle[:, 1] * s, middle[:, 0] * s + middle[:, 1] * c], axis=1)
    return _Boxes(body, xy[body] + offset, yaw[body], 0.5 * (high - low)[:, :2], low[:, 2], high[:, 2])


def _crossings(
    boxes: _Boxes, azimuth: FloatArray
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray, FloatArray]:
    """Every (box, column) whose vertical plane cuts the box, sorted by column, and where it enters and leaves, m."""
    count = len(azimuth)
    per_column = 2 * np.pi / count
    bearing, low, high = bearings(boxes.xy, boxes.yaw, boxes.half)
    first = np.floor((bearing + low + np.pi) / per_column).astype(np.int64)
    width = np.minimum(np.ceil((bearing + high + np.pi) / per_column).astype(np.int64) - first + 1, count)
    box = np.repeat(np.arange(len(width)), width)
    column = (np.arange(len(box)) - np.repeat(np.cumsum(width) - width, width) + first[box]) % count
    dx, dy = np.cos(azimuth)[column], np.sin(azimuth)[column]
    c, s = np.cos(boxes.yaw), np.sin(boxes.yaw)
    enter, leave = np.full(len(box), 1e-6), np.full(len(box), np.inf)
    for axis, (ax, ay) in enumerate(((c, s), (-s, c))):
        along = dx * ax[box] + dy * ay[box]
        along = np.where(np.abs(along) < 1e-9, 1e-9, along)
        middle, half = (boxes.xy[:, 0] * ax + boxes.xy[:, 1] * ay)[box], boxes.half[box, axis]
        a, b = (middle - half) / along, (middle + half) / along
        enter, leave = np.maximum(enter, np.minimum(a, b)), np.minimum(leave, np.maximum(a, b))
    order = np.flatnonzero(enter < leave)
    order = order[np.argsort(column[order], kind="stable")]
    return box[order], column[order], enter[order], leave[order]


def _met(
    boxes: _Boxes, box: NDArray[np.int64], enter: FloatArray, leave: FloatArray, slope: FloatArray, height: float
) -> FloatArray:
    """(32, P) horizontal distance at which each beam meets the box of each crossing; inf where it passes."""
    safe = np.where(np.abs(slope) < 1e-9, 1e-9, slope)[:, None]
    # A beam rises by its slope per metre: between which distances is it as high as the box?
    a, b = (boxes.bottom - height) / safe, (boxes.top - height) / safe
    start = np.maximum(np.minimum(a, b)[:, box], enter)
    stop = np.minimum(np.maximum(a, b)[:, box], leave)
    start[start >= stop] = np.inf
    return start
