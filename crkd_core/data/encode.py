"""From a sensor frame to network input, and from an annotated frame to a training sample."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from crkd_core.config import BevConfig, Recipe
from crkd_core.data.augment import (
    RELEASED_VELOCITY_FEATURES,
    VELOCITY_FEATURES,
    BevAugment,
    augmented_boxes,
    augmented_points,
    augmented_radar,
    draw_bev_augment,
)
from crkd_core.data.images import network_image
from crkd_core.data.lidar import inside, lidar_points
from crkd_core.data.radar import RADAR_FEATURES, ordered, radar_features, within_range
from crkd_core.geometry.transforms import inverse
from crkd_core.types import AnnotatedFrame, Boxes3D, CameraImage, FloatArray, NetworkInput, SensorFrame

CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""Cameras of these names come first and in this order; others follow in the order of the frame."""


@dataclass(frozen=True)
class TrainingSample:
    """One sample to learn from.

    Attributes:
        inputs: network input of one sample.
        boxes: (n, 9) float32 in the original's encoding (``Boxes3D.to_mmdet3d``), augmented BEV frame.
        labels: (n,) int64, positions in ``DETECTION_CLASSES``.
        token: the sample's name.
    """

    inputs: NetworkInput
    boxes: torch.Tensor
    labels: torch.Tensor
    token: str


def encode(
    frame: SensorFrame,
    recipe: Recipe,
    *,
    rng: np.random.Generator | None = None,
    pool: Executor | None = None,
) -> NetworkInput:
    """Network input of one frame.

    Args:
        frame: the measurements.
        recipe: image size, BEV range, number of radar or LiDAR sweeps and augmentation.
        rng: draws the augmentation; None: test time, nothing is augmented.
        pool: the caller's threads; the cameras are prepared on them side by side.

    Raises:
        DataError: an image that cannot be decoded, naming the camera.
    """
    return _encode(frame, recipe, _draw(recipe, rng), rng, pool)


def encode_training(
    sample: AnnotatedFrame,
    recipe: Recipe,
    rng: np.random.Generator | None,
    *,
    pool: Executor | None = None,
) -> TrainingSample:
    """Network input and ground truth of one annotated frame.

    Boxes without any LiDAR or radar return inside, and boxes whose centre is not strictly inside the BEV grid after
    augmentation, are left out. An unknown velocity becomes zero.

    Args:
        sample: measurements and annotation.
        recipe: as for ``encode``.
        rng: draws the augmentation; None: none.
        pool: as for ``encode``.

    Raises:
        DataError: an image that cannot be decoded, naming the camera.
    """
    augment = _draw(recipe, rng)
    inputs = _encode(sample.frame, recipe, augment, rng, pool)
    boxes, labels = training_boxes(sample, recipe.bev, augment)
    return TrainingSample(
        inputs=inputs,
        boxes=torch.from_numpy(boxes.to_mmdet3d().astype(np.float32)),
        labels=torch.from_numpy(labels),
        token=sample.token,
    )


def training_boxes(sample: AnnotatedFrame, bev: BevConfig, augment: BevAugment) -> tuple[Boxes3D, NDArray[np.int64]]:
    """Boxes and labels to learn from, in the augmented BEV frame; see ``encode_training``."""
    in_bev = sample.boxes.transformed(inverse(sample.frame.T_base_from_bev))
    boxes = augmented_boxes(in_bev, augment)
    x, y = boxes.centers[:, 0], boxes.centers[:, 1]
    keep = (sample.num_points > 0) & (x > bev.x_range[0]) & (x < bev.x_range[1])
    keep &= (y > bev.y_range[0]) & (y < bev.y_range[1])
    kept = boxes.filtered(keep)
    unknown = np.isnan(kept.velocities).any(axis=1, keepdims=True)
    velocities = np.where(unknown, 0.0, kept.velocities)
    return Boxes3D(kept.centers, kept.sizes, kept.yaws, velocities), sample.labels[keep]


