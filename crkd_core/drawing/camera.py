"""3D boxes in camera pictures, clipped at a plane just in front of the lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.images import decoded, undistorted
from crkd_core.drawing.style import CLASS_COLORS, TRUTH, Color, Image
from crkd_core.drawing.text import draw_label, text_width
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import Boxes3D, CameraImage, Detections, FloatArray

NEAR = 0.3
"""Depth of the clipping plane, m."""
SMALL = 28
"""Boxes that extend over less than this many line widths are drawn with thin lines."""
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])
"""Corner pairs of ``Boxes3D.corners``."""
FRONT_FACE = np.array([0, 3, 7, 4])
"""Corners of the face towards the heading."""


@dataclass(frozen=True)
class Projected:
    """Boxes in one picture.

    Attributes:
        segments: per box in view, (S, 2, 2) float64 pixel ends of its visible edges.
        fronts: per box, (V, 2) float64 outline of its front face (V = 0 where it lies behind the lens).
        indices: which box each entry belongs to, nearest box last.
    """

    segments: list[FloatArray]
    fronts: list[FloatArray]
    indices: list[int]


def scaled_picture(camera: CameraImage, width: int, *, name: str = "camera") -> tuple[Image, FloatArray]:
    """A camera's picture at a given width, without lens distortion, and K of that picture.

    Args:
        camera: encoded or raw image.
        width: of the result, pixels; the aspect ratio is kept.
        name: of the camera, for errors.

    Raises:
        DataError: bytes that are no image, or half of one.
    """
    bent = camera.distortion is not None and bool(np.any(camera.distortion))
    # The principal point lies near the middle: where less resolution is enough, JPEG decodes much faster.
    reduction: Literal[1, 2, 4] = 1
    if isinstance(camera.image, bytes) and not bent:
        enough = 2 * camera.intrinsics[0, 2] / width
        reduction = 4 if enough >= 4 else 2 if enough >= 2 else 1
    full = undistorted(decoded(camera, name, reduction=reduction), camera)
    scale = width / (full.shape[1] * reduction)
    size = (width, round(full.shape[0] * reduction * scale))
    picture = np.ascontiguousarray(cv2.resize(full, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    # Pixel centres: pixel u of the full image lies at (u + 0.5) * scale - 0.5.
    to_picture = np.array([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5], [0, 0, 1]])
    return picture, to_picture @ camera.intrinsics


def boxes_in_camera(boxes: Boxes3D, camera: CameraImage, T_world_from_base: FloatArray, stamp: int) -> FloatArray:
    """(N, 8, 3) corners in the camera's optical frame, m.

    Args:
        boxes: in ``base_link`` at ``stamp``.
        camera: its own stamp and vehicle pose enter: boxes are moved to its time by their velocity.
        T_world_from_base: vehicle pose at ``stamp``.
        stamp: ns.
    """
    T_cam_from_base = inverse(camera.T_world_from_base @ camera.T_base_from_cam) @ T_world_from_base
    corners = boxes.moved((camera.stamp - stamp) * 1e-9).corners()
    return apply(T_cam_from_base, corners.reshape(-1, 3)).reshape(-1, 8, 3)


def project(corners: FloatArray, K: FloatArray, size: tuple[int, int]) -> Projected:
    """The visible edges of boxes.

    Args:
        corners: (N, 8, 3) in the optical frame.
        K: (3, 3) of the picture.
        size: (width, height) of the picture; boxes wholly outside are left out.
    """
    in_front = (corners[..., 2] > NEAR).any(axis=1)
    ends, seen = _clipped_segments(corners[in_front][:, EDGES])
    pixels = _pixels(ends, K)
    points = np.where(seen[..., None, None], pixels, np.nan).reshape(len(pixels), 2 * len(EDGES), 2)
    low, high = np.nanmin(points, axis=1), np.nanmax(points, axis=1)
    in_view = (high >= 0).all(axis=1) & (low < size).all(axis=1)
    boxes = np.flatnonzero(in_front)
    out = Projected([], [], [])
    for row in np.argsort(-corners[in_front][..., 2].mean(axis=1)):
        if in_view[row]:
            out.segments.append(pixels[row, seen[row]])
            out.fronts.append(_pixels(_clipped_polygon(corners[boxes[row], FRONT_FACE]), K))
            out.indices.append(int(boxes[row]))
    return out


def _clipped_segments(ends: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Segments (N, E, 2, 3) cut off at the near plane, and (N, E): those with an end beyond it."""
    z = ends[..., 2]
    seen = (z > NEAR).any(axis=-1)
    out = ends.copy()
    for end in (0, 1):
        behind = (z[..., end] < NEAR) & seen
        near, far = ends[behind][:, end], ends[behind][:, 1 - end]
        fraction = (NEAR - near[:, 2:]) / (far[:, 2:] - near[:, 2:])
        out[behind, end] = near + fraction * (far - near)
    out[~seen] = (0.0, 0.0, NEAR)
    return out, seen


