"""Automotive radars: a few noisy returns per visible body, Doppler, radar cross-section, clutter.

Sweeps are simulated in batches, because a frame has dozens of them; each draws its randomness from its own stamp, so
that a sweep is the same in whatever batch it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import RadarMount, radar_mounting
from crkd_core.data.synthscenes.world import Drive, EgoTrack, States
from crkd_core.types import RADAR_DTYPE, FloatArray, RadarSweep

_HALF_VIEW = np.deg2rad(60.0)
_TRIALS = 6  # a body gives at most so many returns in one sweep
_SLOTS = 320  # returns of one sweep at most, clutter included
_SENSITIVITY = 70.0  # dB; a target of rcs dBsm at r m is as likely seen as not where rcs = 40 log10(r) - this
_CLUTTER = 14.0  # mean number of returns from nothing in particular
_GHOSTS = 0.02  # share of returns seen once more behind, by a second reflection
_MOVING, _STATIONARY, _ONCOMING, _CANDIDATE, _CROSSING_MOVING = 0, 1, 2, 3, 6


@dataclass(frozen=True)
class _View:
    """K sweeps: all bodies in the axes of each sensor.

    Attributes:
        xy: (K, N, 2); yaw: (K, N); velocity: (K, N, 2) over ground.
        own: (K, 2) the sensor's velocity over ground.
    """

    xy: FloatArray
    yaw: FloatArray
    velocity: FloatArray
    own: FloatArray


@dataclass(frozen=True)
class _Draws:
    """Random numbers of K sweeps: trials (K, N, _TRIALS) and uniform (K, _SLOTS, 13) in 0..1, normal (K, _SLOTS, 4)."""

    trials: FloatArray
    uniform: FloatArray
    normal: FloatArray
    clutter: NDArray[np.int64]


@dataclass(frozen=True)
class _Echoes:
    """P returns of K sweeps.

    Attributes:
        sweep, slot: (P,) which sweep, and which of its random numbers.
        body: (P,) index of the body, -1 for clutter.
        points: (P, 2) true places, sensor axes.
        rcs: (P,) dBsm.
        velocity: (P, 2) of what reflected, over ground, sensor axes.
        real: (P,) neither ghost nor clutter.
    """

    sweep: NDArray[np.int64]
    slot: NDArray[np.int64]
    body: NDArray[np.int64]
    points: FloatArray
    rcs: FloatArray
    velocity: FloatArray
    real: NDArray[np.bool_]

    def picked(self, pick: NDArray[np.bool_] | NDArray[np.int64]) -> _Echoes:
        return _Echoes(*(getattr(self, f.name)[pick] for f in fields(self)))

    def joined(self, *others: _Echoes) -> _Echoes:
        return _Echoes(*(np.concatenate([getattr(e, f.name) for e in (self, *others)]) for f in fields(self)))


def radar_sweep(drive: Drive, mount: RadarMount, stamp_ns: int) -> RadarSweep:
    """One scan of one radar at its own stamp; see ``radar_sweeps``."""
    return radar_sweeps(drive, [(mount, stamp_ns)])[0]


def radar_sweeps(drive: Drive, scans: Sequence[tuple[RadarMount, int]]) -> list[RadarSweep]:
    """Scans of radars, each at its own stamp (ns); the same radar and stamp always give the same points.

    As nuScenes stores them: z is 0, (vx, vy) is the measured radial velocity relative to the moving sensor as a vector
    along the line of sight, (vx_comp, vy_comp) the same with the sensor's own motion removed.

    Raises:
        SynthError: a stamp outside the drive.
    """
    track = drive.ego_track([stamp for _, stamp in scans])
    states = drive.states_at([stamp for _, stamp in scans])
    view = _viewed(scans, track, states)
    draws = _drawn(drive, scans)
    echoes = _reflected(drive, view, draws)
    uniform = draws.uniform[echoes.sweep, echoes.slot]
    echoes = echoes.picked(uniform[:, 3] < _passing(drive, view, echoes))
    echoes = echoes.joined(_ghosts(echoes, draws), _clutter(draws, drive.config.radar_range))
    distance, bearing = np.hypot(*echoes.points.T), np.arctan2(echoes.points[:, 1], echoes.points[:, 0])
    inside = (np.abs(bearing) < _HALF_VIEW) & (distance < _reach(bearing, drive.config.radar_range)) & (distance > 0.5)
    echoes = echoes.picked(np.flatnonzero(inside))
    echoes = echoes.picked(np.lexsort((np.hypot(*echoes.points.T), echoes.sweep)))
    records = _records(echoes, draws, view.own)
    bounds = np.searchsorted(echoes.sweep, np.arange(len(scans) + 1))
    out = []
    for k, (mount, stamp) in enumerate(scans):
        points = records[bounds[k] : bounds[k + 1]]
        points["id"] = np.arange(len(points))
        out.append(RadarSweep(points, radar_mounting(mount), track.pose(k), stamp))
    return out


def _viewed(scans: Sequence[tuple[RadarMount, int]], track: EgoTrack, states: States) -> _View:
    lever = _turned(np.array([mount.translation[:2] for mount, _ in scans]), track.heading)
    heading = track.heading + np.deg2rad([mount.yaw_deg for mount, _ in scans])
    own = track.velocity + track.yaw_rate[:, None] * np.stack([-lever[:, 1], lever[:, 0]], axis=1)
    xy = _turned(states.xy - (track.xy + lever)[:, None], -heading[:, None])
    return _View(xy, states.yaw - heading[:, None], _turned(states.velocity, -heading[:, None]), _turned(own, -heading))


def _turned(vectors: FloatArray, angle: FloatArray) -> FloatArray:
    """Vectors (..., 2) turned counter-clockwise."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([vectors[..., 0] * c - vectors[..., 1] * s, vectors[..., 0] * s + vectors[..., 1] * c], axis=-1)


