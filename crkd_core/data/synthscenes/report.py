"""What a radar reports of its echoes: noisy places, Doppler, cross-sections, and the codes of its own filter.

Codes and their meanings are those of nuScenes. How often the sensor gives which, and on what that depends, follows the
radar files of nuScenes' published sample keyframes: ``invalid_state`` decides ``pdh0`` almost alone; a weak return is
marked by strength and range, a return beside a stronger one of the same body by their distance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.echoes import ALIASED, DOUBLE, FALSE, HALF_VIEW, MIRRORED, RAIN, Draws, Echoes, polar
from crkd_core.data.synthscenes.link import FAR_BEAM
from crkd_core.types import RADAR_DTYPE, FloatArray

# dyn_prop
_MOVING, _STATIONARY, _ONCOMING, _CANDIDATE, _UNKNOWN, _CROSSING_STATIONARY, _CROSSING_MOVING = range(7)
# invalid_state; all but 3, 6 and 7 are "valid cluster, but ..."
_VALID, _UNCONFIRMED, _LOW_RCS, _MIRROR, _OUT_OF_VIEW = 0, 3, 4, 6, 7
_CHILD, _ARTEFACT_50_DEG, _NO_MAXIMUM, _ABOVE_95_M, _MULTI_TARGET = 9, 10, 11, 15, 16
_REJECTED = (_UNCONFIRMED, _MIRROR, _OUT_OF_VIEW)
_FALSE_ALARM_CODE = np.full(18, 3)  # pdh0 by invalid_state: 1 below 25 %, 3 below 75 %, 6 below 99.9 %
_FALSE_ALARM_CODE[[_VALID, _ABOVE_95_M, _MULTI_TARGET]] = 1
_FALSE_ALARM_CODE[list(_REJECTED)] = 6
_GHOSTS_FOUND = 0.3  # share of multipath ghosts that the sensor's own filter recognises
_RCS_STEP = 0.5  # dBsm
_RANGE_NOISE, _DOPPLER_NOISE = 0.12, 0.08  # m, m/s


def reports(echoes: Echoes, own: FloatArray, draws: Draws) -> NDArray[np.void]:
    """(P,) structured array of ``RADAR_DTYPE``, ``id`` left 0.

    Args:
        echoes: ordered by sweep.
        own: (K, 2) velocity of each sensor over ground, sensor axes.
        draws: random numbers.
    """
    u, g = draws.uniform(echoes.sweep, 7), draws.normal(echoes.sweep, 3)
    distance, bearing = polar(echoes.points)
    distance = np.maximum(distance + _RANGE_NOISE * g[:, 0], 0.2)
    # Data sheet of the ARS 408-21: 0.3 degrees ahead, 1 at 45 degrees, more at the edges.
    bearing = bearing + np.deg2rad(0.3 + 0.9 * np.abs(bearing) / HALF_VIEW) * g[:, 1]
    sight = np.stack([np.cos(bearing), np.sin(bearing)], axis=1)
    radial = (echoes.velocity * sight).sum(axis=1) + _DOPPLER_NOISE * g[:, 2]
    relative = radial - (own[echoes.sweep] * sight).sum(axis=1)
    rcs = np.rint((echoes.level - echoes.unit) / _RCS_STEP) * _RCS_STEP
    state = _invalid_state(echoes, rcs, u[:, 0])
    records = np.zeros(len(u), dtype=RADAR_DTYPE)
    records["x"], records["y"] = (distance[:, None] * sight).T
    records["rcs"] = rcs
    records["vx"], records["vy"] = (relative[:, None] * sight).T
    records["vx_comp"], records["vy_comp"] = (radial[:, None] * sight).T
    records["is_quality_valid"] = 1
    records["invalid_state"] = state
    records["pdh0"] = _FALSE_ALARM_CODE[state]
    records["dyn_prop"] = np.where(state == _OUT_OF_VIEW, _UNKNOWN, _dyn_prop(echoes, radial, u[:, 1]))
    rejected = np.isin(state, _REJECTED)
    # One return in ten at rest and three in ten in motion have an ambiguous Doppler (1) or are being resolved (2).
    ambiguous = u[:, 2] < np.where(np.abs(radial) > 1, 0.3, 0.1)
    records["ambig_state"] = np.where(rejected, 0, np.where(ambiguous, np.where(u[:, 3] < 0.72, 1, 2), 3))
    records["x_rms"] = _accuracy(19, 0.1 + distance / 120, 0.45, u[:, 4])
    records["y_rms"] = _accuracy(19, 0.05 + distance / 80, 0.45, u[:, 5])
    records["vx_rms"], records["vy_rms"] = _accuracy(16, np.full_like(distance, 0.34), 0.25, u[:, 6]), 3
    for name in ("x_rms", "y_rms", "vx_rms", "vy_rms"):
        records[name][state == _OUT_OF_VIEW] = 0
    return records


def _accuracy(finest: int, coarser: FloatArray, further: float, u: FloatArray) -> NDArray[np.int64]:
    """Code of the sensor's own accuracy estimate: ``finest``, with the probability ``coarser`` at least one more."""
    steps = 1 + np.floor(np.log(np.maximum(u, 1e-9) / np.minimum(coarser, 0.97)) / np.log(further))
    return np.asarray(finest + np.clip(steps, 0, 4), dtype=np.int64)


