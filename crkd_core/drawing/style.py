"""Colours (RGB) and the background of every picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Color = tuple[int, int, int]
Image = NDArray[np.uint8]

CLASS_COLORS: dict[str, Color] = {
    "car": (255, 150, 0),
    "truck": (255, 70, 60),
    "construction_vehicle": (190, 125, 70),
    "bus": (255, 225, 0),
    "trailer": (255, 150, 160),
    "barrier": (150, 180, 215),
    "motorcycle": (255, 70, 220),
    "bicycle": (175, 105, 255),
    "pedestrian": (70, 165, 255),
    "traffic_cone": (0, 225, 225),
}
"""One colour a class; none is near the green of ground truth."""
TRUTH: Color = (80, 255, 80)
BACKGROUND: Color = (22, 24, 29)
PANEL: Color = (34, 37, 44)
RING: Color = (66, 71, 82)
TEXT: Color = (232, 234, 238)
DIM: Color = (158, 164, 176)

RADAR_STILL: Color = (125, 130, 142)
"""Radar returns slower than ``RADAR_STILL_SPEED`` over ground."""
RADAR_STILL_SPEED = 0.5
RADAR_FULL_SPEED = 15.0
"""Speed of the last colour of the scale, m/s."""


FULL_DEPTH = 60.0
"""Depth of the last colour of the scale, m."""


def canvas(height: int, width: int, color: Color = BACKGROUND) -> Image:
    """A picture of one colour."""
    image: Image = np.zeros((height, width, 3), dtype=np.uint8)
    # Ten times faster than assigning the colour: this is a picture of two million pixels.
    cv2.rectangle(image, (0, 0), (width, height), color, -1)
    return image


def speed_colors(speeds: ArrayLike) -> Image:
    """(N, 3) uint8 colour of each radar return by its speed over ground (m/s): grey when still, then blue to red."""
    measured = np.asarray(speeds, dtype=np.float64)
    scaled = np.clip(measured / RADAR_FULL_SPEED, 0, 1)
    # The ends of the map are nearly black: leave them out.
    levels = (40 + scaled * 190).astype(np.uint8).reshape(-1, 1)
    colors: Image = np.zeros((0, 3), dtype=np.uint8)
    if len(levels):
        colors = np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[:, 0, ::-1])
    colors[measured < RADAR_STILL_SPEED] = RADAR_STILL
    return colors


def depth_colors(depths: ArrayLike) -> Image:
    """(N, 3) uint8 colour of points by their depth in a camera (m): red when near, then green, then blue."""
    # The ends of the map are nearly black: leave them out.
    levels = (230 - np.clip(np.asarray(depths, dtype=np.float64) / FULL_DEPTH, 0, 1) * 190).astype(np.uint8)
    if not len(levels):
        return np.zeros((0, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_TURBO)[:, 0, ::-1])
