"""Polygons in front of a camera: clipping, and which of many upright boxes hides which."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.types import FloatArray

NEAR = 0.2
"""Nothing nearer to the camera's plane than this is drawn, m."""


def clipped(polygon: FloatArray, side: float) -> FloatArray:
    """A convex polygon (n, 3) in camera coordinates cut to z >= NEAR, |x| <= side * z, |y| <= side * z.

    Returns:
        (m, 3), m = 0 where nothing is left (Sutherland-Hodgman).
    """
    points: list[list[float]] = polygon.tolist()  # so few that plain numbers are several times faster than arrays
    sides = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
    for nx, ny, nz, offset in ((0.0, 0.0, 1.0, NEAR), *((x, y, side, 0.0) for x, y in sides)):
        distances = [nx * x + ny * y + nz * z - offset for x, y, z in points]
        if not points or min(distances) >= 0:
            continue
        out: list[list[float]] = []
        for i, (here, there) in enumerate(zip(points, points[1:] + points[:1], strict=True)):
            now, then = distances[i], distances[(i + 1) % len(points)]
            if now >= 0:
                out.append(here)
            if (now >= 0) != (then >= 0):
                f = now / (now - then)
                out.append([a + f * (b - a) for a, b in zip(here, there, strict=True)])
        points = out
    return np.array(points, dtype=np.float64).reshape(-1, 3)


def painting_levels(xy: FloatArray, yaw: FloatArray, half: FloatArray) -> NDArray[np.int64]:
    """(N,) order in which upright boxes are painted as seen from the origin: lower levels first.

    Exact for boxes whose footprints do not overlap: of two boxes that share a bearing, the one that a ray at that
    bearing meets later is painted first; a level is the longest chain of boxes behind.

    Args:
        xy: (N, 2) middles relative to the viewer, m.
        yaw: (N,), rad.
        half: (N, 2) half length and half width, m.
    """
    n = len(xy)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    bearing, low, high = bearings(xy, yaw, half)
    turn = (bearing[None] - bearing[:, None] + np.pi) % (2 * np.pi) - np.pi
    start, stop = np.maximum(low[:, None], turn + low[None]), np.minimum(high[:, None], turn + high[None])
    i, j = np.nonzero(np.triu(start < stop, k=1))
    angle = bearing[i] + 0.5 * (start[i, j] + stop[i, j])
    ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    i_nearer = _entry(ray, xy[i], yaw[i], half[i]) < _entry(ray, xy[j], yaw[j], half[j])
    nearer, farther = np.where(i_nearer, i, j), np.where(i_nearer, j, i)
    level = np.zeros(n, dtype=np.int64)
    for _ in range(n):
        raised = level.copy()
        np.maximum.at(raised, nearer, level[farther] + 1)
        if np.array_equal(raised, level):
            break
        level = raised
    return level


def bearings(xy: FloatArray, yaw: FloatArray, half: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Bearing of each rectangle's middle from the origin, and of its first and last corner relative to that, rad."""
    bearing = np.arctan2(xy[:, 1], xy[:, 0])
    c, s = np.cos(yaw), np.sin(yaw)
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    local = signs[None] * half[:, None]
    x = xy[:, None, 0] + local[..., 0] * c[:, None] - local[..., 1] * s[:, None]
    y = xy[:, None, 1] + local[..., 0] * s[:, None] + local[..., 1] * c[:, None]
    relative = np.arctan2(y, x) - bearing[:, None]
    relative = (relative + np.pi) % (2 * np.pi) - np.pi
    return bearing, relative.min(axis=1), relative.max(axis=1)


def _entry(ray: FloatArray, xy: FloatArray, yaw: FloatArray, half: FloatArray) -> FloatArray:
    """(P,) distance at which rays (P, 2) from the origin enter rectangles, for rays that meet them."""
    c, s = np.cos(yaw), np.sin(yaw)
    entry = np.full(len(ray), -np.inf)
    for axis, (ax, ay) in enumerate(((c, s), (-s, c))):
        direction = ray[:, 0] * ax + ray[:, 1] * ay
        middle = xy[:, 0] * ax + xy[:, 1] * ay
        direction = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
        a, b = (middle - half[:, axis]) / direction, (middle + half[:, axis]) / direction
        entry = np.maximum(entry, np.minimum(a, b))
    return entry


def part_levels(low: FloatArray, high: FloatArray, eye: FloatArray) -> NDArray[np.int64]:
    """(N, P) painting order of the parts of N bodies, lower first.

    Parts are axis-aligned boxes that do not overlap; a plane between two of them tells which cannot hide the other.

    Args:
        low, high: (N, P, 3) boxes in the body's frame; NaN where there is none.
        eye: (N, 3) viewer in the body's frame.
    """
    eps = 1e-9
    a_low, a_high = low[:, :, None], high[:, :, None]
    b_low, b_high = low[:, None, :], high[:, None, :]
    viewer = eye[:, None, None]
    beyond_up = (a_high <= b_low + eps) & (viewer > b_low)  # b lies above a on this axis, and so does the viewer
    beyond_down = (a_low >= b_high - eps) & (viewer < b_high)
    first = (beyond_up | beyond_down).any(axis=3)  # a cannot hide b: a may be painted before b
    before = first & ~np.swapaxes(first, 1, 2)
    level = np.zeros(low.shape[:2], dtype=np.int64)
    for _ in range(low.shape[1]):
        level = np.where(before, level[:, :, None] + 1, 0).max(axis=1)
    return level
