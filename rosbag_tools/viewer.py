"""A drive as one HTML file to look around in: cameras and bird's-eye view over time, without anything to install.

The page (``viewer.html``) draws the boxes itself, so that a threshold can be moved and ground truth be hidden.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from crkd_core.data.images import decoded
from crkd_core.drawing.style import CLASS_COLORS, TRUTH
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.training.html_report import jpeg
from crkd_core.types import DETECTION_CLASSES, CameraImage, Detections, FloatArray, SensorFrame

TEMPLATE = Path(__file__).with_name("viewer.html")
JPEG_QUALITY = 72


def viewer_html(
    title: str, frames: Iterable[dict[str, Any]], cameras: Sequence[str], *, min_score: float, radius: float
) -> str:
    """The page.

    Args:
        title: name of the drive.
        frames: as of ``viewer_frame``.
        cameras: names, in the order of the panels.
        min_score: where the threshold stands at first.
        radius: of the bird's-eye view at first, m.
    """
    data = {
        "title": title,
        "classes": DETECTION_CLASSES,
        "colors": [CLASS_COLORS[name] for name in DETECTION_CLASSES],
        "truth_color": TRUTH,
        "cameras": cameras,
        "min_score": min_score,
        "radius": radius,
        "frames": list(frames),
    }
    # "</" would end the script element it stands in.
    text = msgspec.json.encode(data).decode().replace("</", "<\\/")
    return TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text)


def viewer_frame(
    frame: SensorFrame, found: Detections, truth: Detections | None, *, seconds: float, note: str, image_width: int
) -> dict[str, Any]:
    """One moment.

    Args:
        frame: cameras and radars.
        found: detections in ``base_link`` at ``frame.stamp``.
        truth: ground truth, likewise.
        seconds: since the beginning.
        note: remark beside the time.
        image_width: of the pictures, pixels.
    """
    return {
        "t": round(seconds, 3),
        "note": note,
        "detections": _boxes(found),
        "truth": [] if truth is None else _boxes(truth),
        "radar": [point for sweeps in frame.radars.values() for point in _radar(frame, sweeps[:1])],
        "cameras": {name: _camera(camera, frame, name, image_width) for name, camera in frame.cameras.items()},
    }


def _boxes(detections: Detections) -> list[list[float | None]]:
    boxes = detections.boxes
    rows = np.concatenate(
        [detections.scores[:, None], boxes.centers, boxes.sizes, boxes.yaws[:, None], boxes.velocities], axis=1
    )
    return [
        [int(label), *(round(value, 3) if np.isfinite(value) else None for value in row)]
        for label, row in zip(detections.labels.tolist(), rows.tolist(), strict=True)
    ]


def _radar(frame: SensorFrame, sweeps: Sequence[Any]) -> list[list[float]]:
    """x, y, vx, vy (over ground, radial) of the returns, in ``base_link`` at the frame's stamp."""
    rows: list[list[float]] = []
    for sweep in sweeps:
        T = inverse(frame.T_world_from_base) @ sweep.T_world_from_base @ sweep.T_base_from_radar
        p = sweep.points
        xy = apply(T, np.stack([p["x"], p["y"], p["z"]], axis=1))[:, :2]
        v = np.stack([p["vx_comp"], p["vy_comp"]], axis=1) @ T[:2, :2].T
        rows += np.round(np.concatenate([xy, v], axis=1), 2).tolist()
    return rows


def _camera(camera: CameraImage, frame: SensorFrame, name: str, width: int) -> dict[str, Any]:
    picture = decoded(camera, name)
    if camera.distortion is not None:
        picture = np.asarray(cv2.undistort(picture, camera.intrinsics, camera.distortion), dtype=np.uint8)
    scale = width / picture.shape[1]
    height = round(picture.shape[0] * scale)
    small = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    T_cam_from_base = inverse(camera.T_world_from_base @ camera.T_base_from_cam) @ frame.T_world_from_base
    projection: FloatArray = np.diag([scale, scale, 1.0]) @ camera.intrinsics @ T_cam_from_base[:3]
    image = base64.b64encode(jpeg(small, quality=JPEG_QUALITY)).decode()
    return {"image": image, "projection": np.round(projection, 5).tolist()}
