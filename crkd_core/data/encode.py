"""From a sensor frame to network input, and from an annotated frame to a training sample."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crkd_core.config import BevConfig, LidarConfig, Recipe
from crkd_core.data.augment import (
    RELEASED_VELOCITY_FEATURES,
    VELOCITY_FEATURES,
    BevAugment,
    augmented_boxes,
    augmented_radar,
    draw_bev_augment,
)
from crkd_core.data.dropout import with_dropped_sensors
from crkd_core.data.images import network_pixels, normalized_pixels
from crkd_core.data.lidar import inside, lidar_points, move_points
from crkd_core.data.paste import PastedObjects, Paster, with_pasted
from crkd_core.data.radar import RADAR_FEATURES, ordered, radar_features, within_range
from crkd_core.geometry.transforms import inverse
from crkd_core.types import AnnotatedFrame, Boxes3D, CameraImage, FloatArray, NetworkInput, SensorFrame

CAMERA_ORDER = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""Cameras of these names come first and in this order; others follow in the order of the frame."""


@dataclass(frozen=True)
class TrainingScene:
    """What is to be learnt from a sample, drawn but not yet encoded: where it shows whether there is anything.

    Attributes:
        frame: the measurements, without dropped sensors.
        boxes: annotated and pasted ones, augmented BEV frame.
        labels: (n,) int64, positions in ``DETECTION_CLASSES``.
        token: the sample's name.
        augment: of the scene.
        pasted: objects that join the scene, if any, before augmentation.
        rng: draws the rest of the augmentation; None: none.
    """

    frame: SensorFrame
    boxes: Boxes3D
    labels: NDArray[np.int64]
    token: str
    augment: BevAugment
    pasted: PastedObjects | None
    rng: np.random.Generator | None


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be read.

    Attributes:
        index: its number in the data set.
        reason: names it and the file or camera.
    """

    index: int
    reason: str


@dataclass(frozen=True)
class TrainingSample:
    """One sample to learn from.

    Attributes:
        loaded: network input of one sample whose images are still uint8 pixels.
        boxes: (n, 9) float32 in the original's encoding (``Boxes3D.to_mmdet3d``), augmented BEV frame.
        labels: (n,) int64, positions in ``DETECTION_CLASSES``.
        token: the sample's name.
        skipped: damaged samples in whose place it is.
    """

    loaded: NetworkInput
    boxes: torch.Tensor
    labels: torch.Tensor
    token: str
    skipped: tuple[Skipped, ...] = ()


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
    augment = BevAugment() if rng is None else draw_bev_augment(recipe.bev_augment, rng)
    return with_normalized_images(_encode(frame, recipe, augment, None, rng, pool))


def with_normalized_images(loaded: NetworkInput) -> NetworkInput:
    """What the network reads, of an input whose images are still uint8 pixels; on the device where they are."""
    return replace(loaded, images=normalized_pixels(loaded.images))


def encode_training(
    sample: AnnotatedFrame,
    recipe: Recipe,
    rng: np.random.Generator | None,
    *,
    pool: Executor | None = None,
) -> TrainingSample:
    """Network input and ground truth of one annotated frame: ``training_scene``, encoded.

    Raises:
        DataError: an image that cannot be decoded, naming the camera.
    """
    return encode_scene(training_scene(sample, recipe, rng), recipe, pool=pool)


def training_scene(
    sample: AnnotatedFrame, recipe: Recipe, rng: np.random.Generator | None, *, paster: Paster | None = None
) -> TrainingScene:
    """What is to be learnt from one annotated frame.

    Boxes without any LiDAR or radar return inside, and boxes whose centre is not strictly inside the BEV grid after
    augmentation, are left out. An unknown velocity becomes zero.

    Args:
        sample: measurements and annotation.
        recipe: BEV range, augmentation and sensor dropout.
        rng: draws augmentation, dropped sensors and pasted objects; None: none of these.
        paster: adds objects; None: none.

    Raises:
        DataError: objects to paste cannot be read.
    """
    if rng is None:
        boxes, labels = training_boxes(sample, recipe.bev, BevAugment())
        return TrainingScene(sample.frame, boxes, labels, sample.token, BevAugment(), None, None)
    augment = draw_bev_augment(recipe.bev_augment, rng)
    # Streams of their own: what is drawn for the images does not depend on them.
    dropping, pasting = rng.spawn(2)
    frame = with_dropped_sensors(sample.frame, recipe, dropping)
    pasted = None if paster is None else paster.draw(*_annotated(sample), pasting)
    boxes, labels = training_boxes(sample, recipe.bev, augment, pasted)
    return TrainingScene(frame, boxes, labels, sample.token, augment, pasted, rng)


def training_boxes(
    sample: AnnotatedFrame, bev: BevConfig, augment: BevAugment, pasted: PastedObjects | None = None
) -> tuple[Boxes3D, NDArray[np.int64]]:
    """Boxes and labels to learn from, in the augmented BEV frame; see ``training_scene``."""
    boxes, labels = _annotated(sample)
    if pasted is not None:
        boxes, labels = boxes.joined(pasted.boxes), np.concatenate([labels, pasted.labels])
    boxes = augmented_boxes(boxes, augment)
    x, y = boxes.centers[:, 0], boxes.centers[:, 1]
    keep = (x > bev.x_range[0]) & (x < bev.x_range[1]) & (y > bev.y_range[0]) & (y < bev.y_range[1])
    kept = boxes.filtered(keep)
    unknown = np.isnan(kept.velocities).any(axis=1, keepdims=True)
    return replace(kept, velocities=np.where(unknown, 0.0, kept.velocities)), labels[keep]


def _annotated(sample: AnnotatedFrame) -> tuple[Boxes3D, NDArray[np.int64]]:
    """The sample's boxes with returns inside, BEV frame, and their labels."""
    seen = sample.num_points > 0
    return sample.boxes.filtered(seen).transformed(inverse(sample.frame.T_base_from_bev)), sample.labels[seen]


