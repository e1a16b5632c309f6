"""Which bodies stand between a radar and what it looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.echoes import View, pairs
from crkd_core.data.synthscenes.projection import bearings
from crkd_core.types import FloatArray

_SWEEP = 16.0  # rad between the bearings of one sweep and of the next, when all are put on one line
_CARE = 1e-6  # rad; candidates are found a little generously, the exact test follows
_SKIN = 0.2  # m; what enters a body less than this before the point does not hide it


def shadow_loss(
    view: View,
    sizes: FloatArray,
    shadow: FloatArray,
    *,
    sweep: NDArray[np.int64],
    points: FloatArray,
    body: NDArray[np.int64],
) -> FloatArray:
    """(P,) two-way loss, dB, on the straight way from each sensor to points.

    Args:
        view: the bodies.
        sizes: (N, 3) of all bodies, m.
        shadow: (N,) loss behind each, dB; 0 hides nothing.
        sweep: (P,) to which sweep each point belongs.
        points: (P, 2) sensor axes, m.
        body: (P,) the body that each point is on, which does not hide it; -1 for none.
    """
    rows = np.flatnonzero(shadow[view.body] > 0)
    xy, yaw, half = view.xy[rows], view.yaw[rows], sizes[view.body[rows], :2] / 2
    middle, low, high = bearings(xy, yaw, half)
    line = sweep * _SWEEP + np.arctan2(points[:, 1], points[:, 0])
    order = np.argsort(line, kind="stable")
    base = view.sweep[rows] * _SWEEP + middle
    first = np.searchsorted(line[order], base + low - _CARE)
    last = np.searchsorted(line[order], base + high + _CARE)
    box, place = pairs(first, last)
    point = order[place]
    others = view.body[rows][box] != body[point]
    box, point = box[others], point[others]
    stops = _stopped(points[point], xy[box], yaw[box], half[box])
    return np.bincount(point[stops], weights=shadow[view.body[rows][box[stops]]], minlength=len(points))


def _stopped(points: FloatArray, xy: FloatArray, yaw: FloatArray, half: FloatArray) -> NDArray[np.bool_]:
    """(Q,) whether the way from the origin to each point leads through its rectangle."""
    distance = np.maximum(np.hypot(points[:, 0], points[:, 1]), 1e-6)
    ux, uy, c, s = points[:, 0] / distance, points[:, 1] / distance, np.cos(yaw), np.sin(yaw)
    enter, leave = np.full(len(points), -np.inf), np.full(len(points), np.inf)
    for axis, (ax, ay) in enumerate(((c, s), (-s, c))):
        along = ux * ax + uy * ay
        along = np.where(np.abs(along) < 1e-9, 1e-9, along)
        center = (xy[:, 0] * ax + xy[:, 1] * ay) / along
        reach = np.abs(half[:, axis] / along)
        enter, leave = np.maximum(enter, center - reach), np.minimum(leave, center + reach)
    return np.asarray((enter < leave) & (leave > 0) & (np.maximum(enter, 0) < distance - _SKIN))
