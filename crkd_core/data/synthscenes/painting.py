"""Coloured polygons in front of a camera, filled from far to near."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import ImageSize
from crkd_core.data.synthscenes.exposure import Exposure
from crkd_core.data.synthscenes.projection import NEAR, clipped
from crkd_core.types import FloatArray

GLOW_STEPS = 40.0
"""The canvas' fourth channel is this times log10(luminance / white) of what is brighter than white, else 0."""
_SHIFT = 4  # sub-pixel bits of cv2's polygon corners
_GUARD = 3.0  # polygons are cut to this many times the larger half field of view, so that coordinates stay small
_LEAST_AREA = 1.2  # polygons whose bounding box is smaller than this many drawn pixels are left out


class View:
    """A level camera.

    Attributes:
        R_cam_from_world: (3, 3).
        eye: (3,) its place, world, m.
        forward: (2,) its direction, world.
        K: (3, 3) intrinsics of the image that is drawn.
        size: of that image.
        tan_x: of the larger horizontal half field of view.
        side: to which polygons are cut, |x| and |y| by z.
    """

    def __init__(self, R_cam_from_world: FloatArray, eye: FloatArray, K: FloatArray, size: ImageSize) -> None:
        self.R_cam_from_world = R_cam_from_world
        self.eye = eye
        self.forward = R_cam_from_world[2, :2]
        self.K = K
        self.size = size
        cx, cy = K[0, 2], K[1, 2]
        self.tan_x = max(cx, size.width - cx) / K[0, 0]
        self.side = _GUARD * max(self.tan_x, max(abs(cy), abs(size.height - cy)) / K[1, 1])

    def of(self, K: FloatArray, size: ImageSize) -> View:
        """The same camera with another image."""
        return View(self.R_cam_from_world, self.eye, K, size)

    def to_camera(self, points: FloatArray) -> FloatArray:
        """World points (..., 3) in camera coordinates."""
        return np.asarray((points - self.eye) @ self.R_cam_from_world.T)

    @property
    def horizon(self) -> int:
        """First row that shows ground; at least one row lies to either side."""
        return int(np.clip(np.ceil(self.K[1, 2]), 1, self.size.height - 1))


class Layer(NamedTuple):
    """Polygons in painting order: corners (M, 4, 3) in camera coordinates and luminance (M, 3), cd/m2 RGB."""

    corners: FloatArray
    luminance: FloatArray


def tones(luminance: FloatArray, exposure: Exposure) -> FloatArray:
    """(M, 4) canvas values 0..255 of luminances (M, 3); what is brighter than white keeps its hue."""
    peak = luminance.max(axis=1, initial=1e-9)
    over = np.maximum(peak / exposure.white, 1.0)
    coded = exposure.coded(luminance / over[:, None])
    return np.column_stack([coded, np.minimum(GLOW_STEPS * np.log10(over), 255.0)])


def fill_rows(canvas: NDArray[np.uint8], colours: FloatArray) -> None:
    """Give each row of a canvas (H, W, 4) one of the colours (H, 4) 0..255; as 32-bit words, which is much faster."""
    canvas.view(np.uint32)[..., 0] = colours.astype(np.uint8).view(np.uint32)


def paint(canvas: NDArray[np.uint8], corners: FloatArray, colours: FloatArray, view: View) -> None:
    """Fill polygons (M, 4, 3) in camera coordinates on a canvas (H, W, 4), in order, with colours (M, 4) 0..255."""
    K, side = view.K, view.side
    x, y, z = corners[..., 0], corners[..., 1], corners[..., 2]
    cut = (_least(z) < NEAR) | (_greatest(np.maximum(np.abs(x), np.abs(y)) - side * z) > 0)
    safe = np.where(cut[:, None], 1.0, z)
    u, v = K[0, 0] * x / safe + K[0, 2], K[1, 1] * y / safe + K[1, 2]
    left, right, top, bottom = _least(u), _greatest(u), _least(v), _greatest(v)
    outside = (right < -1) | (left > view.size.width) | (bottom < -1) | (top > view.size.height)
    hidden = ~cut & (outside | ((right - left) * (bottom - top) < _LEAST_AREA)) | (_greatest(z) < NEAR)
    keep = np.flatnonzero(~hidden)
    uv = np.stack([u[keep], v[keep]], axis=-1)
    uv[cut[keep]] = 0
    scale = 1 << _SHIFT
    points = np.rint(uv * scale).astype(np.int32)
    fill = cv2.fillConvexPoly
    for i, outline, tone, special in zip(
        keep.tolist(), points, colours[keep].tolist(), cut[keep].tolist(), strict=True
    ):
        if special:
            rest = clipped(corners[i], side)
            if len(rest) < 3:
                continue
            pixels = rest[:, :2] / rest[:, 2:] * (K[0, 0], K[1, 1]) + (K[0, 2], K[1, 2])
            fill(canvas, np.rint(pixels * scale).astype(np.int32), tone, cv2.LINE_8, _SHIFT)
        else:
            fill(canvas, outline, tone, cv2.LINE_8, _SHIFT)


def _least(a: FloatArray) -> FloatArray:
    """Minimum over the four columns; much faster than ``a.min(axis=1)`` on so short an axis."""
    return np.asarray(np.minimum(np.minimum(a[:, 0], a[:, 1]), np.minimum(a[:, 2], a[:, 3])))


def _greatest(a: FloatArray) -> FloatArray:
    return np.asarray(np.maximum(np.maximum(a[:, 0], a[:, 1]), np.maximum(a[:, 2], a[:, 3])))
