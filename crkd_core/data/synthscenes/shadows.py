"""Which bodies stand between a radar and what it looks at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.echoes import View, pairs
from crkd_core.data.synthscenes.projection import bearings
from crkd_core.types import FloatArray

_SWEEP = 16.0  # rad between the bearings of one sweep and of the next, when all are put on one line
_CARE = 1e-6  # rad; candidates are found a little generously, the exact test follows
_SKIN = 0.2  # m; what enters a body less than this before the point does not hide it


@dataclass(frozen=True)
class Blockers:
    """B upright boxes that weaken what lies behind them, in K sweeps.

    Attributes:
        body: (B,) int64.
        axis: (B, 2) unit vector along each, sensor axes.
        along, across: (B,) middle of each along its own axes, m.
        half: (B, 2) half length and half width, m.
        loss: (B,) two-way, dB.
        nearest: (B,) no point of it is nearer to the sensor, m.
        first, last: (B,) bearings of its corners, shifted by ``_SWEEP`` for each sweep, rad.
    """

    body: NDArray[np.int64]
    axis: FloatArray
    along: FloatArray
    across: FloatArray
    half: FloatArray
    loss: FloatArray
    nearest: FloatArray
    first: FloatArray
    last: FloatArray


def blockers(view: View, sizes: FloatArray, shadow: FloatArray) -> Blockers:
    """The bodies in view that hide something.

    Args:
        view: the bodies.
        sizes: (N, 3) of all bodies, m.
        shadow: (N,) two-way loss behind each, dB; 0 hides nothing.
    """
    rows = np.flatnonzero(shadow[view.body] > 0)
    body, xy, yaw = view.body[rows], view.xy[rows], view.yaw[rows]
    half = sizes[body, :2] / 2
    middle, low, high = bearings(xy, yaw, half)
    axis = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    base = view.sweep[rows] * _SWEEP + middle
    return Blockers(
        body=body,
        axis=axis,
        along=xy[:, 0] * axis[:, 0] + xy[:, 1] * axis[:, 1],
        across=xy[:, 1] * axis[:, 0] - xy[:, 0] * axis[:, 1],
        half=half,
        loss=shadow[body],
        nearest=np.hypot(xy[:, 0], xy[:, 1]) - np.hypot(half[:, 0], half[:, 1]),
        first=base + low - _CARE,
        last=base + high + _CARE,
    )


def shadow_loss(
    boxes: Blockers, *, sweep: NDArray[np.int64], points: FloatArray, body: NDArray[np.int64]
) -> FloatArray:
    """(P,) two-way loss, dB, on the straight way from each sensor to points.

    Args:
        boxes: what may stand in the way.
        sweep: (P,) to which sweep each point belongs.
        points: (P, 2) sensor axes, m.
        body: (P,) the body that each point is on, which does not hide it; -1 for none.
    """
    distance = np.maximum(np.hypot(points[:, 0], points[:, 1]), 1e-6)
    line = sweep * _SWEEP + np.arctan2(points[:, 1], points[:, 0])
    order = np.argsort(line, kind="stable")
    line = line[order]
    box, place = pairs(np.searchsorted(line, boxes.first), np.searchsorted(line, boxes.last))
    point = order[place]
    before = np.flatnonzero((boxes.nearest[box] < distance[point]) & (boxes.body[box] != body[point]))
    box, point = box[before], point[before]
    away = distance[point]
    ux, uy, ax, ay = points[point, 0] / away, points[point, 1] / away, boxes.axis[box, 0], boxes.axis[box, 1]
    enter, leave = np.zeros(len(box)), np.full(len(box), np.inf)
    for side, (middle, towards) in enumerate(
        ((boxes.along[box], ux * ax + uy * ay), (boxes.across[box], uy * ax - ux * ay))
    ):
        safe = np.where(np.abs(towards) < 1e-9, 1e-9, towards)
        center, reach = middle / safe, np.abs(boxes.half[box, side] / safe)
        enter, leave = np.maximum(enter, center - reach), np.minimum(leave, center + reach)
    stops = np.flatnonzero((enter < leave) & (enter < away - _SKIN))
    lost = np.bincount(point[stops], weights=boxes.loss[box[stops]], minlength=len(points))
    return np.asarray(lost, dtype=np.float64)
