"""A spinning LiDAR: rays against the boxes that bodies are made of, and the ground; how much light comes back.

The power of a return is that of a diffuse surface, albedo times the cosine of incidence over distance squared, less
extinction by rain and haze out and back. The rated sensor (as the HDL-32E of the nuScenes vehicle: 80 to 100 m) sees a
surface of albedo 0.1 looked at squarely at 60 m half the time. That is why asphalt, met at a grazing angle, is lost
beyond some 25 m, and why dark and wet bodies have fewer points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import lidar_mounting
from crkd_core.data.synthscenes.echoes import pairs
from crkd_core.data.synthscenes.projection import bearings
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import LIDAR_DTYPE, FloatArray, LidarSweep

ELEVATIONS_DEG = np.linspace(-30.67, 10.67, 32)
"""Elevations of the 32 beams; the position is the ``ring``."""
GROUND, NOTHING, DROP = -1, -2, -3
"""What a ray met, if no body: the road, nothing, a rain drop."""
_ELEVATIONS = np.deg2rad(ELEVATIONS_DEG)
_SLOPES = np.tan(_ELEVATIONS)
_RINGS, _PARTS = len(_SLOPES), "lidar_parts"
_RANGE_NOISE = 0.02  # m
_SENSITIVITY = 0.1 / 60.0**2  # albedo over square metre that is seen half the time
_ASPHALT, _ROUGH = 0.22, 0.15  # albedo, and the share of it that does not depend on the angle
_WET_ASPHALT, _WET = 0.4, 0.75  # factors in rain for the road and for other surfaces; water absorbs and mirrors
_ROUND = 0.25  # share of a body's surface that looks at the sensor whatever its face does
_DROPS = 1e-4  # share of rays per mm/h that end at a drop; estimate
_DROP_RANGE = 4.0  # m, mean of where


@dataclass(frozen=True)
class Scan:
    """What every ray of one revolution met; rows are beams, columns azimuths.

    Attributes:
        azimuth: (C,) in base axes (x forward), rad.
        horizontal: (32, C) distance from the sensor's axis, m; inf where nothing came back.
        body: (32, C) int64, index of the body met, GROUND, NOTHING or DROP.
        intensity: (32, C) 100 times the share of light that an ideal white surface would return at that distance.
        met: (N,) int64, rays that meet each body before anything else, whether they come back or not.
        crossed: (M,) int64, every body on the way of every ray, as ``body * rays + ray``; a body of several parts
            may be there several times.
    """

    azimuth: FloatArray
    horizontal: FloatArray
    body: NDArray[np.int64]
    intensity: FloatArray
    met: NDArray[np.int64]
    crossed: NDArray[np.int64]

    @cached_property
    def would_hit(self) -> NDArray[np.int64]:
        """(N,) rays that would meet each body were nothing in front of it and no ray lost."""
        return np.bincount(np.unique(self.crossed) // self.body.size, minlength=len(self.met))

    def hits(self) -> NDArray[np.int64]:
        """(N,) rays that came back from each body."""
        return np.bincount(self.body[self.body >= 0], minlength=len(self.met))


def scan(drive: Drive, stamp_ns: int) -> Scan:
    """Cast one revolution, frozen at its stamp (the vehicle's motion within the 50 ms of a turn is not modelled)."""
    config = drive.config
    azimuth = -np.pi + (np.arange(config.lidar_columns) + 0.5) * 2 * np.pi / config.lidar_columns
    boxes = _boxes(drive, stamp_ns)
    height, columns = config.lidar_translation[2], len(azimuth)
    with np.errstate(divide="ignore"):
        ground = np.where(_SLOPES < 0, -height / _SLOPES, np.inf)
    ground[ground > config.lidar_range * np.cos(_ELEVATIONS)] = np.inf
    albedo = _ASPHALT * (_WET_ASPHALT if drive.conditions.wet else 1.0)
    horizontal = np.repeat(ground, columns)
    body = np.repeat(np.where(np.isfinite(ground), GROUND, NOTHING), columns)
    rough = albedo * (_ROUGH + (1 - _ROUGH) * np.abs(np.sin(_ELEVATIONS)))
    bright: FloatArray = np.repeat(np.where(np.isfinite(ground), rough, 0.0), columns)

    crossing = _crossings(boxes, azimuth)
    met = _met(boxes, crossing, height, config.lidar_range)
    ray = met.ring * columns + crossing.column[met.crossing]
    owner = boxes.body[crossing.box[met.crossing]]
    np.minimum.at(horizontal, ray, met.distance)
    first = np.flatnonzero(horizontal[ray] == met.distance)
    ray_first, owner_first = ray[first], owner[first]
    body[ray_first] = owner_first
    facing = np.where(met.above[first], np.abs(_SLOPES[met.ring[first]]), crossing.facing[met.crossing[first]])
    facing *= np.cos(_ELEVATIONS)[met.ring[first]]
    shiny = drive.reflection.albedo * (_WET if drive.conditions.wet else 1.0)
    bright[ray_first] = shiny[owner_first] * (_ROUND + (1 - _ROUND) * facing)

    unhidden = np.bincount(body[body >= 0], minlength=len(drive.sizes))
    shape = (_RINGS, columns)
    horizontal, body, bright = horizontal.reshape(shape), body.reshape(shape), bright.reshape(shape)
    _weaken(drive, stamp_ns, horizontal, body, bright)
    return Scan(azimuth, horizontal, body, 100 * bright, unhidden, owner * body.size + ray)


def _weaken(drive: Drive, stamp_ns: int, horizontal: FloatArray, body: NDArray[np.int64], bright: FloatArray) -> None:
    """Lose, in place, the rays that end at a drop or come back too weak; ``bright`` becomes what comes back."""
    weather = drive.conditions
    rng = np.random.default_rng([drive.seed, 100, stamp_ns // 1000])
    texture, chance, lost = rng.random((3, *body.shape), dtype=np.float32)
    bright *= 0.4 + 1.2 * texture
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = horizontal / np.cos(_ELEVATIONS)[:, None]
        bright *= np.exp(-2 * weather.extinction * distance)
        # The odds of a return are the third power of what comes back over what is seen half the time.
        need = _SENSITIVITY * distance**2 / bright
        returned = (chance * (1 + need * need * need) < 1) & (lost >= drive.config.lidar_dropout)
    body[~returned], horizontal[~returned], bright[~returned] = NOTHING, np.inf, 0.0
    if weather.rain > 0:
        drop = rng.random(body.shape, dtype=np.float32) < _DROPS * weather.rain
        near = 1.0 + rng.exponential(_DROP_RANGE, int(drop.sum()))
        struck = near < horizontal[drop]
        ring, column = (i[struck] for i in np.nonzero(drop))
        horizontal[ring, column] = near[struck] * np.cos(_ELEVATIONS)[ring]
        body[ring, column], bright[ring, column] = DROP, 0.03


def lidar_sweep(drive: Drive, stamp_ns: int, result: Scan | None = None) -> LidarSweep:
    """The points of one revolution in the LIDAR_TOP frame, with range noise.

    As nuScenes stores it, ``intensity`` is what the surface returns, with the fall by distance squared made good by the
    sensor: 0 to 100 for diffuse surfaces. It falls with the angle of incidence, in rain and haze with distance.

    Args:
        drive: the drive.
        stamp_ns: when.
        result: the ``scan`` of that stamp, if it is at hand.
    """
    result = scan(drive, stamp_ns) if result is None else result
    rng = np.random.default_rng([drive.seed, 101, stamp_ns // 1000])
    ring, column = np.nonzero(result.body != NOTHING)
    distance = result.horizontal[ring, column] + rng.normal(0, _RANGE_NOISE, len(ring)) * np.cos(_ELEVATIONS)[ring]
    forward, left = distance * np.cos(result.azimuth[column]), distance * np.sin(result.azimuth[column])
    points = np.empty(len(ring), dtype=LIDAR_DTYPE)
    points["x"], points["y"], points["z"] = -left, forward, distance * _SLOPES[ring]
    points["intensity"] = np.clip(np.rint(result.intensity[ring, column]), 0, 255)
    points["ring"] = ring
    return LidarSweep(points, lidar_mounting(drive.config), drive.ego_pose(stamp_ns), stamp_ns)


@dataclass(frozen=True)
class _Boxes:
    """B boxes around the sensor in base axes: body, middle (B, 2), yaw, half (B, 2), bottom and top (B,)."""

    body: NDArray[np.int64]
    xy: FloatArray
    yaw: FloatArray
    half: FloatArray
    bottom: FloatArray
    top: FloatArray


def _parts(drive: Drive) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Body (B,), low and high corner (B, 3) in the body's axes of all parts of all bodies; pyramids count as boxes."""
    if _PARTS not in drive.scratch:
        low, high = drive.shapes.part_low, drive.shapes.part_high
        body, part = np.nonzero(np.isfinite(low[..., 0]))
        drive.scratch[_PARTS] = (body, low[body, part], high[body, part])
    return cast("tuple[NDArray[np.int64], FloatArray, FloatArray]", drive.scratch[_PARTS])


def _boxes(drive: Drive, stamp_ns: int) -> _Boxes:
    """The boxes of all bodies in range."""
    states, T = drive.states(stamp_ns), drive.ego_pose(stamp_ns)
    base_yaw = np.arctan2(T[1, 0], T[0, 0])
    sensor = T[:2, :2] @ np.array(drive.config.lidar_translation[:2]) + T[:2, 3]
    cos, sin = np.cos(base_yaw), np.sin(base_yaw)
    xy = (states.xy - sensor) @ np.array([[cos, -sin], [sin, cos]])
    yaw = states.yaw - base_yaw
    near = np.hypot(xy[:, 0], xy[:, 1]) - drive.radii < drive.config.lidar_range
    body, low, high = _parts(drive)
    rows = np.flatnonzero(near[body])
    body, low, high = body[rows], low[rows], high[rows]
    middle = 0.5 * (low + high)
    c, s = np.cos(yaw[body]), np.sin(yaw[body])
    offset = np.stack([middle[:, 0] * c - middle[:, 1] * s, middle[:, 0] * s + middle[:, 1] * c], axis=1)
    return _Boxes(body, xy[body] + offset, yaw[body], 0.5 * (high - low)[:, :2], low[:, 2], high[:, 2])


@dataclass(frozen=True)
class _Crossings:
    """P pairs of a box and a column whose vertical plane cuts it.

    Attributes:
        box, column: (P,) int64.
        enter, leave: (P,) horizontal distance from the sensor's axis, m.
        facing: (P,) cosine of incidence, seen from above, on the side where the plane enters.
    """

    box: NDArray[np.int64]
    column: NDArray[np.int64]
    enter: FloatArray
    leave: FloatArray
    facing: FloatArray


def _crossings(boxes: _Boxes, azimuth: FloatArray) -> _Crossings:
    count = len(azimuth)
    per_column = 2 * np.pi / count
    bearing, low, high = bearings(boxes.xy, boxes.yaw, boxes.half)
    first = np.floor((bearing + low + np.pi) / per_column).astype(np.int64)
    width = np.minimum(np.ceil((bearing + high + np.pi) / per_column).astype(np.int64) - first + 1, count)
    box, column = pairs(first, first + width)
    column %= count
    dx, dy = np.cos(azimuth)[column], np.sin(azimuth)[column]
    c, s = np.cos(boxes.yaw), np.sin(boxes.yaw)
    enter, leave, facing = np.full(len(box), 1e-6), np.full(len(box), np.inf), np.zeros(len(box))
    for axis, (ax, ay) in enumerate(((c, s), (-s, c))):
        along = dx * ax[box] + dy * ay[box]
        along = np.where(np.abs(along) < 1e-9, 1e-9, along)
        middle = (boxes.xy[:, 0] * ax + boxes.xy[:, 1] * ay)[box] / along
        reach = np.abs(boxes.half[box, axis] / along)
        facing = np.where(middle - reach > enter, np.abs(along), facing)
        enter, leave = np.maximum(enter, middle - reach), np.minimum(leave, middle + reach)
    cut = np.flatnonzero(enter < leave)
    return _Crossings(box[cut], column[cut], enter[cut], leave[cut], facing[cut])


@dataclass(frozen=True)
class _Met:
    """M rays that meet a box: which crossing, which beam, at what horizontal distance (m), and whether from above."""

    crossing: NDArray[np.int64]
    ring: NDArray[np.int64]
    distance: FloatArray
    above: NDArray[np.bool_]


def _met(boxes: _Boxes, crossings: _Crossings, height: float, longest: float) -> _Met:
    """The beams of every crossing that meet its box: a run of neighbours, between two slopes.

    A beam rises by its slope per metre. It passes below the box where it is too low both at entry and at exit, and
    above it likewise.
    """
    bottom, top = boxes.bottom[crossings.box] - height, boxes.top[crossings.box] - height
    least = bottom / np.where(bottom < 0, crossings.enter, crossings.leave)
    most = top / np.where(top < 0, crossings.leave, crossings.enter)
    crossing, ring = pairs(np.searchsorted(_SLOPES, least, side="right"), np.searchsorted(_SLOPES, most))
    slope, enter = _SLOPES[ring], crossings.enter[crossing]
    # Where it enters through the top or the bottom rather than through a side.
    lid = np.where(slope < 0, top[crossing], bottom[crossing]) / np.where(np.abs(slope) < 1e-9, 1e-9, slope)
    distance = np.maximum(lid, enter)
    near = np.flatnonzero(distance <= (longest * np.cos(_ELEVATIONS))[ring])
    return _Met(crossing[near], ring[near], distance[near], (lid > enter)[near])
