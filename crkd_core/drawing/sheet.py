"""One moment on one sheet, 16:9: front cameras above, rear cameras and legend left, bird's-eye view right.

The sheet is laid out for 1920 x 1080 pixels and scales with its width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np

from crkd_core.data.errors import DataError
from crkd_core.drawing.bev import BevView
from crkd_core.drawing.camera import draw_camera
from crkd_core.drawing.style import (
    CLASS_COLORS,
    DIM,
    PANEL,
    RADAR_FULL_SPEED,
    TEXT,
    TRUTH,
    Color,
    Image,
    canvas,
    speed_colors,
)
from crkd_core.drawing.text import draw_label, draw_text
from crkd_core.types import DETECTION_CLASSES, CameraImage, Detections, SensorFrame

FRONT_CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")
REAR_CAMERAS = ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
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
    _draw_row(sheet, options.front, frame, detections, truth, (0, 0, options.width, row))
    bev = px(1080) - row
    _draw_row(sheet, options.rear, frame, detections, truth, (0, row, options.width - bev, round(px(225))))
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


def _draw_row(
    sheet: Image,
    names: Sequence[str],
    frame: SensorFrame,
    detections: Detections,
    truth: Detections | None,
    area: tuple[int, int, int, int],
) -> None:
    left, top, width, height = area
    edges = np.linspace(left, left + width, len(names) + 1).round().astype(int).tolist()
    panels = [sheet[top : top + height, x0:x1] for x0, x1 in itertools.pairwise(edges)]
    text_size = max(round(sheet.shape[1] / 140), round(width / len(names) / 38))
    cameras = {name.lower(): camera for name, camera in frame.cameras.items()}

    def fill(panel: Image, name: str) -> None:
        _fill_panel(panel, name, cameras.get(name.lower()), frame, detections, truth, text_size)

    # cv2 releases the interpreter while it decodes and draws.
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        list(pool.map(fill, panels, names))


def _fill_panel(
    panel: Image,
    name: str,
    camera: CameraImage | None,
    frame: SensorFrame,
    detections: Detections,
    truth: Detections | None,
    text_size: int,
) -> None:
    height, width = panel.shape[:2]
    title = name.removeprefix("CAM_").replace("_", " ")
    label_size = round(text_size * 0.85)
    try:
        picture = None
        if camera is not None:
            picture = draw_camera(
                camera, detections, truth, frame.T_world_from_base, width=width, label_size=label_size, name=name
            )
        trouble = "no image"
    except DataError:
        picture, trouble = None, "damaged image"
    if picture is None:
        cv2.rectangle(panel, (0, 0), (width, height), PANEL, -1)
        draw_text(panel, f"{title}: {trouble}", (width // 2, height // 2), text_size, color=DIM, anchor="center")
    else:
        shown = min(height, picture.shape[0])
        panel[:shown] = picture[:shown]
        draw_label(panel, title, (4, 4), text_size)
    cv2.rectangle(panel, (0, 0), (width - 1, height - 1), (0, 0, 0), 1)


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
