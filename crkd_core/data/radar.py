"""CRKD's 45 radar features: every return of the last sweeps, moved to the BEV frame at the reference stamp."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import RADAR_DTYPE, FloatArray, RadarSweep, SensorFrame

RADAR_ORDER = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
"""Radars of these names come first and in this order; others follow in the order of the frame."""

DYN_PROP_STATES = 8
AMBIG_STATES = 5
INVALID_STATES = 18
PDH0_LEVELS = 7

RADAR_FEATURES: tuple[str, ...] = (
    "x",
    "y",
    "z",
    "rcs",
    "vx_comp",
    "vy_comp",
    "dt",
    *(f"dyn_prop_is_{i}" for i in range(DYN_PROP_STATES)),
    *(f"ambig_state_is_{i}" for i in range(AMBIG_STATES)),
    *(f"invalid_state_is_{i}" for i in range(INVALID_STATES)),
    *(f"pdh0_above_{i}" for i in range(PDH0_LEVELS)),
)
"""Names of the feature columns: x, y, z in m and vx_comp, vy_comp in m/s along the axes of the BEV frame, rcs in dBsm,
dt the age in s relative to the newest sweep of the same radar (>= 0); one-hot states; the ordinal false-alarm level."""

FEATURE_INDEX: dict[str, int] = {name: i for i, name in enumerate(RADAR_FEATURES)}
"""Feature name -> column."""

_STATES = {"dyn_prop": DYN_PROP_STATES, "ambig_state": AMBIG_STATES, "invalid_state": INVALID_STATES}
_STATE_OF_COLUMN = np.repeat(np.arange(len(_STATES)), list(_STATES.values()))
_VALUE_OF_COLUMN = np.concatenate([np.arange(count) for count in _STATES.values()]).astype(np.int8)
_LEVELS = np.arange(PDH0_LEVELS, dtype=np.int8)

MARGIN = 1.0
"""Returns up to this far outside the BEV grid are kept, m (the original keeps 55 m of a 54 m grid)."""


def radar_features(frame: SensorFrame, *, sweeps: int, repeat_oldest: bool = False) -> NDArray[np.float32]:
    """Features of all radar returns of a frame.

    Args:
        frame: radars in the sensor frame, each sweep with its own stamp and vehicle pose.
        sweeps: newest sweeps per radar that are used.
        repeat_oldest: a radar with fewer has its oldest one repeated until there are as many, with the same age.

    Returns:
        (P, 45) float32, columns as in ``RADAR_FEATURES``, BEV frame at ``frame.stamp``; radar by radar, newest sweep
        first. A return is moved by the vehicle's own motion and by its measured velocity times its age; it is not
        filtered by state or range.
    """
    T_bev_from_world = inverse(frame.T_world_from_base @ frame.T_base_from_bev)
    used = used_sweeps(frame, sweeps, repeat_oldest=repeat_oldest)
    return _joined_features(
        [sweep.points for sweep, _ in used],
        [T_bev_from_world @ sweep.T_world_from_base @ sweep.T_base_from_radar for sweep, _ in used],
        [age for _, age in used],
    )


def used_sweeps(frame: SensorFrame, count: int, *, repeat_oldest: bool = False) -> list[tuple[RadarSweep, float]]:
    """The sweeps that a model reads, radar by radar in ``RADAR_ORDER``, newest first, each with its age.

    Args:
        frame: its radars.
        count: newest sweeps per radar.
        repeat_oldest: as for ``radar_features``.

    Returns:
        Sweeps and seconds since each, relative to the newest sweep of the same radar.
    """
    found = []
    for name in ordered(tuple(frame.radars), RADAR_ORDER):
        used = frame.radars[name][:count]
        if repeat_oldest:
            used = used + used[-1:] * (count - len(used))
        found += [(sweep, 1e-9 * (used[0].stamp - sweep.stamp)) for sweep in used]
    return found


def sweep_features(points: NDArray[np.void], T_bev_from_radar: FloatArray, age: float) -> NDArray[np.float32]:
    """Features of the returns of one sweep.

    Args:
        points: (N,) structured array of ``RADAR_DTYPE``, sensor frame at the sweep's stamp.
        T_bev_from_radar: (4, 4), from that frame to the BEV frame at the reference stamp.
        age: time since the sweep, s; a return is moved by its compensated velocity times this.

    Returns:
        (N, 45) float32.

    Raises:
        ValueError: ``points`` is not of ``RADAR_DTYPE``.
    """
    return _joined_features([points], [T_bev_from_radar], [age])


def within_range(
    features: NDArray[np.float32], x_range: tuple[float, float], y_range: tuple[float, float]
) -> NDArray[np.bool_]:
    """(P,) whether each return lies strictly within the ranges (m) widened by ``MARGIN``, at any height."""
    x, y = features[:, FEATURE_INDEX["x"]], features[:, FEATURE_INDEX["y"]]
    inside = (x > x_range[0] - MARGIN) & (x < x_range[1] + MARGIN)
    return np.asarray(inside & (y > y_range[0] - MARGIN) & (y < y_range[1] + MARGIN))


def ordered(names: tuple[str, ...], preferred: tuple[str, ...]) -> list[str]:
    """``names`` with those of ``preferred`` first, in its order."""
    return [n for n in preferred if n in names] + [n for n in names if n not in preferred]


def _joined_features(
    sweeps: list[NDArray[np.void]], T_bev_from_radar: list[FloatArray], ages: list[float]
) -> NDArray[np.float32]:
    """``sweep_features`` of several sweeps, one after the other: most is done for all returns at once."""
    points, counts = _joined(sweeps), [len(sweep) for sweep in sweeps]
    xyz = np.stack([points[name] for name in ("x", "y", "z")], axis=1).astype(np.float64)
    velocity = np.stack([points[name] for name in ("vx_comp", "vy_comp")], axis=1).astype(np.float64)
    first = 0
    for count, T in zip(counts, T_bev_from_radar, strict=True):
        rows = slice(first, first + count)
        xyz[rows] = apply(T, xyz[rows])
        velocity[rows] = velocity[rows] @ T[:2, :2].T
        first += count
    age = np.repeat(np.array(ages, dtype=np.float64), counts)
    xyz[:, :2] += velocity * age[:, None]
    features = np.empty((len(points), len(RADAR_FEATURES)), dtype=np.float32)
    features[:, 0:3] = xyz
    features[:, 3] = points["rcs"]
    features[:, 4:6] = velocity
    features[:, 6] = age
    states = np.stack([points[name] for name in _STATES], axis=1)
    first_level = len(RADAR_FEATURES) - PDH0_LEVELS
    # A state outside its range is a row of zeros.
    np.equal(states.take(_STATE_OF_COLUMN, axis=1), _VALUE_OF_COLUMN, out=features[:, 7:first_level])
    np.greater(points["pdh0"][:, None], _LEVELS, out=features[:, first_level:])
    return features


def _joined(sweeps: list[NDArray[np.void]]) -> NDArray[np.void]:
    """The returns of all sweeps; NumPy joins bytes many times faster than records."""
    for points in sweeps:
        if points.dtype != RADAR_DTYPE:
            raise ValueError(f"radar points: expected dtype RADAR_DTYPE, got {points.dtype}")
    rows = [np.ascontiguousarray(points).view(np.uint8) for points in sweeps]
    joined: NDArray[np.void] = np.concatenate([np.zeros(0, dtype=np.uint8), *rows]).view(RADAR_DTYPE)
    return joined
