"""Which of many rectangles on the ground touch each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.types import FloatArray


def overlapping_pairs(xy: FloatArray, yaw: FloatArray, half: FloatArray) -> NDArray[np.int64]:
    """Pairs (P, 2), i < j, of rectangles that share some area (separating-axis test).

    Args:
        xy: (N, 2) middles, m.
        yaw: (N,), rad.
        half: (N, 2) half length and half width, m.
    """
    radius = np.hypot(half[:, 0], half[:, 1])
    offset = xy[None] - xy[:, None]
    close = (offset**2).sum(axis=2) < (radius[:, None] + radius[None]) ** 2
    i, j = np.nonzero(np.triu(close, k=1))
    delta, turn = offset[i, j], yaw[j] - yaw[i]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    apart = np.zeros(len(i), dtype=bool)
    for a, b in ((i, j), (j, i)):
        c, s = np.cos(yaw[a]), np.sin(yaw[a])
        along, across = np.abs(delta[:, 0] * c + delta[:, 1] * s), np.abs(delta[:, 1] * c - delta[:, 0] * s)
        apart |= along > half[a, 0] + half[b, 0] * cos + half[b, 1] * sin
        apart |= across > half[a, 1] + half[b, 0] * sin + half[b, 1] * cos
    return np.stack([i[~apart], j[~apart]], axis=1)


def first_of_overlapping(xy: FloatArray, yaw: FloatArray, half: FloatArray, fixed: int) -> NDArray[np.bool_]:
    """(N,) which rectangles stay when, of two that touch, the later goes; the first ``fixed`` always stay."""
    keep = np.ones(len(xy), dtype=bool)
    for i, j in overlapping_pairs(xy, yaw, half):
        if keep[i] and j >= fixed:
            keep[j] = False
    return keep
