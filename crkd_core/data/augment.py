"""Training augmentation: what is drawn at random, as plain values, and its effect on boxes and radar features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crkd_core.config import BevAugmentConfig, ImageConfig
from crkd_core.data.radar import FEATURE_INDEX
from crkd_core.geometry.transforms import apply
from crkd_core.types import Boxes3D, FloatArray

VELOCITY_FEATURES = ("vx_comp", "vy_comp")
"""The radar features that turn and scale with the scene."""

RELEASED_VELOCITY_FEATURES = ("rcs", "vx_comp")
"""What the released CRKD code took for them in training (quirk Q11): only to compare with it."""


@dataclass(frozen=True)
class ImageAugment:
    """One drawn (or the test-time) image transformation.

    Attributes:
        scale: resized width / full width.
        crop_left: fraction of the columns in excess of the network's width that are cut off on the left.
        flip: mirror left and right, after the crop.
        rotation_deg: turn counter-clockwise (as seen) about the image centre, after the flip.
    """

    scale: float
    crop_left: float = 0.5
    flip: bool = False
    rotation_deg: float = 0.0


@dataclass(frozen=True)
class BevAugment:
    """One drawn scene transformation: p -> flip(scale * (R p + translation)).

    Attributes:
        scale: factor on positions, sizes and velocities.
        rotation: counter-clockwise about z, rad.
        translation: (x, y, z), m.
        flip_x: negate x.
        flip_y: negate y.
    """

    scale: float = 1.0
    rotation: float = 0.0
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    flip_x: bool = False
    flip_y: bool = False

    def matrix(self) -> FloatArray:
        """(4, 4) float64: BEV frame -> augmented BEV frame."""
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        T = np.eye(4)
        T[:2, :2] = [[c, -s], [s, c]]
        T[:3, 3] = self.translation
        signs = np.array([-1.0 if self.flip_x else 1.0, -1.0 if self.flip_y else 1.0, 1.0])
        T[:3] *= (self.scale * signs)[:, None]
        return T


def fixed_image_augment(config: ImageConfig, full_width: int) -> ImageAugment:
    """The fixed transformation of test time for images of this width."""
    return ImageAugment(scale=config.resized_width / full_width)


def draw_image_augment(config: ImageConfig, full_width: int, rng: np.random.Generator) -> ImageAugment:
    """A random transformation of training for images of this width."""
    angle = config.train_rotation_deg
    return ImageAugment(
        scale=float(rng.uniform(*config.train_resized_width)) / full_width,
        crop_left=float(rng.uniform()),
        flip=bool(rng.integers(2)) and config.train_flip,
        rotation_deg=float(rng.uniform(-angle, angle)),
    )


def draw_bev_augment(config: BevAugmentConfig, rng: np.random.Generator) -> BevAugment:
    """A random scene transformation of training."""
    x, y, z = rng.normal(0.0, config.translation_std, size=3).tolist()
    return BevAugment(
        scale=float(rng.uniform(*config.scale)),
        rotation=float(rng.uniform(*config.rotation)),
        translation=(x, y, z),
        flip_x=bool(rng.integers(2)) and config.flip_x,
        flip_y=bool(rng.integers(2)) and config.flip_y,
    )


def augmented_boxes(boxes: Boxes3D, augment: BevAugment) -> Boxes3D:
    """The boxes of the BEV frame in the augmented BEV frame; sizes and velocities scale along."""
    moved = boxes.transformed(augment.matrix())
    return replace(moved, sizes=moved.sizes * augment.scale)


def augmented_radar(
    features: NDArray[np.float32], augment: BevAugment, *, velocity: tuple[str, str] = VELOCITY_FEATURES
) -> NDArray[np.float32]:
    """Radar features (P, 45) float32 of the BEV frame in the augmented BEV frame.

    Args:
        features: columns as in ``RADAR_FEATURES``.
        augment: the scene's transformation.
        velocity: which two features are the velocity.
    """
    T = augment.matrix()
    out = features.copy()
    xyz = [FEATURE_INDEX[name] for name in ("x", "y", "z")]
    v = [FEATURE_INDEX[name] for name in velocity]
    out[:, xyz] = apply(T, features[:, xyz])
    out[:, v] = features[:, v].astype(np.float64) @ T[:2, :2].T
    return out
