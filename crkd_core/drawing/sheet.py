"""One moment on one sheet, 16:9: front cameras above, rear cameras and legend left, bird's-eye view right.

The sheet is laid out for 1920 x 1080 pixels and scales with its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from crkd_core.drawing.bev import BevView
from crkd_core.drawing.mosaic import FRONT_CAMERAS, REAR_CAMERAS, draw_row
from crkd_core.drawing.style import (
    CLASS_COLORS,
    DIM,
    RADAR_FULL_SPEED,
    TEXT,
    TRUTH,
    Color,
    Image,
    canvas,
    speed_colors,
)
from crkd_core.drawing.text import draw_text
from crkd_core.types import DETECTION_CLASSES, Detections, SensorFrame

MIN_SCORE = 0.0


@dataclass(frozen=True)
class SheetOptions:
    """What to draw.

    Attributes:
        width: of the sheet, pixels; the height is 9/16 of it.
        radius: of the bird's-eye view, m.
        min_score: weaker detections are not drawn.
        front: cameras of the upper row, left to right.
        rear: cameras of the lower row, left to right.
        radar_sweeps: drawn per radar.
    """

    width: int = 1920
    radius: float = 55.0
    min_score: float = MIN_SCORE
    front: Sequence[str] = FRONT_CAMERAS
    rear: Sequence[str] = REAR_CAMERAS
    radar_sweeps: int = 3


@dataclass(frozen=True)
class Caption:
    """The words on a sheet.

    Attributes:
        title: such as the scene's name.
        lines: short facts below it.
        footer: remark at the lower edge of the legend.
    """

    title: str
    lines: Sequence[str] = ()
    footer: str = ""


def draw_sheet(
    frame: SensorFrame,
    detections: Detections,
    truth: Detections | None,
    caption: Caption,
    options: SheetOptions | None = None,
) -> Image:
    """Draw one moment.

    Args:
        frame: cameras and radars; an absent or damaged image is an empty panel that says so.
        detections: ``base_link`` at ``frame.stamp``.
        truth: ground truth, likewise; None: there is none for this moment.
        caption: words.
        options: layout.

    Returns:
        (9/16 width, width, 3) RGB.
    """
    options = options or SheetOptions()
    detections = replace(detections.filtered(detections.scores >= options.min_score), stamp=frame.stamp)
    if truth is not None:
        truth = replace(truth, stamp=frame.stamp)
    px = _Pixels(options.width)
    sheet = canvas(px(1080), options.width)
    row = px(360)
    draw_row(sheet, options.front, frame, detections, truth, (0, 0, options.width, row))
    bev = px(1080) - row
    draw_row(sheet, options.rear, frame, detections, truth, (0, row, options.width - bev, round(px(225))))
    view = BevView(bev, options.radius)
    view.draw_radar(frame.radars, frame.T_world_from_base, sweeps=options.radar_sweeps)
    if truth is not None:
        view.draw_truth(truth)
    view.draw_detections(detections)
    view.draw_ranges()
    cv2.rectangle(view.image, (0, 0), (bev - 1, bev - 1), (0, 0, 0), 2)
    sheet[row:, options.width - bev :] = view.image
    _draw_legend(sheet, px, detections, truth, caption, top=row + px(225))
    return sheet


class _Pixels:
    """Lengths of the 1920 pixel design in pixels of this sheet."""

    def __init__(self, width: int) -> None:
        self._scale = width / 1920

    def __call__(self, length: float) -> int:
        return round(length * self._scale)


def _draw_legend(
    sheet: Image, px: _Pixels, detections: Detections, truth: Detections | None, caption: Caption, *, top: int
) -> None:
    x, y = px(28), top + px(22)
    draw_text(sheet, caption.title, (x, y), px(34))
    y += px(50)
    for line in caption.lines:
        draw_text(sheet, line, (x, y), px(20), color=DIM)
        y += px(30)
    _draw_marks(sheet, px, (x, y + px(16)))
    _draw_counts(sheet, px, detections, truth, (px(620), top + px(26)))
    if caption.footer:
        draw_text(sheet, caption.footer, (x, sheet.shape[0] - px(36)), px(18), color=DIM)


def _draw_marks(sheet: Image, px: _Pixels, position: tuple[int, int]) -> None:
    """What lines, arrows and dots mean."""
    x, y = position
    size, step, end = px(20), px(34), px(70)
    middle = px(12)
    orange = CLASS_COLORS["car"]
    cv2.rectangle(sheet, (x, y + px(2)), (x + end, y + px(22)), orange, max(1, px(2)), cv2.LINE_AA)
    draw_text(sheet, "detection (class colour, front face tinted)", (x + end + px(18), y), size)
    y += step
    cv2.rectangle(sheet, (x, y + px(2)), (x + end, y + px(22)), TRUTH, 1, cv2.LINE_AA)
    draw_text(sheet, "ground truth", (x + end + px(18), y), size)
    y += step
    cv2.arrowedLine(sheet, (x, y + middle), (x + end, y + middle), orange, max(1, px(2)), cv2.LINE_AA, tipLength=0.2)
    draw_text(sheet, "velocity: way of the next second", (x + end + px(18), y), size)
    y += step
    speeds = np.linspace(0, RADAR_FULL_SPEED, end)
    sheet[y + px(5) : y + px(19), x : x + end] = speed_colors(speeds)[None]
    words = f"radar return, speed over ground 0 to {RADAR_FULL_SPEED:.0f} m/s (grey: still)"
    draw_text(sheet, words, (x + end + px(18), y), size)


def _draw_counts(
    sheet: Image, px: _Pixels, detections: Detections, truth: Detections | None, position: tuple[int, int]
) -> None:
    """How many boxes of each class."""
    x, y = position
    size, step = px(20), px(33)
    columns = (x + px(400), x + px(520))
    draw_text(sheet, "class", (x + px(34), y), size, color=DIM)
    draw_text(sheet, "detected", (columns[0], y), size, color=DIM, anchor="right")
    draw_text(sheet, "truth", (columns[1], y), size, color=DIM, anchor="right")
    found = np.bincount(detections.labels, minlength=len(DETECTION_CLASSES))
    true = None if truth is None else np.bincount(truth.labels, minlength=len(DETECTION_CLASSES))
    for label, name in enumerate(DETECTION_CLASSES):
        y += step
        cv2.rectangle(sheet, (x, y + px(4)), (x + px(20), y + px(20)), CLASS_COLORS[name], -1)
        seen = found[label] or (true is not None and true[label])
        color: Color = TEXT if seen else DIM
        draw_text(sheet, name.replace("_", " "), (x + px(34), y), size, color=color)
        draw_text(sheet, str(found[label]), (columns[0], y), size, color=color, anchor="right")
        number = "-" if true is None else str(true[label])
        draw_text(sheet, number, (columns[1], y), size, color=color, anchor="right")
