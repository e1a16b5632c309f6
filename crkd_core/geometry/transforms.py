"""Rigid transforms as (4, 4) float64 matrices ``T_a_from_b``, and their interpolation over time."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from crkd_core.types import FloatArray


def transform(rotation: ArrayLike, translation: ArrayLike) -> FloatArray:
    """A (4, 4) transform from a (3, 3) rotation matrix or a quaternion (w, x, y, z), and a translation (3,) in m."""
    R = np.asarray(rotation, dtype=np.float64)
    T = np.eye(4)
    T[:3, :3] = rotation_from_quaternion(R) if R.shape == (4,) else R
    T[:3, 3] = np.asarray(translation, dtype=np.float64)
    return T


def inverse(T_a_from_b: FloatArray) -> FloatArray:
    """``T_b_from_a`` of a rigid transform, or of a stack (..., 4, 4) of them."""
    R_t = np.swapaxes(T_a_from_b[..., :3, :3], -1, -2)
    T = np.zeros_like(T_a_from_b)
    T[..., :3, :3] = R_t
    T[..., :3, 3] = -(R_t @ T_a_from_b[..., :3, 3:])[..., 0]
    T[..., 3, 3] = 1
    return T


def apply(T_a_from_b: FloatArray, points: ArrayLike) -> FloatArray:
    """Points (N, 3) of frame b in frame a."""
    p = np.asarray(points, dtype=np.float64)
    moved: FloatArray = p @ T_a_from_b[:3, :3].T + T_a_from_b[:3, 3]
    return moved


def rotation_from_quaternion(quaternion: ArrayLike) -> FloatArray:
    """(3, 3) rotation matrix of a quaternion (w, x, y, z), normalised first.

    Raises:
        ValueError: the quaternion has no direction (norm zero or not finite).
    """
    q = np.asarray(quaternion, dtype=np.float64)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"quaternion (w, x, y, z): expected a non-zero finite one, got {q.tolist()}")
    w, x, y, z = q / norm
    R: FloatArray = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return R


def quaternion_from_rotation(rotation: FloatArray) -> FloatArray:
    """Unit quaternion (w, x, y, z) with w >= 0 of a (3, 3) rotation matrix (Shepperd's method)."""
    R = np.asarray(rotation, dtype=np.float64)
    diagonal = np.diag(R)
    # Squared components, four times over; the largest is the safe one to divide by.
    squares = np.array([1 + diagonal.sum(), *(1 - diagonal.sum() + 2 * diagonal)])
    largest = int(np.argmax(squares))
    q = np.empty(4)
    q[0], q[1:] = squares[0], [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]
    if largest > 0:
        i, j, k = largest - 1, largest % 3, (largest + 1) % 3
        q[0] = R[k, j] - R[j, k]
        q[1 + i], q[1 + j], q[1 + k] = squares[largest], R[i, j] + R[j, i], R[i, k] + R[k, i]
    q /= np.linalg.norm(q)
    return q if q[0] >= 0 else -q


def interpolated(T_start: FloatArray, T_end: FloatArray, fraction: float) -> FloatArray:
    """The pose at ``fraction`` (0: start, 1: end) of the way: linear position, spherical rotation (slerp)."""
    q0 = quaternion_from_rotation(T_start[:3, :3])
    q1 = quaternion_from_rotation(T_end[:3, :3])
    cosine = float(q0 @ q1)
    if cosine < 0:
        q1, cosine = -q1, -cosine
    angle = np.arccos(min(cosine, 1.0))
    if angle < 1e-6:
        q = (1 - fraction) * q0 + fraction * q1
    else:
        q = (np.sin((1 - fraction) * angle) * q0 + np.sin(fraction * angle) * q1) / np.sin(angle)
    return transform(q, (1 - fraction) * T_start[:3, 3] + fraction * T_end[:3, 3])


def yaw_rotation(yaw: float) -> FloatArray:
    """(3, 3) rotation by ``yaw`` radians counter-clockwise about z."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