def _dyn_prop(echoes: Echoes, radial: FloatArray, u: FloatArray) -> NDArray[np.int64]:
    """How the sensor classes each return's motion; one in seven at rest is taken for moving."""
    speed = np.hypot(echoes.velocity[:, 0], echoes.velocity[:, 1])
    still = np.select(
        [u < 0.56, u < 0.83, u < 0.92, u < 0.97], [_STATIONARY, _CANDIDATE, _MOVING, _ONCOMING], _CROSSING_MOVING
    )
    along = np.where(u < 0.92, np.where(radial > 0, _MOVING, _ONCOMING), _CANDIDATE)
    crossing = (speed > 0.5) & (np.abs(radial) < 0.35 * speed)
    return np.where(
        crossing,
        np.where(u < 0.8, _CROSSING_MOVING, _CROSSING_STATIONARY),
        np.where(np.abs(radial) > 0.5, along, still),
    )


def _invalid_state(echoes: Echoes, rcs: FloatArray, u: FloatArray) -> NDArray[np.int64]:
    """The verdict of the sensor's own filter; of several reasons the first in this order."""
    distance, bearing = polar(echoes.points)
    bearing = np.abs(bearing)
    gap = _to_stronger(echoes)
    ghost = (echoes.cause == MIRRORED) | (echoes.cause == DOUBLE)
    stray = (echoes.cause == FALSE) | (echoes.cause == RAIN)
    weak = np.select([distance > 40, distance > 20], [0.7, 0.35], 0.02)
    return np.select(
        [
            echoes.cause == ALIASED,
            ghost & (u < _GHOSTS_FOUND),
            stray & (bearing < FAR_BEAM) & (distance < 50),
            (rcs < 0) & (u < weak) | stray,
            (distance > 95) & (bearing > FAR_BEAM),
            np.abs(bearing - np.deg2rad(50)) < np.deg2rad(1),
            (bearing < FAR_BEAM) & (distance < 50) & (u > 0.92),
            (gap < 1.6) & (u < 0.75),
            (gap < 4.0) & (u < 0.35),
            u > 0.94,
        ],
        [
            _OUT_OF_VIEW, _MIRROR, _UNCONFIRMED, _LOW_RCS, _ABOVE_95_M, _ARTEFACT_50_DEG, _UNCONFIRMED, _NO_MAXIMUM,
            _CHILD, _MULTI_TARGET,
        ],
        _VALID,
    )  # fmt: skip


def _to_stronger(echoes: Echoes) -> FloatArray:
    """(P,) m from each echo of a body to its strongest that came the same way in that sweep; infinite for that one."""
    rows = np.flatnonzero((echoes.body >= 0) & (echoes.cause != ALIASED))
    key = (echoes.sweep * (echoes.body.max(initial=0) + 1) + echoes.body)[rows] * (RAIN + 1)
    key += echoes.cause[rows]
    order = np.lexsort((-echoes.level[rows], key))
    key, rows = key[order], rows[order]
    first = np.searchsorted(key, key)
    gap = np.hypot(*(echoes.points[rows] - echoes.points[rows[first]]).T)
    gap[first == np.arange(len(key))] = np.inf
    out = np.full(len(echoes.sweep), np.inf)
    out[rows] = gap
    return out
