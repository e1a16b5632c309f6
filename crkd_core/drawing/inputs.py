"""A sample as the network reads it: its own images, matrices and points, so that a wrong one shows.

Everything is drawn from the (augmented) BEV frame, back through the matrices of ``NetworkInput``: what does not lie on
the objects in the pictures, the network learns in the wrong place.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.config import BevConfig
from crkd_core.data.encode import TrainingSample
from crkd_core.data.radar import FEATURE_INDEX
from crkd_core.drawing.bev import BevView
from crkd_core.drawing.camera import NEAR, draw_boxes, project
from crkd_core.drawing.style import CLASS_COLORS, DIM, Color, Image, canvas, depth_colors
from crkd_core.drawing.text import draw_label, draw_text
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections, FloatArray

PANEL_WIDTH = 704
COLUMNS = 2
TEXT_SIZE = 18
LIDAR_COLOR: Color = (108, 114, 126)

_T_VIEW_FROM_BEV = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""The BEV frame (x right, y forward), augmented or not, in the axes of ``BevView`` (x forward, y left)."""


def draw_input(
    sample: TrainingSample,
    *,
    cameras: Sequence[str],
    bev: BevConfig,
    T_base_from_bev: FloatArray,
    lidar: NDArray[np.float32] | None = None,
    title: str = "",
) -> Image:
    """Draw one sample: its cameras in two columns, and its bird's-eye view.

    Args:
        sample: network input of one sample, and its boxes.
        cameras: names of the images, in their order.
        bev: range of the grid.
        T_base_from_bev: (4, 4), where the vehicle is.
        lidar: (L, 3+) points of the BEV frame before augmentation, for a model that reads none; None: those it reads.
        title: first line.

    Returns:
        (H, W, 3) RGB uint8.
    """
    T_aug_from_bev = sample.loaded.bev_augment[0].numpy().astype(np.float64)
    points = sample.loaded.lidar.numpy() if lidar is None else lidar
    lidar_xyz = points[:, :3].astype(np.float64)
    if lidar is not None:
        lidar_xyz = apply(T_aug_from_bev, lidar_xyz)
    panels = [_camera_panel(sample, i, lidar_xyz, name) for i, name in enumerate(cameras)]
    height = max((panel.shape[0] for panel in panels), default=0)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // COLUMNS)
    top = 2 * TEXT_SIZE if title else 0
    size = max(rows * height, PANEL_WIDTH)
    sheet = canvas(top + size, columns * PANEL_WIDTH + size)
    for i, panel in enumerate(panels):
        y, x = top + i // COLUMNS * height, i % COLUMNS * PANEL_WIDTH
        sheet[y : y + panel.shape[0], x : x + PANEL_WIDTH] = panel
    sheet[top:, -size:] = _bev_panel(sample, size, bev, T_base_from_bev, lidar_xyz)
    draw_text(sheet, title, (TEXT_SIZE // 2, TEXT_SIZE // 3), TEXT_SIZE)
    return sheet


def _camera_panel(sample: TrainingSample, i: int, lidar: FloatArray, name: str) -> Image:
    inputs = sample.loaded
    image = inputs.images[i].numpy().transpose(1, 2, 0)
    scale = PANEL_WIDTH / image.shape[1]
    panel: Image = np.ascontiguousarray(
        cv2.resize(image, (PANEL_WIDTH, round(scale * image.shape[0])), interpolation=cv2.INTER_LINEAR), dtype=np.uint8
    )
    augmented_K = inputs.image_augment[i].numpy().astype(np.float64) @ inputs.intrinsics[i].numpy()
    K = np.diag([scale, scale, 1.0]) @ augmented_K
    T_cam_from_bev = inverse(inputs.T_bev_from_cam[i].numpy().astype(np.float64))
    # Augmentation scales and mirrors: not a rigid transform.
    T_cam_from_aug = T_cam_from_bev @ np.linalg.inv(inputs.bev_augment[0].numpy().astype(np.float64))
    _draw_points(panel, apply(T_cam_from_aug, lidar), K, radius=0)
    _draw_points(panel, apply(T_cam_from_aug, inputs.radar.numpy()[:, :3]), K, radius=4)
    corners = _boxes(sample).corners()
    in_camera = apply(T_cam_from_aug, corners.reshape(-1, 3)).reshape(-1, 8, 3)
    colors = [CLASS_COLORS[DETECTION_CLASSES[label]] for label in sample.labels.tolist()]
    projected = project(in_camera, K, (PANEL_WIDTH, panel.shape[0]))
    draw_boxes(panel, projected, colors, thickness=2, front_opacity=0.25)
    draw_label(panel, name.removeprefix("CAM_").replace("_", " "), (4, 4), TEXT_SIZE)
    cv2.rectangle(panel, (0, 0), (panel.shape[1] - 1, panel.shape[0] - 1), (0, 0, 0), 1)
    return panel


def _draw_points(panel: Image, points: FloatArray, K: FloatArray, *, radius: int) -> None:
    """Points (N, 3) of the optical frame, coloured by depth, far ones first; dots, or ringed circles."""
    ahead = points[points[:, 2] > NEAR]
    ahead = ahead[np.argsort(-ahead[:, 2])]
    homogeneous = ahead @ K.T
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    shown = ((pixels >= 0) & (pixels < panel.shape[1::-1])).all(axis=1)
    colors = depth_colors(ahead[shown, 2])
    if not radius:
        x, y = np.floor(pixels[shown]).astype(np.int64).T
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):  # of one pixel it is hard to see the colour
            panel[np.minimum(y + dy, panel.shape[0] - 1), np.minimum(x + dx, panel.shape[1] - 1)] = colors
        return
    for center, color in zip(np.round(16 * (pixels[shown] - 0.5)).astype(int).tolist(), colors.tolist(), strict=True):
        cv2.circle(panel, center, 16 * (radius + 1), (0, 0, 0), -1, cv2.LINE_AA, shift=4)
        cv2.circle(panel, center, 16 * radius, color, -1, cv2.LINE_AA, shift=4)


def _bev_panel(
    sample: TrainingSample, size: int, bev: BevConfig, T_base_from_bev: FloatArray, lidar: FloatArray
) -> Image:
    T_aug_from_base = sample.loaded.bev_augment[0].numpy().astype(np.float64) @ inverse(T_base_from_bev)
    radius = 1.05 * float(np.abs([*bev.x_range, *bev.y_range]).max())
    view = BevView(size, radius, T_view_from_base=_T_VIEW_FROM_BEV @ T_aug_from_base)
    view.draw_dots(apply(_T_VIEW_FROM_BEV, lidar), LIDAR_COLOR)
    (x0, x1), (y0, y1) = bev.x_range, bev.y_range
    edge = np.array([[x0, y0, 0], [x0, y1, 0], [x1, y1, 0], [x1, y0, 0]])
    view.draw_outline(apply(_T_VIEW_FROM_BEV, edge))
    radar = sample.loaded.radar.numpy().astype(np.float64)
    velocity = radar[:, [FEATURE_INDEX["vx_comp"], FEATURE_INDEX["vy_comp"]]] @ _T_VIEW_FROM_BEV[:2, :2].T
    view.draw_moving_points(apply(_T_VIEW_FROM_BEV, radar[:, :3]), velocity)
    boxes = _boxes(sample).transformed(_T_VIEW_FROM_BEV)
    view.draw_detections(Detections(boxes, np.ones(len(boxes)), sample.labels.numpy(), "bev", 0))
    view.draw_ranges()
    counts = f"{len(boxes)} boxes, {len(radar)} radar returns, {len(lidar)} LiDAR points"
    draw_text(view.image, counts, (TEXT_SIZE, size - 5 * TEXT_SIZE // 2), TEXT_SIZE, color=DIM)
    return view.image


def _boxes(sample: TrainingSample) -> Boxes3D:
    return Boxes3D.from_mmdet3d(sample.boxes.numpy())
