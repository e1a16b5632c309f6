"""Automotive radars: a few noisy echoes per visible body, Doppler, radar cross-section, ghosts, clutter.

Sweeps are simulated in batches, because a frame has dozens of them; each draws its randomness from its own stamp, so
that a sweep is the same in whatever batch it comes. Each echo goes the same way: a mean cross-section, the radar
equation (``link.py``), a fluctuation, what stands in the way (``shadows.py``), what comes by a detour
(``multipath.py``), and what the sensor makes of it (``report.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import RadarMount, radar_mounting
from crkd_core.data.synthscenes.echoes import DIRECT, FALSE, HALF_VIEW, RAIN, Draws, Echoes, View, turned, view
from crkd_core.data.synthscenes.link import THRESHOLD, Link, ground_bounce, make_link, polar, received
from crkd_core.data.synthscenes.multipath import double_bounced, mirrored, mirrors, sidelobes
from crkd_core.data.synthscenes.report import reports
from crkd_core.data.synthscenes.shadows import shadow_loss
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import FloatArray, RadarSweep

_MOST = 125  # returns of one sweep at most, the strongest; so many the sensors of nuScenes report
_GROUND = 40.0  # mean number of kerbs, gratings, stones and other small reflectors per sweep that might be noticed
_GROUND_RCS = (-8.0, 5.0)  # dBsm, mean and spread of them
_GROUND_RANGE = 60.0  # m, where they end
_FALSE_ALARMS = 0.7  # mean number per sweep of echoes of nothing
_RAIN_ECHOES = 0.06  # mean number per sweep and mm/h; they thin out within a few metres
_RAIN_RANGE = 5.0  # m, mean


def radar_sweep(drive: Drive, mount: RadarMount, stamp_ns: int) -> RadarSweep:
    """One scan of one radar at its own stamp; see ``radar_sweeps``."""
    return radar_sweeps(drive, [(mount, stamp_ns)])[0]


def radar_sweeps(drive: Drive, scans: Sequence[tuple[RadarMount, int]]) -> list[RadarSweep]:
    """Scans of radars, each at its own stamp (ns); the same radar and stamp always give the same points.

    As nuScenes stores them: z is 0, (vx, vy) is the measured radial velocity relative to the moving sensor as a vector
    along the line of sight, (vx_comp, vy_comp) the same with the sensor's own motion removed; ordered by range.

    Raises:
        SynthError: a stamp outside the drive.
    """
    track = drive.ego_track([stamp for _, stamp in scans])
    seen = view(drive, scans, track, drive.states_at([stamp for _, stamp in scans]))
    draws, link = Draws.of(drive, scans), make_link(drive, scans)
    echoes = _reported(_all_echoes(drive, seen, link, draws), drive.config.radar_range)
    records = reports(echoes, seen.own, draws)
    order = np.lexsort((np.hypot(records["x"], records["y"]), echoes.sweep))
    bounds = np.searchsorted(echoes.sweep, np.arange(len(scans) + 1))
    out = []
    for k, (mount, stamp) in enumerate(scans):
        points = records[order[bounds[k] : bounds[k + 1]]]
        points["id"] = np.arange(len(points))
        out.append(RadarSweep(points, radar_mounting(mount), track.pose(k), stamp))
    return out


def _all_echoes(drive: Drive, seen: View, link: Link, draws: Draws) -> Echoes:
    """Everything above the threshold, in no order."""
    nature, sizes = drive.reflection, drive.sizes
    sweep, body, points, rcs, velocity = _scattering_centres(drive, seen, draws)
    straight = _echoes(sweep, body, points, rcs, velocity, link, draws)
    hidden = shadow_loss(seen, sizes, nature.shadow, sweep=straight.sweep, points=straight.points, body=straight.body)
    straight = _weakened(straight, hidden)
    ghosts, turn, wall = mirrored(straight, mirrors(seen, sizes, nature.mirror), link, draws)
    hidden = shadow_loss(seen, sizes, nature.shadow, sweep=ghosts.sweep, points=turn, body=wall)
    return straight.joined(
        _weakened(ghosts, hidden),
        double_bounced(straight, seen.own, draws),
        sidelobes(straight, seen.own, draws),
        _ground(seen, drive, link, draws),
        _rain(drive.conditions.rain, link, draws),
        _false_alarms(drive.config.radar_range, draws),
    )


def _weakened(echoes: Echoes, loss: FloatArray) -> Echoes:
    level = echoes.level - loss
    weaker = Echoes(echoes.sweep, echoes.body, echoes.points, echoes.velocity, level, echoes.cause)
    return weaker.picked(np.flatnonzero(level > THRESHOLD))


def _scattering_centres(
    drive: Drive, seen: View, draws: Draws
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray, FloatArray, FloatArray]:
    """Where bodies reflect: sweep (P,), body (P,), place (P, 2), mean cross-section (P,) dBsm, velocity (P, 2).

    A centre lies on or a little behind a face that looks at the sensor, anew in every sweep: at 4 mm wavelength another
    part of the body shines after the smallest motion.
    """
    nature = drive.reflection
    # The sensor in each body's axes; a face looked at squarely shines.
    viewer = -turned(seen.xy, -seen.yaw)
    cosine = np.abs(viewer) / np.maximum(np.hypot(viewer[:, 0], viewer[:, 1]), 0.1)[:, None]
    squarely = (cosine.max(axis=1) - np.sqrt(0.5)) / (1 - np.sqrt(0.5))
    rcs = nature.rcs[seen.body] - nature.corner[seen.body] * (1 - squarely)

    row = np.repeat(np.arange(len(seen.body)), nature.centres[seen.body])
    sweep, body = seen.sweep[row], seen.body[row]
    u, half = draws.uniform(sweep, 3), drive.sizes[body, :2] / 2
    width = np.where(np.abs(viewer[row]) > half, cosine[row] * half[:, ::-1], 0.0)
    on_x_face = u[:, 0] * np.maximum(width.sum(axis=1), 1e-9) < width[:, 0]
    inward = np.maximum(half + 0.12 * np.log(1 - u[:, 2:3]), 0) * np.sign(viewer[row])
    along = (2 * u[:, 1:2] - 1) * 0.95 * half
    local = np.where(np.stack([on_x_face, ~on_x_face], axis=1), inward, along)
    return sweep, body, turned(local, seen.yaw[row]) + seen.xy[row], rcs[row], seen.velocity[row]


def _echoes(
    sweep: NDArray[np.int64], body: NDArray[np.int64], points: FloatArray, rcs: FloatArray, velocity: FloatArray,
    link: Link, draws: Draws,
) -> Echoes:  # fmt: skip
    """What of reflectors is noticed where nothing hides them."""
    u = draws.uniform(sweep, 2)
    level = received(link.signal(sweep, points, rcs) + ground_bounce(u[:, 0]), u[:, 1])
    noticed = np.flatnonzero(level > THRESHOLD)
    echoes = Echoes(sweep, body, points, velocity, level, np.full(len(sweep), DIRECT))
    return echoes.picked(noticed)


def _ground(seen: View, drive: Drive, link: Link, draws: Draws) -> Echoes:
    """Small things at rest on the ground, evenly over the area."""
    sweep = draws.poisson(_GROUND)
    u = draws.uniform(sweep, 2)
    points = _placed(_GROUND_RANGE * np.sqrt(u[:, 0]), u[:, 1])
    mean, spread = _GROUND_RCS
    rcs = mean + spread * draws.normal(sweep, 1)[:, 0]
    nobody = np.full(len(sweep), -1)
    echoes = _echoes(sweep, nobody, points, rcs, np.zeros_like(points), link, draws)
    shadow = drive.reflection.shadow
    hidden = shadow_loss(seen, drive.sizes, shadow, sweep=echoes.sweep, points=echoes.points, body=echoes.body)
    return _weakened(echoes, hidden)


def _rain(rain: float, link: Link, draws: Draws) -> Echoes:
    """Drops near the sensor: weak, falling, blown."""
    sweep = draws.poisson(_RAIN_ECHOES * rain)
    u = draws.uniform(sweep, 2)
    points = _placed(-_RAIN_RANGE * np.log1p(-u[:, 0]), u[:, 1])
    velocity = 1.5 * draws.normal(sweep, 2)
    covered = link.signal(sweep, points, 0.0) - Link(0.0, np.zeros_like(link.blocked)).signal(sweep, points, 0.0)
    level = THRESHOLD + 1.0 + covered
    echoes = Echoes(sweep, np.full(len(sweep), -1), points, velocity, level, np.full(len(sweep), RAIN))
    return echoes.picked(np.flatnonzero(level > THRESHOLD))


def _false_alarms(longest: float, draws: Draws) -> Echoes:
    """Noise that passes the threshold: anywhere, at any speed."""
    sweep = draws.poisson(_FALSE_ALARMS)
    u = draws.uniform(sweep, 3)
    points, nobody = _placed(longest * u[:, 0], u[:, 1]), np.full(len(sweep), -1)
    sight = points / np.maximum(np.hypot(points[:, 0], points[:, 1]), 1e-6)[:, None]
    velocity = 30.0 * (2 * u[:, 2:] - 1) * sight
    return Echoes(sweep, nobody, points, velocity, np.full(len(sweep), THRESHOLD), np.full(len(sweep), FALSE))


def _placed(distance: FloatArray, uniform: FloatArray) -> FloatArray:
    """(P, 2) points at distances, evenly over the view."""
    bearing = HALF_VIEW * (2 * uniform - 1)
    return np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], axis=1)


def _reported(echoes: Echoes, longest: float) -> Echoes:
    """Those in view and in range, of each sweep the ``_MOST`` strongest; ordered by sweep, then strength."""
    distance, bearing = polar(echoes.points)
    echoes = echoes.picked(np.flatnonzero((np.abs(bearing) < HALF_VIEW) & (distance < longest) & (distance > 0.5)))
    echoes = echoes.picked(np.lexsort((-echoes.level, echoes.sweep)))
    rank = np.arange(len(echoes.sweep)) - np.searchsorted(echoes.sweep, echoes.sweep)
    return echoes.picked(np.flatnonzero(rank < _MOST))
