"""Automotive radars: a few noisy returns per visible body, Doppler, radar cross-section, clutter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import RadarMount, radar_mounting
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import RADAR_DTYPE, FloatArray, RadarSweep

_HALF_VIEW = np.deg2rad(60.0)
_TRIALS = 6  # a body gives at most so many returns in one sweep
_SENSITIVITY = 70.0  # dB; a target of rcs dBsm at r m is as likely seen as not where rcs = 40 log10(r) - this
_CLUTTER = 14.0  # mean number of returns from nothing in particular
_GHOSTS = 0.02  # share of returns seen once more behind, by a second reflection

_MOVING, _STATIONARY, _ONCOMING, _CANDIDATE, _CROSSING_MOVING, _STOPPED = 0, 1, 2, 3, 6, 7


def radar_sweep(drive: Drive, mount: RadarMount, stamp_ns: int) -> RadarSweep:
    """One scan of one radar at its own stamp; the same stamp gives the same points.

    As nuScenes stores them: z is 0, (vx, vy) is the measured radial velocity relative to the moving sensor as a vector
    along the line of sight, (vx_comp, vy_comp) the same with the sensor's own motion removed.
    """
    index = [r.name for r in drive.config.radars].index(mount.name)
    rng = np.random.default_rng([drive.seed, 200 + index, stamp_ns // 1000])
    ego, states = drive.ego(stamp_ns), drive.states(stamp_ns)
    T_base_from_radar = radar_mounting(mount)
    T = ego.T_world_from_base @ T_base_from_radar
    R = T[:2, :2]  # turns sensor axes into world axes
    xy, velocity = (states.xy - T[:2, 3]) @ R, states.velocity @ R
    yaw = states.yaw - np.arctan2(R[1, 0], R[0, 0])
    lever = ego.T_world_from_base[:2, :2] @ T_base_from_radar[:2, 3]
    sensor_velocity = (ego.velocity + ego.yaw_rate * np.array([-lever[1], lever[0]])) @ R

    body, points, rcs = _returns(drive, rng, xy, yaw)
    clear = rng.uniform(size=len(body)) < _passing(drive, body, points, xy, yaw)
    body, points, rcs = body[clear], points[clear], rcs[clear]
    over_ground = velocity[body]
    ghost = rng.uniform(size=len(body)) < _GHOSTS
    count = rng.poisson(_CLUTTER)
    points = np.concatenate([points, points[ghost] * rng.uniform(1.2, 1.9), _clutter(rng, count, drive.config.radar_range)])
    rcs = np.concatenate([rcs, rcs[ghost] - 8, rng.normal(0, 5, count)])
    over_ground = np.concatenate([over_ground, over_ground[ghost], np.zeros((count, 2))])
    reliable = np.concatenate([np.ones(len(body), bool), np.zeros(int(ghost.sum()) + count, bool)])

    distance, bearing = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    inside = (np.abs(bearing) < _HALF_VIEW) & (distance < _reach(bearing, drive.config.radar_range)) & (distance > 0.5)
    measured = _measured(rng, distance[inside], bearing[inside])
    records = _records(rng, measured, rcs[inside], over_ground[inside], sensor_velocity, reliable[inside])
    return RadarSweep(records, T_base_from_radar, ego.T_world_from_base, stamp_ns)


def _reach(bearing: FloatArray, longest: float) -> FloatArray:
    """How far the antenna looks at a bearing: fully up to 40 degrees, less to the edges."""
    return np.asarray(longest * np.clip(1 - 0.7 * (np.abs(np.rad2deg(bearing)) - 40) / 20, 0.3, 1.0))


def _returns(
    drive: Drive, rng: np.random.Generator, xy: FloatArray, yaw: FloatArray
) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
    """Echoes before occlusion: body (P,), true place (P, 2) on or a little behind a face seen, rcs (P,)."""
    distance = np.linalg.norm(xy, axis=1)
    radius = np.hypot(drive.sizes[:, 0], drive.sizes[:, 1]) / 2
    ahead = np.abs(np.arctan2(xy[:, 1], xy[:, 0])) < _HALF_VIEW + np.arctan2(radius, np.maximum(distance, 0.1))
    near = np.flatnonzero(ahead & (distance - radius < drive.config.radar_range))
    mean, strength = drive.radar_traits[near].T
    c, s = np.cos(yaw[near]), np.sin(yaw[near])
    # The sensor in each body's axes, and the half width of its two faces towards it.
    viewer = -np.stack([xy[near, 0] * c + xy[near, 1] * s, -xy[near, 0] * s + xy[near, 1] * c], axis=1)
    cosine = np.abs(viewer) / np.maximum(distance[near, None], 0.1)
    half = drive.sizes[near, :2] / 2
    aspect = 8.0 * (cosine.max(axis=1) - 0.85)  # a face looked at squarely shines
    rcs = strength + aspect
    visible = 1 / (1 + np.exp(-(rcs + _SENSITIVITY - 40 * np.log10(np.maximum(distance[near], 2.0))) / 4))
    trial = rng.uniform(size=(len(near), _TRIALS)) < (mean * visible / _TRIALS)[:, None]
    body = np.nonzero(trial)[0]

    outside = np.abs(viewer) > half
    width = np.where(outside, cosine * half[:, ::-1], 0.0)
    share = width[:, 0] / np.maximum(width.sum(axis=1), 1e-9)
    on_x_face = rng.uniform(size=len(body)) < share[body]
    along, depth = rng.uniform(-0.95, 0.95, len(body)), rng.exponential(0.12, len(body))
    side, h = np.sign(viewer[body]), half[body]
    inward = np.maximum(h - depth[:, None], 0) * side
    local = np.where(on_x_face[:, None], np.stack([inward[:, 0], along * h[:, 1]], 1), np.stack([along * h[:, 0], inward[:, 1]], 1))
    cb, sb, middle = c[body], s[body], xy[near][body]
    points = np.stack([local[:, 0] * cb - local[:, 1] * sb, local[:, 0] * sb + local[:, 1] * cb], axis=1) + middle
    return near[body], points, rcs[body] + rng.normal(0, 3.0, len(body))


def _passing(
    drive: Drive, body: NDArray[np.int64], points: FloatArray, xy: FloatArray, yaw: FloatArray
) -> FloatArray:
    """(P,) probability that a return reaches the sensor past the bodies in between."""
    passing = drive.radar_passing
    distance = np.linalg.norm(points, axis=1)
    radius = np.hypot(drive.sizes[:, 0], drive.sizes[:, 1]) / 2
    farthest = distance.max(initial=0.0)
    blockers = np.flatnonzero((passing < 1) & (np.linalg.norm(xy, axis=1) - radius < farthest))
    enter, leave = np.zeros((len(points), len(blockers))), np.full((len(points), len(blockers)), np.inf)
    direction = points / np.maximum(distance, 1e-6)[:, None]
    c, s = np.cos(yaw[blockers]), np.sin(yaw[blockers])
    for axis, (ax, ay) in enumerate(((c, s), (-s, c))):
        along = direction[:, :1] * ax + direction[:, 1:] * ay
        along = np.where(np.abs(along) < 1e-9, 1e-9, along)
        middle, half = xy[blockers, 0] * ax + xy[blockers, 1] * ay, drive.sizes[blockers, axis] / 2
        a, b = (middle - half) / along, (middle + half) / along
        enter, leave = np.maximum(enter, np.minimum(a, b)), np.minimum(leave, np.maximum(a, b))
    blocked = (enter < leave) & (enter < distance[:, None] - 0.2) & (blockers[None] != body[:, None])
    return np.asarray(np.where(blocked, passing[blockers], 1.0).prod(axis=1))


def _clutter(rng: np.random.Generator, count: int, longest: float) -> FloatArray:
    bearing, distance = rng.uniform(-_HALF_VIEW, _HALF_VIEW, count), longest * rng.beta(1.2, 2.0, count)
    return np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], axis=1)


def _measured(rng: np.random.Generator, distance: FloatArray, bearing: FloatArray) -> FloatArray:
    """(P, 2) places with range noise and a bearing noise that grows towards the edges of the view."""
    sigma = np.deg2rad(0.3 + 0.7 * np.abs(bearing) / _HALF_VIEW)
    bearing = bearing + rng.normal(0, 1, len(bearing)) * sigma
    distance = distance + rng.normal(0, 0.12, len(distance))
    return np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], axis=1)


def _records(
    rng: np.random.Generator,
    points: FloatArray,
    rcs: FloatArray,
    over_ground: FloatArray,
    sensor_velocity: FloatArray,
    reliable: NDArray[np.bool_],
) -> NDArray[np.void]:
    n = len(points)
    order = np.argsort(np.hypot(*points.T))
    points, rcs, over_ground, reliable = points[order], rcs[order], over_ground[order], reliable[order]
    sight = points / np.maximum(np.hypot(*points.T), 1e-6)[:, None]
    noise = rng.normal(0, 0.1, n)
    radial = (over_ground * sight).sum(axis=1) + noise
    relative = radial - sight @ sensor_velocity
    speed = np.linalg.norm(over_ground, axis=1)
    state = np.where(rng.uniform(size=n) < 0.65, _STATIONARY, _CANDIDATE)
    state = np.where((speed > 0.3) & (np.abs(radial) < 0.35 * speed), _CROSSING_MOVING, state)
    state = np.where((np.abs(radial) > 0.5) & (state != _CROSSING_MOVING), np.where(radial > 0, _MOVING, _ONCOMING), state)
    records = np.zeros(n, dtype=RADAR_DTYPE)
    records["x"], records["y"] = points.T
    records["dyn_prop"], records["id"] = state, np.arange(n)
    records["rcs"] = np.clip(np.rint(rcs * 2) / 2, -5, 30)
    records["vx"], records["vy"] = (relative[:, None] * sight).T
    records["vx_comp"], records["vy_comp"] = (radial[:, None] * sight).T
    records["is_quality_valid"], records["ambig_state"], records["invalid_state"] = 1, 3, 0
    records["x_rms"], records["y_rms"] = rng.choice([19, 20, 21], n, p=[0.5, 0.3, 0.2]), rng.choice([19, 20, 22], n)
    records["vx_rms"], records["vy_rms"] = rng.choice([16, 17], n, p=[0.7, 0.3]), 3
    doubt = rng.uniform(size=n)
    records["pdh0"] = np.where(reliable, np.where(doubt < 0.8, 1, 3), np.where(doubt < 0.3, 1, np.where(doubt < 0.8, 3, 6)))
    return records