def _drawn(drive: Drive, scans: Sequence[tuple[RadarMount, int]]) -> _Draws:
    names = [r.name for r in drive.config.radars]
    trials, uniform, normal, clutter = [], [], [], []
    for mount, stamp in scans:
        rng = np.random.default_rng([drive.seed, 200 + names.index(mount.name), stamp // 1000])
        trials.append(rng.random((len(drive.sizes), _TRIALS)))
        uniform.append(rng.random((_SLOTS, 13)))
        normal.append(rng.standard_normal((_SLOTS, 4)))
        clutter.append(rng.poisson(_CLUTTER))
    return _Draws(np.stack(trials), np.stack(uniform), np.stack(normal), np.array(clutter))


def _reflected(drive: Drive, view: _View, draws: _Draws) -> _Echoes:
    """Returns of bodies before anything hides them, on or a little behind a face that looks at the sensor."""
    distance = np.linalg.norm(view.xy, axis=2)
    radius = drive.radii
    ahead = np.abs(np.arctan2(view.xy[..., 1], view.xy[..., 0])) < _HALF_VIEW + np.arctan2(radius, distance + 0.1)
    near = ahead & (distance - radius < drive.config.radar_range)
    # The sensor in each body's axes; a face looked at squarely shines.
    viewer = -_turned(view.xy, -view.yaw)
    cosine = np.abs(viewer) / np.maximum(distance, 0.1)[..., None]
    rcs = drive.radar_traits[:, 1] + 8.0 * (cosine.max(axis=2) - 0.85)
    margin = rcs + _SENSITIVITY - 40 * np.log10(np.maximum(distance, 2.0))
    chance = np.where(near, drive.radar_traits[:, 0] / _TRIALS / (1 + np.exp(-margin / 4)), 0.0)
    sweep, body, _ = np.nonzero(draws.trials < chance[..., None])
    slot = np.arange(len(sweep)) - np.searchsorted(sweep, sweep)
    fits = slot < _SLOTS // 2
    sweep, body, slot = sweep[fits], body[fits], slot[fits]

    u, half = draws.uniform[sweep, slot], drive.sizes[body, :2] / 2
    seen = viewer[sweep, body]
    width = np.where(np.abs(seen) > half, cosine[sweep, body] * half[:, ::-1], 0.0)
    on_x_face = u[:, 0] * np.maximum(width.sum(axis=1), 1e-9) < width[:, 0]
    inward = np.maximum(half + 0.12 * np.log(1 - u[:, 2:3]), 0) * np.sign(seen)
    along = (2 * u[:, 1:2] - 1) * 0.95 * half
    local = np.where(np.stack([on_x_face, ~on_x_face], axis=1), inward, along)
    points = _turned(local, view.yaw[sweep, body]) + view.xy[sweep, body]
    strength = rcs[sweep, body] + 3.0 * draws.normal[sweep, slot, 0]
    return _Echoes(sweep, slot, body, points, strength, view.velocity[sweep, body], np.ones(len(sweep), dtype=bool))


def _passing(drive: Drive, view: _View, echoes: _Echoes) -> FloatArray:
    """(P,) probability that a return reaches the sensor past the bodies in between."""
    blockers = np.flatnonzero(drive.radar_passing < 1)
    out = np.ones(len(echoes.sweep))
    bounds = np.searchsorted(echoes.sweep, np.arange(len(view.xy) + 1))
    for k in range(len(view.xy)):
        rows = slice(bounds[k], bounds[k + 1])
        points = echoes.points[rows]
        distance = np.hypot(points[:, 0], points[:, 1])
        xy = view.xy[k, blockers]
        close = (np.hypot(xy[:, 0], xy[:, 1]) - drive.radii[blockers] < distance.max(initial=0)) & (xy[:, 0] > -15)
        chosen = blockers[close]
        ratio = drive.radar_passing[chosen]
        stopped = _stopped(points, distance, view.xy[k, chosen], view.yaw[k, chosen], drive.sizes[chosen] / 2)
        stopped &= chosen != echoes.body[rows, None]
        out[rows] = np.where(stopped, ratio, 1.0).prod(axis=1)
    return out


def _stopped(
    points: FloatArray, distance: FloatArray, xy: FloatArray, yaw: FloatArray, half: FloatArray
) -> NDArray[np.bool_]:
    """(P, B) whether the way from the sensor to each point leads through each rectangle."""
    sight = points / np.maximum(distance, 1e-6)[:, None]
    c, s = np.cos(yaw), np.sin(yaw)
    axes = np.stack([c, s, -s, c], axis=0).reshape(2, 2, -1)  # axis of the rectangle, component, rectangle
    along = np.einsum("pc,acb->apb", sight, axes)
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    middle = np.einsum("bc,acb->ab", xy, axes)[:, None]
    reach = np.abs(half[:, :2].T[:, None] / along)
    center = middle / along
    enter, leave = (center - reach).max(axis=0), (center + reach).min(axis=0)
    return np.asarray((enter < leave) & (leave > 0) & (np.maximum(enter, 0) < distance[:, None] - 0.2))


def _ghosts(echoes: _Echoes, draws: _Draws) -> _Echoes:
    u = draws.uniform[echoes.sweep, echoes.slot]
    ghosts = echoes.picked(u[:, 4] < _GHOSTS)
    farther = 1.2 + 0.7 * draws.uniform[ghosts.sweep, ghosts.slot, 5]
    n = len(ghosts.sweep)
    return _Echoes(
        ghosts.sweep, ghosts.slot, ghosts.body, ghosts.points * farther[:, None], ghosts.rcs - 8, ghosts.velocity,
        np.zeros(n, dtype=bool),
    )  # fmt: skip


def _clutter(draws: _Draws, longest: float) -> _Echoes:
    count = np.minimum(draws.clutter, _SLOTS // 2)
    sweep = np.repeat(np.arange(len(count)), count)
    slot = _SLOTS - 1 - (np.arange(len(sweep)) - np.repeat(np.cumsum(count) - count, count))
    u, n = draws.uniform[sweep, slot], len(sweep)
    bearing, distance = _HALF_VIEW * (2 * u[:, 11] - 1), longest * (1 - np.sqrt(1 - u[:, 12]))
    points = np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], axis=1)
    rcs = 5.0 * draws.normal[sweep, slot, 0]
    return _Echoes(sweep, slot, np.full(n, -1), points, rcs, np.zeros((n, 2)), np.zeros(n, dtype=bool))


def _reach(bearing: FloatArray, longest: float) -> FloatArray:
    """How far the antenna looks at a bearing: fully up to 40 degrees, less to the edges."""
    return np.asarray(longest * np.clip(1 - 0.7 * (np.abs(np.rad2deg(bearing)) - 40) / 20, 0.3, 1.0))


def _records(echoes: _Echoes, draws: _Draws, own: FloatArray) -> NDArray[np.void]:
    """What the sensor reports, with range noise, Doppler noise and a bearing noise that grows towards the edges."""
    u, g = draws.uniform[echoes.sweep, echoes.slot], draws.normal[echoes.sweep, echoes.slot]
    bearing = np.arctan2(echoes.points[:, 1], echoes.points[:, 0])
    distance = np.maximum(np.hypot(*echoes.points.T) + 0.12 * g[:, 2], 0.2)
    bearing = bearing + np.deg2rad(0.3 + 0.7 * np.abs(bearing) / _HALF_VIEW) * g[:, 1]
    sight = np.stack([np.cos(bearing), np.sin(bearing)], axis=1)
    radial = (echoes.velocity * sight).sum(axis=1) + 0.1 * g[:, 3]
    relative = radial - (own[echoes.sweep] * sight).sum(axis=1)
    speed = np.hypot(*echoes.velocity.T)
    state = np.where(u[:, 6] < 0.65, _STATIONARY, _CANDIDATE)
    state = np.where(np.abs(radial) > 0.5, np.where(radial > 0, _MOVING, _ONCOMING), state)
    state = np.where((speed > 0.3) & (np.abs(radial) < 0.35 * speed), _CROSSING_MOVING, state)
    records = np.zeros(len(u), dtype=RADAR_DTYPE)
    records["x"], records["y"] = (distance[:, None] * sight).T
    records["dyn_prop"] = state
    records["rcs"] = np.clip(np.rint(echoes.rcs * 2) / 2, -5, 30)
    records["vx"], records["vy"] = (relative[:, None] * sight).T
    records["vx_comp"], records["vy_comp"] = (radial[:, None] * sight).T
    records["is_quality_valid"], records["ambig_state"], records["invalid_state"] = 1, 3, 0
    # Codes of the sensor's own accuracy estimates and of its false-alarm probability, spread as in real data.
    records["x_rms"] = np.where(u[:, 7] < 0.5, 19, np.where(u[:, 7] < 0.8, 20, 21))
    records["y_rms"] = np.where(u[:, 8] < 0.5, 19, np.where(u[:, 8] < 0.8, 20, 22))
    records["vx_rms"], records["vy_rms"] = np.where(u[:, 9] < 0.7, 16, 17), 3
    sure, likely = np.where(echoes.real, 0.8, 0.3), np.where(echoes.real, 1.0, 0.8)
    records["pdh0"] = np.where(u[:, 10] < sure, 1, np.where(u[:, 10] < likely, 3, 6))
    return records
