"""The cameras of a rig beside each other, with boxes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from crkd_core.data.errors import DataError
from crkd_core.drawing.camera import draw_camera
from crkd_core.drawing.style import DIM, PANEL, Image, canvas
from crkd_core.drawing.text import draw_label, draw_text
from crkd_core.types import CameraImage, Detections, SensorFrame

FRONT_CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")
REAR_CAMERAS = ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")


def draw_mosaic(frame: SensorFrame, detections: Detections, names: Sequence[str], *, width: int) -> Image:
    """All cameras of a rig, in one row or two: those that nuScenes knows around the vehicle, others as they are named.

    Args:
        frame: the images; of an absent or damaged one an empty panel says so.
        detections: ``base_link`` at ``frame.stamp``.
        names: of all cameras, at least one; the layout depends on nothing else.
        width: of the mosaic, pixels; each panel is 16:9.

    Returns:
        (H, width, 3) RGB.
    """
    known = {name: i for i, name in enumerate((*FRONT_CAMERAS, *REAR_CAMERAS))}
    ordered = sorted(names, key=lambda name: known.get(name, len(known)))
    columns = len(ordered) if len(ordered) <= 3 else (len(ordered) + 1) // 2
    height = round(width / columns * 9 / 16)
    rows = [ordered[i : i + columns] for i in range(0, len(ordered), columns)]
    mosaic = canvas(height * len(rows), width)
    for i, row in enumerate(rows):
        draw_row(mosaic, row, frame, detections, None, (0, height * i, round(width * len(row) / columns), height))
    return mosaic


def draw_row(
    sheet: Image,
    names: Sequence[str],
    frame: SensorFrame,
    detections: Detections,
    truth: Detections | None,
    area: tuple[int, int, int, int],
) -> None:
    """Draw pictures side by side, in place.

    Args:
        sheet: (H, W, 3) RGB.
        names: of the cameras, left to right; of an absent or damaged image an empty panel says so.
        frame: the images.
        detections: ``base_link`` at ``frame.stamp``.
        truth: ground truth, likewise, or None.
        area: left, top, width and height of the row, pixels.
    """
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
