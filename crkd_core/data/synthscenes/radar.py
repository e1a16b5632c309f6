"""Automotive radars: a few noisy echoes per visible body, Doppler, radar cross-section, ghosts, clutter.

Sweeps are simulated in batches, because a frame has dozens of them; each draws its randomness from its own stamp, so
that a sweep is the same in whatever batch it comes. Each echo goes the same way: a mean cross-section, the radar
equation (``link.py``), a fluctuation, what stands in the way (``shadows.py``), what comes by a detour
(``multipath.py``), and what the sensor makes of it (``report.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crkd_core.data.synthscenes.clutter import false_alarms, rain_echoes, small_targets
from crkd_core.data.synthscenes.config import RadarMount, radar_mounting
from crkd_core.data.synthscenes.echoes import DIRECT, HALF_VIEW, Draws, Echoes, Targets, View, polar, turned, view
from crkd_core.data.synthscenes.link import Link, ground_bounce, make_link, received, reportable, unit_signal
from crkd_core.data.synthscenes.multipath import aliased, double_bounced, mirrored, mirrors
from crkd_core.data.synthscenes.report import reports
from crkd_core.data.synthscenes.shadows import blockers, shadow_loss
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import FloatArray, RadarSweep

_MOST = 125  # returns of one sweep at most, the strongest; so many the sensors of nuScenes report


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
    if not scans:
        return []
    track = drive.ego_track([stamp for _, stamp in scans])
    seen = view(drive, scans, track, drive.states_at([stamp for _, stamp in scans]))
    draws, link = Draws.of(drive, scans), make_link(drive, scans)
    echoes = _reported(_all_echoes(drive, seen, link, draws), drive.config.radar_range)
    records = reports(echoes, seen.own, draws)
    order = np.lexsort((np.hypot(records["x"], records["y"]), echoes.sweep))
    bounds = np.searchsorted(echoes.sweep, np.arange(len(scans) + 1))
    mounting = {mount.name: radar_mounting(mount) for mount in drive.config.radars}
    out = []
    for k, (mount, stamp) in enumerate(scans):
        points = records[order[bounds[k] : bounds[k + 1]]]
        points["id"] = np.arange(len(points))
        out.append(RadarSweep(points, mounting[mount.name], track.pose(k), stamp))
    return out


def _all_echoes(drive: Drive, seen: View, link: Link, draws: Draws) -> Echoes:
    """Everything above the threshold, in no order."""
    nature, sizes = drive.reflection, drive.sizes
    straight = _echoes(_scattering_centres(drive, seen, draws), link, draws)
    straight = straight.joined(_echoes(small_targets(drive, seen), link, draws))
    straight = straight.picked(np.argsort(straight.sweep, kind="stable"))
    boxes = blockers(seen, sizes, nature.shadow)
    hidden = shadow_loss(boxes, sweep=straight.sweep, points=straight.points, body=straight.body)
    straight = _weakened(straight, hidden)
    ghosts, turn, wall = mirrored(straight, mirrors(seen, sizes, nature.mirror), link, draws)
    hidden = shadow_loss(boxes, sweep=ghosts.sweep, points=turn, body=wall)
    return straight.joined(
        _weakened(ghosts, hidden),
        double_bounced(straight, nature.far_field > 0, link, seen.own, draws),
        aliased(straight, seen.own, draws),
        rain_echoes(drive.conditions.rain, link, draws),
        false_alarms(drive.config.radar_range, draws),
    )


def _weakened(echoes: Echoes, loss: FloatArray) -> Echoes:
    return reportable(replace(echoes, level=echoes.level - loss))


def _scattering_centres(drive: Drive, seen: View, draws: Draws) -> Targets:
    """Where bodies reflect.

    A centre lies on or a little behind a face that looks at the sensor, anew in every sweep: at 4 mm wavelength another
    part of the body shines after the smallest motion.
    """
    nature, half = drive.reflection, drive.sizes[seen.body, :2] / 2
    # The sensor in each body's axes; a face looked at squarely shines.
    viewer = -turned(seen.xy, -seen.yaw)
    cosine = np.abs(viewer) / np.maximum(np.hypot(viewer[:, 0], viewer[:, 1]), 0.1)[:, None]
    squarely = (cosine.max(axis=1) - np.sqrt(0.5)) / (1 - np.sqrt(0.5))
    rcs = nature.rcs[seen.body] - nature.corner[seen.body] * (1 - squarely)
    width = np.where(np.abs(viewer) > half, cosine * half[:, ::-1], 0.0)
    share = width[:, 0] / np.maximum(width.sum(axis=1), 1e-9)  # of the face across the body's x axis
    side, c, s = np.sign(viewer), np.cos(seen.yaw), np.sin(seen.yaw)

    row = np.repeat(np.arange(len(seen.body)), nature.centres[seen.body])
    sweep, body = seen.sweep[row], seen.body[row]
    face, along, depth = draws.uniform(sweep, 3).T
    on_x_face, along, depth = face < share[row], 0.95 * (2 * along - 1), 0.12 * np.log1p(-depth)
    (half_x, half_y), (side_x, side_y) = half[row].T, side[row].T
    x = np.where(on_x_face, np.maximum(half_x + depth, 0) * side_x, along * half_x)
    y = np.where(on_x_face, along * half_y, np.maximum(half_y + depth, 0) * side_y)
    c, s = c[row], s[row]
    points = np.stack([seen.xy[row, 0] + x * c - y * s, seen.xy[row, 1] + x * s + y * c], axis=1)
    near = 10 * np.log10(1 + nature.far_field[body] ** 2 / np.maximum((points**2).sum(axis=1), 1.0))
    return Targets(sweep, body, points, seen.velocity[row], rcs[row] - near)


def _echoes(targets: Targets, link: Link, draws: Draws) -> Echoes:
    """What of targets would be reported where nothing hides them."""
    u, unit = draws.uniform(targets.sweep, 2), unit_signal(targets.points)
    signal = link.signal(targets.sweep, targets.points, targets.rcs, unit) + ground_bounce(u[:, 0])
    level, cause = received(signal, u[:, 1]), np.full(len(unit), DIRECT)
    return reportable(Echoes(targets.sweep, targets.body, targets.points, targets.velocity, level, unit, cause))


def _reported(echoes: Echoes, longest: float) -> Echoes:
    """Those in view and in range, of each sweep the ``_MOST`` strongest; ordered by sweep, then strength."""
    distance, bearing = polar(echoes.points)
    inside = (np.abs(bearing) < HALF_VIEW) & (distance < longest) & (distance > 0.5)
    echoes = echoes.picked(np.flatnonzero(inside))
    echoes = echoes.picked(np.lexsort((-echoes.level, echoes.sweep)))
    rank = np.arange(len(echoes.sweep)) - np.searchsorted(echoes.sweep, echoes.sweep)
    return echoes.picked(np.flatnonzero(rank < _MOST))
