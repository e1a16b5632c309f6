"""LiDAR points of a teacher: the key frame and earlier sweeps, moved to the BEV frame at the reference stamp.

The original rounds the coordinates to half precision on the way into the network (to 1/32 m at 32 to 64 m), a side
effect of its mixed-precision wrapper. That is not copied: coordinates, and the voxels they fall into, are float32 here.
What the network makes of them is another matter, see ``models.LidarEncoder``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.config import BevConfig
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import LIDAR_DTYPE, Boxes3D, FloatArray, LidarSweep, SensorFrame

LIDAR_COLUMNS: tuple[str, ...] = ("x", "y", "z", "intensity", "age")
"""Columns of a point: m along the axes of the BEV frame, 0 to 255, s relative to the key frame (>= 0)."""

CLOSE = 1.0
"""Points of earlier sweeps closer to the sensor than this in both x and y are the vehicle's own, m."""

_PIECE = 4096
"""Points that are moved at a time."""

_SQUARE = 2.0
"""Edge of the squares by which most points are ruled out to lie in a box, m."""


def lidar_points(
    frame: SensorFrame,
    *,
    sweeps: int,
    rng: np.random.Generator | None = None,
    T_out_from_bev: FloatArray | None = None,
) -> NDArray[np.float32]:
    """Points of the key frame and of earlier sweeps.

    Returns from the vehicle itself are removed from earlier sweeps only. A frame without earlier sweeps (the start of
    a scene) is filled up with ``sweeps`` copies of its key frame without them, as in the original.

    Args:
        frame: its LiDAR sweeps newest first, the first being the key frame.
        sweeps: earlier sweeps that are used: all there are, else the newest ones.
        rng: chooses among all earlier sweeps of the frame instead, as the released code does in training and in testing
            (quirk Q15).
        T_out_from_bev: from the BEV frame to that of the points, say the augmented one; None: the BEV frame.

    Returns:
        (L, 5) float32, columns as in ``LIDAR_COLUMNS``, at ``frame.stamp``; not filtered by range.
    """
    if not frame.lidar:
        return np.zeros((0, len(LIDAR_COLUMNS)), dtype=np.float32)
    T_out_from_world = inverse(frame.T_world_from_base @ frame.T_base_from_bev)
    if T_out_from_bev is not None:
        T_out_from_world = T_out_from_bev @ T_out_from_world
    key, *earlier = frame.lidar
    if rng is not None and len(earlier) > sweeps:
        earlier = [earlier[i] for i in rng.choice(len(earlier), sweeps, replace=False)]
    used = earlier[:sweeps] if earlier else [key] * sweeps
    parts = [(key, key.points), *((sweep, sweep.points.compress(~_close(sweep.points))) for sweep in used)]
    moved = np.empty((sum(len(points) for _, points in parts), len(LIDAR_COLUMNS)), dtype=np.float32)
    first = 0
    for sweep, points in parts:
        last = first + len(points)
        _move(sweep, points, T_out_from_world, key.stamp, out=moved[first:last])
        first = last
    return moved


def move_points(T_a_from_b: FloatArray, points: NDArray[np.float32]) -> None:
    """Points (L, 3+) of frame b, x, y, z first, become points of frame a where they are; computed in float64."""
    # In pieces that stay in the cache: fresh memory for all of them would cost more than the arithmetic.
    for first in range(0, len(points), _PIECE):
        xyz = points[first : first + _PIECE, :3]
        xyz[:] = apply(T_a_from_b, xyz)


def inside(points: NDArray[np.float32], bev: BevConfig) -> NDArray[np.bool_]:
    """(L,) whether each point lies strictly inside the range of the BEV grid, z included."""
    found = np.ones(len(points), dtype=np.bool_)
    for axis, bounds in enumerate((bev.x_range, bev.y_range, bev.z_range)):
        lower, upper = np.array(bounds, dtype=np.float32)
        # One after the other: columns are compared several times as fast as rows.
        found &= points[:, axis] > lower
        found &= points[:, axis] < upper
    return found


def points_in_boxes(xyz: NDArray[np.float32], boxes: Boxes3D) -> list[NDArray[np.int64]]:
    """For each of N boxes, the rows of the points (L, 3) inside it, its surface included; all in one frame, m."""
    radii = np.hypot(boxes.sizes[:, 0], boxes.sizes[:, 1]) / 2
    near = _near_any(xyz, boxes.centers[:, :2], radii)
    points = xyz[near].astype(np.float64)
    found = []
    for center, size, yaw, radius in zip(boxes.centers, boxes.sizes, boxes.yaws, radii, strict=True):
        rows = np.flatnonzero(np.abs(points[:, 0] - center[0]) <= radius)
        offset = points[rows] - center
        c, s = np.cos(yaw), np.sin(yaw)
        local = np.stack([offset @ [c, s, 0], offset @ [-s, c, 0], offset[:, 2]], axis=1)
        found.append(near[rows[(np.abs(local) <= size / 2).all(axis=1)]])
    return found


def _near_any(xyz: NDArray[np.float32], centers: FloatArray, radii: FloatArray) -> NDArray[np.int64]:
    """Rows of the points in squares of the ground, ``_SQUARE`` wide, that reach into a circle; few of very many."""
    if len(centers) == 0 or len(xyz) == 0:
        return np.zeros(0, dtype=np.int64)
    lower = np.floor((centers - radii[:, None]).min(axis=0) / _SQUARE)
    first = np.floor((centers - radii[:, None]) / _SQUARE - lower).astype(np.int64)
    last = np.floor((centers + radii[:, None]) / _SQUARE - lower).astype(np.int64)
    marked = np.zeros(last.max(axis=0) + 2, dtype=np.bool_)  # the last row and column stay clear
    for (i, j), (k, m) in zip(first, last, strict=True):
        marked[i : k + 1, j : m + 1] = True
    cells = np.floor(xyz[:, :2] / _SQUARE - lower)
    outside = (cells < 0) | (cells >= marked.shape)
    cells[outside] = -1
    i, j = cells.astype(np.int64).T
    return np.flatnonzero(marked[i, j])


def _close(points: NDArray[np.void]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(points["x"]) < CLOSE) & (np.abs(points["y"]) < CLOSE))


def _move(
    sweep: LidarSweep, points: NDArray[np.void], T_out_from_world: FloatArray, stamp: int, *, out: NDArray[np.float32]
) -> None:
    """Points as rows of ``out``, by one product of (x, y, z, intensity); of the ring nothing is read.

    The transform is put together in float64, since it goes through the world. Points are float32 before and after, and
    so is the product: a third of the time.
    """
    if points.dtype != LIDAR_DTYPE:
        raise ValueError(f"LiDAR points: expected dtype LIDAR_DTYPE, got {points.dtype}")
    T = T_out_from_world @ sweep.T_world_from_base @ sweep.T_base_from_lidar
    product, offset = np.zeros((4, 5)), np.zeros(5)
    product[:3, :3], offset[:3] = T[:3, :3].T, T[:3, 3]
    product[3, 3], offset[4] = 1.0, 1e-9 * (stamp - sweep.stamp)
    rows = np.ascontiguousarray(points).view(np.float32).reshape(out.shape)
    np.matmul(rows[:, :4], product.astype(np.float32), out=out)
    out += offset.astype(np.float32)