def collate(inputs: Sequence[NetworkInput]) -> NetworkInput:
    """Several network inputs as one batch, in this order."""
    joined = {f.name: torch.cat([getattr(one, f.name) for one in inputs]) for f in fields(NetworkInput)}
    offsets = np.cumsum([0] + [one.batch_size for one in inputs]).tolist()
    for name in ("image_sample", "radar_sample", "lidar_sample"):
        joined[name] = torch.cat([getattr(one, name) + o for one, o in zip(inputs, offsets, strict=False)])
    return NetworkInput(**joined)


def bev_from_camera(frame: SensorFrame, camera: CameraImage) -> FloatArray:
    """(4, 4): camera frame at the image's stamp -> BEV frame at the frame's stamp."""
    T_world_from_bev = frame.T_world_from_base @ frame.T_base_from_bev
    return inverse(T_world_from_bev) @ camera.T_world_from_base @ camera.T_base_from_cam


def _draw(recipe: Recipe, rng: np.random.Generator | None) -> BevAugment:
    return BevAugment() if rng is None else draw_bev_augment(recipe.bev_augment, rng)


def _encode(
    frame: SensorFrame,
    recipe: Recipe,
    augment: BevAugment,
    rng: np.random.Generator | None,
    pool: Executor | None,
) -> NetworkInput:
    names = ordered(tuple(frame.cameras), CAMERA_ORDER) if recipe.model.camera is not None else []
    cameras = [frame.cameras[name] for name in names]
    # One generator per camera: the result does not depend on which thread comes first.
    rngs = [None] * len(names) if rng is None else rng.spawn(len(names))

    def prepared(i: int) -> tuple[NDArray[np.float32], FloatArray]:
        return network_image(cameras[i], recipe.image, name=names[i], rng=rngs[i])

    images = list((pool.map if pool is not None else map)(prepared, range(len(names))))
    released = recipe.bev_augment.radar_velocity == "released"
    velocity = RELEASED_VELOCITY_FEATURES if released else VELOCITY_FEATURES
    radar = augmented_radar(radar_features(frame, sweeps=recipe.radar_sweeps), augment, velocity=velocity)
    radar = radar[within_range(radar, recipe.bev.x_range, recipe.bev.y_range)]
    lidar = _lidar(frame, recipe, augment, rng)
    return NetworkInput(
        images=_stacked([image for image, _ in images], (3, *recipe.image.size)),
        image_sample=torch.zeros(len(names), dtype=torch.int64),
        intrinsics=_stacked([camera.intrinsics for camera in cameras], (3, 3)),
        T_bev_from_cam=_stacked([bev_from_camera(frame, camera) for camera in cameras], (4, 4)),
        image_augment=_stacked([matrix for _, matrix in images], (3, 3)),
        bev_augment=_stacked([augment.matrix()], (4, 4)),
        radar=torch.from_numpy(radar.reshape(-1, len(RADAR_FEATURES))),
        radar_sample=torch.zeros(len(radar), dtype=torch.int64),
        lidar=torch.from_numpy(lidar),
        lidar_sample=torch.zeros(len(lidar), dtype=torch.int64),
    )


def _lidar(
    frame: SensorFrame, recipe: Recipe, augment: BevAugment, rng: np.random.Generator | None
) -> NDArray[np.float32]:
    """(L, 5) points strictly inside the BEV range after augmentation, in random order in training."""
    config = recipe.model.lidar
    if config is None:
        return np.zeros((0, 5), dtype=np.float32)
    # A stream of its own: what is drawn for the cameras does not depend on the LiDAR.
    own = None if rng is None else rng.spawn(1)[0]
    points = lidar_points(frame, sweeps=config.sweeps, rng=own if config.random_sweeps else None)
    points = augmented_points(points, augment)
    points = points[inside(points, recipe.bev)]
    return points if own is None else own.permutation(points)


def _stacked(values: Sequence[FloatArray | NDArray[np.float32]], shape: tuple[int, ...]) -> torch.Tensor:
    stacked = np.stack(values) if len(values) else np.zeros((0, *shape))
    return torch.from_numpy(np.ascontiguousarray(stacked, dtype=np.float32))
