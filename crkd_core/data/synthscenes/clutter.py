"""Radar echoes of nothing that is annotated or drawn: small things along the road, rain, noise."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.echoes import FALSE, HALF_VIEW, RAIN, Draws, Echoes, Targets, View
from crkd_core.data.synthscenes.link import LEAST_RCS, THRESHOLD, Link, reportable, unit_signal
from crkd_core.data.synthscenes.traffic import EGO
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import FloatArray

# Kerbs, gratings, fences, signs, shrubs: so many per metre of road, at rest, of these cross-sections (dBsm, mean and
# spread). Chosen so that a sweep has as many returns as those of nuScenes.
_PER_METRE = 3.0
_SMALL_RCS = (4.0, 6.0)
_AT_KERB = 0.5  # share of them; the others lie beyond the sidewalk, this far on average
_DEPTH = 8.0  # m
_FALSE_ALARMS = 2.0  # mean number per sweep of noise above the threshold; most of it is too weak to report
_RAIN_ECHOES = 0.06  # mean number per sweep and mm/h; they thin out within a few metres
_RAIN_RANGE = 5.0  # m, mean


def small_reflectors(drive: Drive) -> FloatArray:
    """(M, 3) places, world, m, and mean radar cross-section, dBsm, of small things that stay where they are."""
    if "small_reflectors" not in drive.scratch:
        rng = np.random.default_rng([drive.seed, 103])
        longest = drive.config.radar_range
        first, last = -longest, drive.profiles.covered_by(EGO, drive.duration_s) + longest
        count = rng.poisson(_PER_METRE * (last - first))
        side = rng.choice([-1, 1], count)
        edge = np.where(side < 0, drive.layout.walk_edge(-1), drive.layout.walk_edge(1))
        kerb = rng.random(count) < _AT_KERB
        depth = drive.layout.walk_width + rng.exponential(_DEPTH, count)
        place = drive.road.place(rng.uniform(first, last, count), side * (edge + np.where(kerb, 0.0, depth)))
        rcs = rng.normal(*_SMALL_RCS, count)
        drive.scratch["small_reflectors"] = np.concatenate([place.xy, rcs[:, None]], axis=1)
    return cast("FloatArray", drive.scratch["small_reflectors"])


def small_targets(drive: Drive, seen: View) -> Targets:
    """The small things that each sweep has in view."""
    things, reach = small_reflectors(drive), drive.config.radar_range
    # Only to save time: what no sensor of the batch can reach.
    middle = seen.origin.mean(axis=0)
    spread = np.hypot(*(seen.origin - middle).T).max()
    things = things[((things[:, :2] - middle) ** 2).sum(axis=1) < (reach + spread) ** 2]
    c, s = np.cos(seen.heading)[:, None], np.sin(seen.heading)[:, None]
    dx, dy = things[:, 0] - seen.origin[:, :1], things[:, 1] - seen.origin[:, 1:]
    x, y = dx * c + dy * s, dy * c - dx * s
    inside = (x > 0) & (np.abs(y) < np.tan(HALF_VIEW) * x) & (x * x + y * y < reach * reach)
    sweep, thing = np.nonzero(inside)
    points = np.stack([x[inside], y[inside]], axis=1)
    return Targets(sweep, _nobody(sweep), points, np.zeros_like(points), things[thing, 2])


def rain_echoes(rain: float, link: Link, draws: Draws) -> Echoes:
    """Splashes and drops near the sensor at ``rain`` mm/h: weak, falling, blown."""
    sweep = draws.poisson(_RAIN_ECHOES * rain)
    u = draws.uniform(sweep, 3)
    points = _placed(0.5 - _RAIN_RANGE * np.log1p(-u[:, 0]), u[:, 1])
    velocity = 1.5 * draws.normal(sweep, 2)
    unit = unit_signal(points)
    level = link.signal(sweep, points, LEAST_RCS - 2 * np.log1p(-u[:, 2]), unit)
    return reportable(Echoes(sweep, _nobody(sweep), points, velocity, level, unit, np.full(len(sweep), RAIN)))


def false_alarms(longest: float, draws: Draws) -> Echoes:
    """Noise that passes the threshold: anywhere up to ``longest`` m, at any speed."""
    sweep = draws.poisson(_FALSE_ALARMS)
    u = draws.uniform(sweep, 3)
    points = _placed(longest * u[:, 0], u[:, 1])
    sight = points / np.maximum(np.hypot(points[:, 0], points[:, 1]), 1e-6)[:, None]
    velocity = 30.0 * (2 * u[:, 2:] - 1) * sight
    level, cause = np.full(len(sweep), THRESHOLD + 0.1), np.full(len(sweep), FALSE)
    return reportable(Echoes(sweep, _nobody(sweep), points, velocity, level, unit_signal(points), cause))


def _nobody(sweep: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.full(len(sweep), -1)


def _placed(distance: FloatArray, uniform: FloatArray) -> FloatArray:
    """(P, 2) points at distances, evenly over the view."""
    bearing = HALF_VIEW * (2 * uniform - 1)
    return np.stack([distance * np.cos(bearing), distance * np.sin(bearing)], axis=1)
