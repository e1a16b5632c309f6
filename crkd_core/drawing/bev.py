"""The bird's-eye view: vehicle in the centre, forward up; radar returns, boxes, headings, velocities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.drawing.style import CLASS_COLORS, DIM, PANEL, RING, TEXT, TRUTH, Color, Image, canvas, speed_colors
from crkd_core.drawing.text import draw_label
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import Detections, FloatArray, RadarSweep

ARROW_SECONDS = 1.0
"""A velocity arrow ends where the box will be after this time."""
ARROW_MIN_SPEED = 0.5
_EGO = np.array([[3.5, 0.0], [2.6, 0.9], [-1.0, 0.9], [-1.0, -0.9], [2.6, -0.9]])
"""Outline of the vehicle around the middle of its rear axle, m."""


class BevView:
    """A square picture of ``base_link``'s surroundings.

    Attributes:
        image: (S, S, 3), drawn upon in place.
        radius: distance from the vehicle to the edge, m.
        scale: pixels per metre.
    """

    def __init__(
        self, size: int, radius: float, *, ring_step: float = 10.0, T_view_from_base: FloatArray | None = None
    ) -> None:
        """An empty view with range rings and the vehicle.

        Args:
            size: edge, pixels.
            radius: m.
            ring_step: between range rings, m.
            T_view_from_base: where the vehicle stands in the view; None: in its middle.
        """
        self.image: Image = canvas(size, size, PANEL)
        self.radius = radius
        self.scale = size / (2 * radius)
        center = self._fixed(np.zeros((1, 2)))[0].tolist()
        for ring in np.arange(ring_step, radius * 1.42, ring_step):
            cv2.circle(self.image, center, round(ring * self.scale * 16), RING, 1, cv2.LINE_AA, shift=4)
        half = size // 2
        cv2.line(self.image, (half, 0), (half, size), RING, 1)
        cv2.line(self.image, (0, half), (size, half), RING, 1)
        self._ring_step = ring_step
        vehicle = _EGO if T_view_from_base is None else apply(T_view_from_base, np.pad(_EGO, ((0, 0), (0, 1))))
        cv2.fillPoly(self.image, [self._fixed(vehicle)], TEXT, cv2.LINE_AA, shift=4)

    def pixels(self, xy: FloatArray) -> FloatArray:
        """(N, 2) pixel positions of points (N, 2+) in ``base_link``: x forward is up, y left is left."""
        half = self.image.shape[0] / 2
        return np.stack([half - xy[:, 1] * self.scale, half - xy[:, 0] * self.scale], axis=1)

    def _fixed(self, xy: FloatArray) -> NDArray[np.int32]:
        fixed: NDArray[np.int32] = np.round(np.clip(self.pixels(xy) - 0.5, -1e6, 1e6) * 16).astype(np.int32)
        return fixed

    def draw_ranges(self) -> None:
        """The distance of every second range ring; last, so that nothing covers it."""
        text_size = max(10, self.image.shape[0] // 50)
        for ring in np.arange(2 * self._ring_step, self.radius, 2 * self._ring_step):
            x, y = self.pixels(np.array([[ring, 0.0]]))[0].tolist()
            draw_label(self.image, f"{ring:.0f} m", (round(x) + 3, round(y) + 2), text_size, color=DIM)

    def draw_radar(
        self, radars: Mapping[str, Sequence[RadarSweep]], T_world_from_base: FloatArray, *, sweeps: int = 3
    ) -> None:
        """Radar returns, coloured by their speed over ground along the ray; older sweeps smaller.

        Args:
            radars: name -> sweeps, newest first.
            T_world_from_base: vehicle pose the view refers to.
            sweeps: how many of each radar to draw.
        """
        T_base_from_world = inverse(T_world_from_base)
        dot = max(1.0, self.image.shape[0] / 400)
        for age in range(sweeps - 1, -1, -1):
            radius = round(16 * dot * (1.0 if age == 0 else 0.6))
            for sensor in radars.values():
                if age >= len(sensor):
                    continue
                sweep = sensor[age]
                points = np.stack([sweep.points[axis] for axis in "xyz"], axis=1)
                T = T_base_from_world @ sweep.T_world_from_base @ sweep.T_base_from_radar
                speeds = np.hypot(sweep.points["vx_comp"], sweep.points["vy_comp"])
                centers = self._fixed(apply(T, points))
                for center, color in zip(centers.tolist(), speed_colors(speeds).tolist(), strict=True):
                    cv2.circle(self.image, center, radius, color, -1, cv2.LINE_AA, shift=4)

    def draw_dots(self, xy: FloatArray, color: Color) -> None:
        """Points (N, 2+), one pixel each."""
        x, y = np.floor(self.pixels(xy)).astype(np.int64).T
        size = self.image.shape[0]
        shown = (x >= 0) & (x < size) & (y >= 0) & (y < size)
        self.image[y[shown], x[shown]] = color

    def draw_moving_points(self, xy: FloatArray, velocities: FloatArray) -> None:
        """Points (N, 2+) with the way of the next second at their velocity (N, 2), m/s, coloured by its speed."""
        radius = max(24, self.image.shape[0] // 25)
        ends = self._fixed(xy[:, :2] + ARROW_SECONDS * velocities).tolist()
        colors = speed_colors(np.linalg.norm(velocities, axis=1)).tolist()
        for start, end, color in zip(self._fixed(xy).tolist(), ends, colors, strict=True):
            cv2.line(self.image, start, end, color, 1, cv2.LINE_AA, shift=4)
            cv2.circle(self.image, start, radius, color, -1, cv2.LINE_AA, shift=4)

    def draw_outline(self, corners: FloatArray) -> None:
        """A polygon (V, 2+), such as the edge of the BEV grid."""
        cv2.polylines(self.image, [self._fixed(corners)], True, DIM, 1, cv2.LINE_AA, shift=4)

    def draw_detections(self, detections: Detections) -> None:
        """Boxes (``base_link``) in class colours with heading and velocity arrow, weak ones first."""
        order = np.argsort(detections.scores)
        self._boxes(detections.filtered(order), None, max(1, self.image.shape[0] // 400), arrows=True)

    def draw_truth(self, truth: Detections) -> None:
        """Ground truth (``base_link``) as green areas with heading and velocity; draw it before the detections."""
        outlines = self._fixed(truth.boxes.corners()[:, :4, :2].reshape(-1, 2)).reshape(-1, 4, 2)
        overlay = self.image.copy()
        for outline in outlines:
            cv2.fillConvexPoly(overlay, outline, TRUTH, cv2.LINE_AA, shift=4)
        cv2.addWeighted(overlay, 0.35, self.image, 0.65, 0, dst=self.image)
        self._boxes(truth, TRUTH, 1, arrows=False)

    def _boxes(self, detections: Detections, color: Color | None, thickness: int, *, arrows: bool) -> None:
        boxes = detections.boxes
        if not len(boxes):
            return
        corners = boxes.corners()[:, :4, :2]
        outlines = self._fixed(corners.reshape(-1, 2)).reshape(-1, 4, 2)
        fronts = self._fixed(corners[:, [0, 3]].mean(axis=1))
        centers = self._fixed(boxes.centers)
        velocities = np.nan_to_num(boxes.velocities)
        tips = self._fixed(boxes.centers[:, :2] + ARROW_SECONDS * velocities)
        for i, name in enumerate(detections.class_names):
            paint = color or CLASS_COLORS[name]
            cv2.polylines(self.image, [outlines[i]], True, paint, thickness, cv2.LINE_AA, shift=4)
            cv2.line(self.image, centers[i].tolist(), fronts[i].tolist(), paint, thickness, cv2.LINE_AA, shift=4)
            if np.linalg.norm(velocities[i]) < ARROW_MIN_SPEED:
                continue
            if arrows:
                self._arrow(centers[i], tips[i], paint, thickness)
            else:
                cv2.line(self.image, centers[i].tolist(), tips[i].tolist(), paint, 1, cv2.LINE_AA, shift=4)

    def _arrow(self, start: FloatArray, end: FloatArray, color: Color, thickness: int) -> None:
        # cv2.arrowedLine's tip grows with the length: draw one of constant size.
        cv2.line(self.image, start.tolist(), end.tolist(), color, thickness, cv2.LINE_AA, shift=4)
        along = (end - start).astype(np.float64)
        along /= max(float(np.linalg.norm(along)), 1e-9)
        across = np.array([-along[1], along[0]])
        tip = 16 * max(5.0, self.image.shape[0] / 110)
        head = np.stack([end + along * tip * 0.3, end - along * tip * 0.7 + across * tip * 0.4])
        head = np.concatenate([head, (end - along * tip * 0.7 - across * tip * 0.4)[None]])
        cv2.fillConvexPoly(self.image, np.round(head).astype(np.int32), color, cv2.LINE_AA, shift=4)