def _clipped_polygon(points: FloatArray) -> FloatArray:
    """The part of a polygon (V, 3) beyond the near plane (Sutherland-Hodgman)."""
    if (points[:, 2] >= NEAR).all():
        return points
    out = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            out.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            out.append(a + (NEAR - a[2]) / (b[2] - a[2]) * (b - a))
    return np.array(out).reshape(-1, 3)


def _pixels(points: FloatArray, K: FloatArray) -> FloatArray:
    homogeneous = points @ K.T
    pixels: FloatArray = homogeneous[..., :2] / homogeneous[..., 2:]
    return pixels


def draw_boxes(
    picture: Image, projected: Projected, colors: Sequence[Color], *, thickness: int, front_opacity: float = 0.0
) -> None:
    """Draw boxes into a picture, in place, far ones first.

    Args:
        picture: (H, W, 3).
        projected: from ``project``.
        colors: of every box before projection.
        thickness: of the edges, pixels; small boxes have thin ones.
        front_opacity: of the filled front face; 0: not filled.
    """
    if front_opacity and projected.indices:
        overlay = picture.copy()
        for front, i in zip(projected.fronts, projected.indices, strict=True):
            if len(front):
                cv2.fillConvexPoly(overlay, _fixed_point(front), colors[i], cv2.LINE_AA, shift=4)
        cv2.addWeighted(overlay, front_opacity, picture, 1 - front_opacity, 0, dst=picture)
    for segments, i in zip(projected.segments, projected.indices, strict=True):
        # Thick lines would fill a small box.
        small = np.ptp(segments.reshape(-1, 2), axis=0).max() < SMALL * thickness
        for start, end in _fixed_point(segments).tolist():
            cv2.line(picture, start, end, colors[i], 1 if small else thickness, cv2.LINE_AA, shift=4)


def _fixed_point(pixels: FloatArray) -> NDArray[np.int32]:
    """Pixels in sixteenths, for cv2's sub-pixel drawing; far outside points stay in range of its arithmetic."""
    fixed: NDArray[np.int32] = np.round(np.clip(pixels, -1e6, 1e6) * 16).astype(np.int32)
    return fixed


def draw_camera(
    camera: CameraImage,
    detections: Detections,
    truth: Detections | None,
    T_world_from_base: FloatArray,
    *,
    width: int,
    label_size: int = 12,
    name: str = "camera",
) -> Image:
    """One camera's picture with boxes: detections in class colours, front face tinted; ground truth thin and green.

    Args:
        camera: the image.
        detections: in ``base_link`` at their stamp.
        truth: ground truth, likewise.
        T_world_from_base: vehicle pose at that stamp.
        width: of the picture, pixels.
        label_size: font size of class and score; 0: none.
        name: of the camera, for errors.

    Raises:
        DataError: the image cannot be decoded.
    """
    picture, K = scaled_picture(camera, width, name=name)
    size = (picture.shape[1], picture.shape[0])
    corners = boxes_in_camera(detections.boxes, camera, T_world_from_base, detections.stamp)
    projected = project(corners, K, size)
    if truth is not None:
        true_corners = boxes_in_camera(truth.boxes, camera, T_world_from_base, truth.stamp)
        draw_boxes(picture, project(true_corners, K, size), [TRUTH] * len(truth), thickness=max(1, round(width / 800)))
    colors = [CLASS_COLORS[name] for name in detections.class_names]
    draw_boxes(picture, projected, colors, thickness=max(1, round(width / 350)), front_opacity=0.35)
    if label_size:
        _draw_labels(picture, projected, detections, label_size)
    return picture


def _draw_labels(picture: Image, projected: Projected, detections: Detections, size: int) -> None:
    """Class and score above boxes that are large enough, nearest first, never one label upon another."""
    taken: list[tuple[int, int, int, int]] = []
    height = size + size // 3
    for segments, i in zip(projected.segments[::-1], projected.indices[::-1], strict=True):
        low, high = segments.reshape(-1, 2).min(axis=0), segments.reshape(-1, 2).max(axis=0)
        if high[1] - low[1] < 2 * size:
            continue
        text = f"{detections.class_names[i].replace('_', ' ')} {detections.scores[i]:.2f}"
        width = text_width(text, size) + 4
        x = int(np.clip((low[0] + high[0]) / 2 - width / 2, 0, max(0, picture.shape[1] - width)))
        y = int(np.clip(low[1] - height - 1, 0, picture.shape[0] - height))
        if any(x < a + w and a < x + width and y < b + h and b < y + height for a, b, w, h in taken):
            continue
        taken.append((x, y, width, height))
        draw_label(picture, text, (x, y), size, color=CLASS_COLORS[detections.class_names[i]])
