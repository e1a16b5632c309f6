"""Ground-truth pasting: annotated objects of other samples join a scene with their LiDAR points.

An object keeps the place it had before its own LiDAR, so that its points are as many as they would be there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.config import PasteConfig
from crkd_core.data.lidar import points_in_boxes
from crkd_core.data.lidar_database import LidarDatabase
from crkd_core.geometry.overlap import drop_later, overlapping_pairs
from crkd_core.types import DETECTION_CLASSES, Boxes3D


@dataclass(frozen=True)
class PastedObjects:
    """Objects that join a scene.

    Attributes:
        points: (L, 5) float32, columns as in ``LIDAR_COLUMNS``, BEV frame.
        boxes: N boxes, BEV frame.
        labels: (N,) int64.
    """

    points: NDArray[np.float32]
    boxes: Boxes3D
    labels: NDArray[np.int64]


class Paster:
    """Draws objects that fit into a scene."""

    def __init__(self, database: LidarDatabase, config: PasteConfig) -> None:
        labels = database.objects["label"]
        self._database = database
        self._config = config
        self._of_class = [np.flatnonzero(labels == c) for c in range(len(DETECTION_CLASSES))]

    def active(self, epoch: int) -> bool:
        """Whether objects are pasted in this epoch."""
        return epoch < self._config.stop_epoch

    def draw(self, boxes: Boxes3D, labels: NDArray[np.int64], rng: np.random.Generator) -> PastedObjects:
        """Objects to fill a scene up with.

        Each class is filled up to its number in the recipe, each object being drawn once at most. One that overlaps a
        box of the scene or one drawn before it, as seen from above, is dropped: there may be fewer in the end.

        Args:
            boxes: of the scene, BEV frame.
            labels: (N,) their classes.
            rng: draws the objects.

        Raises:
            DataError: a file of the database is gone or damaged.
        """
        drawn = []
        for label, name in enumerate(DETECTION_CLASSES):
            wanted = getattr(self._config.fill_up_to, name) - int((labels == label).sum())
            candidates = self._of_class[label]
            if wanted > 0:
                drawn.append(rng.choice(candidates, min(wanted, len(candidates)), replace=False))
        rows = np.concatenate([*drawn, np.zeros(0, dtype=np.int64)])
        rows = rows[_fitting(boxes, self._database.boxes(rows))]
        return PastedObjects(
            points=self._database.points(rows),
            boxes=self._database.boxes(rows),
            labels=self._database.objects["label"][rows].astype(np.int64),
        )


def with_pasted(points: NDArray[np.float32], pasted: PastedObjects) -> NDArray[np.float32]:
    """The scene's points (L, 5), without those where an object is pasted, and the objects' points; BEV frame."""
    keep = np.ones(len(points), dtype=np.bool_)
    for rows in points_in_boxes(points[:, :3], pasted.boxes):
        keep[rows] = False
    return np.concatenate([pasted.points, points[keep]])


def _fitting(present: Boxes3D, drawn: Boxes3D) -> NDArray[np.bool_]:
    """(len(drawn),) which of them overlap neither a present box nor an earlier kept one."""
    xy = np.concatenate([present.centers[:, :2], drawn.centers[:, :2]])
    yaws = np.concatenate([present.yaws, drawn.yaws])
    half = np.concatenate([present.sizes[:, :2], drawn.sizes[:, :2]]) / 2
    keep = np.ones(len(xy), dtype=np.bool_)
    drop_later(keep, overlapping_pairs(xy, yaws, half, np.arange(len(present), len(xy))), len(present))
    return keep[len(present) :]
