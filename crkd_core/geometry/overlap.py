"""Which of many rectangles on the ground touch each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.types import FloatArray


def overlapping_pairs(
    xy: FloatArray, yaw: FloatArray, half: FloatArray, subset: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Pairs (P, 2), i < j, of rectangles that share some area (separating-axis test).

    Args:
        xy: (N, 2) middles, m.
        yaw: (N,), rad.
        half: (N, 2) half length and half width, m.
        subset: only pairs with at least one of these.
    """
    radius = np.hypot(half[:, 0], half[:, 1])
    rows = np.arange(len(xy)) if subset is None else subset
    squares = sum((xy[None, :, axis] - xy[rows, None, axis]) ** 2 for axis in (0, 1))
    i, j = np.nonzero(squares < (radius[rows, None] + radius[None]) ** 2)
    i = rows[i]
    i, j = np.minimum(i, j)[i != j], np.maximum(i, j)[i != j]
    i, j = np.unique(np.stack([i, j]), axis=1)
    delta, turn = xy[j] - xy[i], yaw[j] - yaw[i]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    apart = np.zeros(len(i), dtype=bool)
    for a, b in ((i, j), (j, i)):
        c, s = np.cos(yaw[a]), np.sin(yaw[a])
        along, across = np.abs(delta[:, 0] * c + delta[:, 1] * s), np.abs(delta[:, 1] * c - delta[:, 0] * s)
        apart |= along > half[a, 0] + half[b, 0] * cos + half[b, 1] * sin
        apart |= across > half[a, 1] + half[b, 0] * sin + half[b, 1] * cos
    return np.stack([i[~apart], j[~apart]], axis=1)


def drop_later(keep: NDArray[np.bool_], pairs: NDArray[np.int64], fixed: int) -> None:
    """Of every pair of kept rectangles clear ``keep`` of the later, in place; the first ``fixed`` always stay."""
    for i, j in pairs.tolist():
        if keep[i] and j >= fixed:
            keep[j] = False