def encode_scene(
    scene: TrainingScene, recipe: Recipe, *, teacher: LidarConfig | None = None, pool: Executor | None = None
) -> TrainingSample:
    """Network input and ground truth of a scene.

    Args:
        scene: what to learn.
        recipe: as for ``encode``.
        teacher: LiDAR that a teacher beside a student without one reads.
        pool: as for ``encode``.

    Raises:
        DataError: an image that cannot be decoded, naming the camera.
    """
    return TrainingSample(
        loaded=_encode(scene.frame, recipe, scene.augment, scene.pasted, scene.rng, pool, teacher=teacher),
        boxes=torch.from_numpy(scene.boxes.to_mmdet3d().astype(np.float32)),
        labels=torch.from_numpy(scene.labels),
        token=scene.token,
    )


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


def _encode(
    frame: SensorFrame,
    recipe: Recipe,
    augment: BevAugment,
    pasted: PastedObjects | None,
    rng: np.random.Generator | None,
    pool: Executor | None,
    *,
    teacher: LidarConfig | None = None,
) -> NetworkInput:
    """Network input whose images are still uint8 pixels."""
    names = ordered(tuple(frame.cameras), CAMERA_ORDER) if recipe.model.camera is not None else []
    cameras = [frame.cameras[name] for name in names]
    # One generator per camera: the result does not depend on which thread comes first.
    rngs = [None] * len(names) if rng is None else rng.spawn(len(names))

    def prepared(i: int) -> tuple[NDArray[np.uint8], FloatArray]:
        return network_pixels(cameras[i], recipe.image, name=names[i], rng=rngs[i])

    images = list((pool.map if pool is not None else map)(prepared, range(len(names))))
    released = recipe.bev_augment.radar_velocity == "released"
    velocity = RELEASED_VELOCITY_FEATURES if released else VELOCITY_FEATURES
    radar = augmented_radar(_radar(frame, recipe), augment, velocity=velocity)
    radar = radar[within_range(radar, recipe.bev.x_range, recipe.bev.y_range)]
    lidar = _lidar(frame, recipe.model.lidar or teacher, recipe.bev, augment, pasted, rng)
    return NetworkInput(
        images=_stacked([image for image, _ in images], (3, *recipe.image.size), np.uint8),
        image_sample=torch.zeros(len(names), dtype=torch.int64),
        intrinsics=_stacked([camera.intrinsics for camera in cameras], (3, 3)),
        T_bev_from_cam=_stacked([bev_from_camera(frame, camera) for camera in cameras], (4, 4)),
        image_augment=_stacked([matrix for _, matrix in images], (3, 3)),
        bev_augment=_stacked([augment.matrix()], (4, 4)),
        radar=torch.from_numpy(radar),
        radar_sample=torch.zeros(len(radar), dtype=torch.int64),
        lidar=torch.from_numpy(lidar),
        lidar_sample=torch.zeros(len(lidar), dtype=torch.int64),
    )


def _radar(frame: SensorFrame, recipe: Recipe) -> NDArray[np.float32]:
    config = recipe.model.radar
    if config is None:
        return np.zeros((0, len(RADAR_FEATURES)), dtype=np.float32)
    return radar_features(frame, sweeps=config.sweeps, repeat_oldest=config.repeat_oldest)


def _lidar(
    frame: SensorFrame,
    config: LidarConfig | None,
    bev: BevConfig,
    augment: BevAugment,
    pasted: PastedObjects | None,
    rng: np.random.Generator | None,
) -> NDArray[np.float32]:
    """(L, 5) points strictly inside the BEV range after augmentation, in random order in training."""
    if config is None:
        return np.zeros((0, 5), dtype=np.float32)
    # A stream of its own: what is drawn for the cameras does not depend on the LiDAR.
    own = None if rng is None else rng.spawn(1)[0]
    chosen, T_out_from_bev = own if config.random_sweeps else None, augment.matrix()
    if pasted is None:
        points = lidar_points(frame, sweeps=config.sweeps, rng=chosen, T_out_from_bev=T_out_from_bev)
    else:
        points = with_pasted(lidar_points(frame, sweeps=config.sweeps, rng=chosen), pasted)
        move_points(T_out_from_bev, points)
    rows = np.flatnonzero(inside(points, bev))
    # The order is drawn for the numbers of the points: they are copied once, and shuffled as fast as integers are.
    return points.take(rows if own is None else own.permutation(rows), axis=0)


def _stacked(
    values: Sequence[NDArray[Any]], shape: tuple[int, ...], dtype: type[np.generic] = np.float32
) -> torch.Tensor:
    stacked = np.stack(values) if len(values) else np.zeros((0, *shape))
    return torch.from_numpy(np.ascontiguousarray(stacked, dtype=dtype))
