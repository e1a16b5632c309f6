"""Greedy non-maximum suppression of BEV boxes: by centre distance, and by exact rotated IoU.

Boxes are few (hundreds) and the algorithm is sequential, so the reference works on the CPU in NumPy; boxes come from
and indices return to the caller's device.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_CHUNK = 128
"""Boxes compared at a time: those suppressed by an earlier chunk are never compared with later ones."""


def nms_circle(
    centers: Tensor,  # [N, 2]
    scores: Tensor,  # [N]
    squared_distance: float,
    *,
    max_kept: int,
) -> Tensor:
    """Keep boxes by falling score, dropping those whose centre lies near a kept one.

    Args:
        centers: (N, 2) float, metres. N may be 0.
        scores: (N,) float.
        squared_distance: SQUARED metres (quirk Q18 of the original); at most this far apart is near.
        max_kept: stop after so many.

    Returns:
        (K,) int64 indices, by falling score, on the device of ``centers``.
    """
    xy = _to_numpy(centers).reshape(-1, 2)

    def near(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        offset = xy[a][:, None] - xy[b][None]
        return np.asarray((offset**2).sum(-1) <= squared_distance)

    return _greedy(scores, near, max_kept).to(centers.device)


def nms_rotated(
    boxes: Tensor,  # [N, 5]
    scores: Tensor,  # [N]
    iou_threshold: float,
    *,
    max_kept: int,
) -> Tensor:
    """Keep boxes by falling score, dropping those whose BEV IoU with a kept one exceeds a threshold.

    Args:
        boxes: (N, 5) float: x, y, w, l, r in the original's encoding (w along the box's x at r = 0, positive r
            clockwise), metres and rad. N may be 0.
        scores: (N,) float.
        iou_threshold: overlap above which a box is dropped.
        max_kept: stop after so many.

    Returns:
        (K,) int64 indices, by falling score, on the device of ``boxes``.
    """
    values = _to_numpy(boxes).reshape(-1, 5)

    def overlapping(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        return _iou_above(values[a], values[b], iou_threshold)

    return _greedy(scores, overlapping, max_kept).to(boxes.device)


def rotated_iou(boxes_a: Array, boxes_b: Array) -> Array:
    """BEV IoU of corresponding boxes, from the exact intersection polygon.

    Args:
        boxes_a: (N, 5): x, y, w, l, r as in ``nms_rotated``.
        boxes_b: (N, 5).

    Returns:
        (N,) in [0, 1].
    """
    # Relative to the first box's centre: the shoelace formula then does not lose digits far from the origin.
    shift = np.concatenate([boxes_a[:, :2], np.zeros((len(boxes_a), 3))], axis=1)
    a, b = boxes_a - shift, boxes_b - shift
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    common = _intersection_area(a, b)
    return np.asarray(common / np.maximum(area_a + area_b - common, 1e-12))


def _greedy(
    scores: Tensor, suppresses: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]], max_kept: int
) -> Tensor:
    order = np.argsort(-_to_numpy(scores), kind="stable")
    kept: list[int] = []
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        if kept:
            chunk = chunk[~suppresses(np.asarray(kept), chunk).any(0)]
        matrix = suppresses(chunk, chunk)
        alive = np.ones(len(chunk), dtype=bool)
        for i, box in enumerate(chunk):
            if not alive[i]:
                continue
            kept.append(int(box))
            if len(kept) >= max_kept:
                return torch.tensor(kept)
            alive &= ~matrix[i]
    return torch.tensor(kept, dtype=torch.int64)


def _iou_above(a: Array, b: Array, threshold: float) -> NDArray[np.bool_]:
    """(len(a), len(b)): IoU > threshold. Pairs that cannot reach it are ruled out by distance and size first."""
    reach = 0.5 * (np.hypot(a[:, 2], a[:, 3])[:, None] + np.hypot(b[:, 2], b[:, 3])[None])
    offset = a[:, None, :2] - b[None, :, :2]
    area_a, area_b = (a[:, 2] * a[:, 3])[:, None], (b[:, 2] * b[:, 3])[None]
    possible = ((offset**2).sum(-1) <= reach**2) & (np.minimum(area_a, area_b) > threshold * np.maximum(area_a, area_b))
    rows, columns = possible.nonzero()
    above = np.zeros(possible.shape, dtype=bool)
    above[rows, columns] = rotated_iou(a[rows], b[columns]) > threshold
    return above


def _intersection_area(a: Array, b: Array) -> Array:
    """(N,) area common to two rectangles.

    Their vertices inside each other and the crossings of their edges, sorted around the mean of these points, by the
    shoelace formula. Repeated points do no harm.
    """
    corners_a, corners_b = _corners(a), _corners(b)
    crossing, crosses = _edge_crossings(corners_a, corners_b)
    points = np.concatenate([corners_a, corners_b, crossing], axis=1)
    valid = np.concatenate([_contains(b, corners_a), _contains(a, corners_b), crosses], axis=1)
    count = np.maximum(valid.sum(1), 1)
    middle = np.where(valid[..., None], points, 0).sum(1) / count[:, None]
    relative = np.where(valid[..., None], points - middle[:, None], 0)
    angle = np.where(valid, np.arctan2(relative[..., 1], relative[..., 0]), np.inf)
    order = np.argsort(angle, axis=1)
    polygon = np.take_along_axis(relative, order[..., None], axis=1)
    # Invalid points come last; closing the polygon there replaces them by its first point.
    last = np.arange(points.shape[1])[None] >= count[:, None]
    polygon = np.where(last[..., None], polygon[:, :1], polygon)
    following = np.roll(polygon, -1, axis=1)
    return np.asarray(0.5 * np.abs((polygon[..., 0] * following[..., 1] - polygon[..., 1] * following[..., 0]).sum(1)))


def _corners(boxes: Array) -> Array:
    """(N, 4, 2) corners in order around the rectangle."""
    unit = 0.5 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
    along_w, along_l = (unit[None] * boxes[:, None, 2:4]).transpose(2, 0, 1)
    c, s = np.cos(boxes[:, 4])[:, None], np.sin(boxes[:, 4])[:, None]
    x = boxes[:, 0:1] + along_w * c + along_l * s
    y = boxes[:, 1:2] - along_w * s + along_l * c
    return np.stack([x, y], axis=-1)


def _contains(boxes: Array, points: Array) -> NDArray[np.bool_]:
    """(N, K): points (N, K, 2) inside the boxes (N, 5), their border included."""
    offset = points - boxes[:, None, :2]
    c, s = np.cos(boxes[:, 4])[:, None], np.sin(boxes[:, 4])[:, None]
    along_w = offset[..., 0] * c - offset[..., 1] * s
    along_l = offset[..., 0] * s + offset[..., 1] * c
    margin = 1e-9 + 1e-9 * boxes[:, None, 2:4].max(-1)
    inside_w = np.abs(along_w) <= 0.5 * boxes[:, 2:3] + margin
    inside_l = np.abs(along_l) <= 0.5 * boxes[:, 3:4] + margin
    return np.asarray(inside_w & inside_l)


def _edge_crossings(corners_a: Array, corners_b: Array) -> tuple[Array, NDArray[np.bool_]]:
    """(N, 16, 2) crossing points of every edge of a with every edge of b, and (N, 16) whether they cross."""
    n = len(corners_a)
    start_a, start_b = corners_a[:, :, None], corners_b[:, None]
    edge_a = (np.roll(corners_a, -1, axis=1) - corners_a)[:, :, None]
    edge_b = (np.roll(corners_b, -1, axis=1) - corners_b)[:, None]
    between = start_b - start_a
    # Parallel edges have no single crossing; where they overlap, the vertices already mark the ends.
    denominator = edge_a[..., 0] * edge_b[..., 1] - edge_a[..., 1] * edge_b[..., 0]
    scale = np.hypot(edge_a[..., 0], edge_a[..., 1]) * np.hypot(edge_b[..., 0], edge_b[..., 1])
    crosses = np.abs(denominator) > 1e-12 * scale
    safe = np.where(crosses, denominator, 1.0)
    t = (between[..., 0] * edge_b[..., 1] - between[..., 1] * edge_b[..., 0]) / safe
    u = (between[..., 0] * edge_a[..., 1] - between[..., 1] * edge_a[..., 0]) / safe
    crosses &= (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points = start_a + np.where(crosses, t, 0.0)[..., None] * edge_a
    return points.reshape(n, 16, 2), crosses.reshape(n, 16)


def _to_numpy(values: Tensor) -> Array:
    return values.detach().double().cpu().numpy()
