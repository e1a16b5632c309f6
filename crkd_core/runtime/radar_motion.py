"""Radar velocities over ground, where the radar measured them relative to itself only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.types import FloatArray

SPAN = 50 * MILLISECOND
"""The vehicle's velocity is that over this time before a sweep, ns: several periods of any source of poses."""


def is_relative(points: NDArray[np.void]) -> bool:
    """Whether ``vx_comp, vy_comp`` of a sweep, (N,) of ``RADAR_DTYPE``, wait for ``compensated`` (they are NaN)."""
    return len(points) > 0 and bool(np.isnan(points["vx_comp"][0]))


def compensated(
    points: NDArray[np.void],
    T_base_from_radar: FloatArray,
    *,
    T_world_from_base: FloatArray,
    T_world_from_base_before: FloatArray,
) -> NDArray[np.void]:
    """A copy of a sweep with ``vx_comp, vy_comp`` set: what is measured along the line of sight, own motion removed.

    Args:
        points: (N,) ``RADAR_DTYPE``, sensor frame.
        T_base_from_radar: (4, 4), mounting.
        T_world_from_base: (4, 4), vehicle pose at the stamp of the sweep.
        T_world_from_base_before: (4, 4), vehicle pose ``SPAN`` earlier.
    """
    T_world_from_radar = T_world_from_base @ T_base_from_radar
    moved = T_world_from_radar[:3, 3] - (T_world_from_base_before @ T_base_from_radar)[:3, 3]
    own = T_world_from_radar[:3, :3].T @ moved * (SECOND / SPAN)  # m/s, sensor axes
    sight = np.stack([points["x"], points["y"]], axis=1).astype(np.float64)
    sight /= np.maximum(np.hypot(sight[:, 0], sight[:, 1]), 1e-6)[:, None]
    relative = np.stack([points["vx"], points["vy"]], axis=1).astype(np.float64)
    radial = ((relative + own[:2]) * sight).sum(axis=1)
    out = points.copy()
    out["vx_comp"], out["vy_comp"] = (radial[:, None] * sight).T
    return out
