"""Augmentation of boxes and radar features, and what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from crkd_core.config import BevAugmentConfig, ImageConfig
from crkd_core.data.augment import (
    RELEASED_VELOCITY_FEATURES,
    BevAugment,
    augmented_boxes,
    augmented_radar,
    draw_bev_augment,
    draw_image_augment,
    fixed_image_augment,
)
from crkd_core.data.lidar import move_points
from crkd_core.data.radar import FEATURE_INDEX
from crkd_core.types import Boxes3D, wrapped


def golden_augment(case: dict[str, Any]) -> BevAugment:
    """The original turns clockwise; its horizontal flip negates y, its vertical flip x."""
    return BevAugment(
        scale=case["scale"],
        rotation=-case["rotation"],
        translation=tuple(case["translation"]),
        flip_x=bool(case["flip_vertical"]),
        flip_y=bool(case["flip_horizontal"]),
    )


@pytest.mark.golden
@pytest.mark.parametrize("number", range(6))
class TestGolden:
    def test_matrix(self, load_golden: Callable[[str], Any], number: int):
        golden = load_golden("aug3d")
        matrix = golden_augment(golden.meta["cases"][number]).matrix()
        np.testing.assert_allclose(matrix, golden[f"out.case{number}.lidar_aug_matrix"], atol=1e-6)

    def test_boxes(self, load_golden: Callable[[str], Any], number: int):
        golden = load_golden("aug3d")
        boxes = Boxes3D.from_mmdet3d(golden[f"in.case{number}.boxes"].numpy())
        ours = augmented_boxes(boxes, golden_augment(golden.meta["cases"][number])).to_mmdet3d()
        difference = ours - golden[f"out.case{number}.boxes"].numpy()
        difference[:, 6] = wrapped(difference[:, 6])
        np.testing.assert_allclose(difference, 0, atol=1e-5)

    def test_lidar_points(self, load_golden: Callable[[str], Any], number: int):
        golden = load_golden("aug3d")
        points = golden[f"in.case{number}.points"].numpy().copy()
        move_points(golden_augment(golden.meta["cases"][number]).matrix(), points)
        np.testing.assert_allclose(points, golden[f"out.case{number}.points"], rtol=1e-5, atol=1e-5)

    def test_radar_with_the_columns_of_the_released_code(self, load_golden: Callable[[str], Any], number: int):
        golden = load_golden("aug3d")
        augment = golden_augment(golden.meta["cases"][number])
        features = golden[f"in.case{number}.radar"].numpy()
        ours = augmented_radar(features, augment, velocity=RELEASED_VELOCITY_FEATURES)
        np.testing.assert_allclose(ours, golden[f"out.case{number}.radar"], rtol=1e-5, atol=1e-5)


EXAMPLE = BevAugment(scale=1.1, rotation=0.4, translation=(0.3, -0.2, 0.1), flip_x=True)


def test_radar_velocity_is_augmented_as_a_boxes_is():
    """A return at a box centre with its velocity stays there; rcs is left alone."""
    boxes = Boxes3D([[5.0, 9.0, 0.5]], [[4.0, 2.0, 1.5]], [0.7], [[3.0, -1.0]])
    features = np.zeros((1, 45), dtype=np.float32)
    at = [FEATURE_INDEX[name] for name in ("x", "y", "z", "vx_comp", "vy_comp", "rcs", "dt")]
    features[0, at] = [5, 9, 0.5, 3, -1, 7, 0.1]
    moved_box, moved = augmented_boxes(boxes, EXAMPLE), augmented_radar(features, EXAMPLE)[0, at]
    np.testing.assert_allclose(moved[:3], moved_box.centers[0], atol=1e-5)
    np.testing.assert_allclose(moved[3:5], moved_box.velocities[0], atol=1e-5)
    np.testing.assert_allclose(moved[5:], [7, 0.1], atol=1e-6)


def test_corners_of_a_box_are_the_augmented_corners():
    """As sets of points: a mirrored rectangle has its left and right changed."""
    boxes = Boxes3D([[5.0, 9.0, 0.5]], [[4.0, 2.0, 1.5]], [0.7], [[0.0, 0.0]])
    T = EXAMPLE.matrix()
    expected = boxes.corners()[0] @ T[:3, :3].T + T[:3, 3]
    ours = augmented_boxes(boxes, EXAMPLE).corners()[0]
    np.testing.assert_allclose(np.abs(ours[:, None] - expected[None]).sum(axis=2).min(axis=1), 0, atol=1e-9)


def test_no_augmentation_changes_nothing():
    np.testing.assert_array_equal(BevAugment().matrix(), np.eye(4))


def test_what_is_drawn_stays_in_the_recipes_ranges_and_fills_them():
    config = BevAugmentConfig(scale=(0.9, 1.1), rotation=(-0.5, 0.2), translation_std=0.5)
    rng = np.random.default_rng(0)
    drawn = [draw_bev_augment(config, rng) for _ in range(500)]
    for values, (lower, upper) in (([d.scale for d in drawn], (0.9, 1.1)), ([d.rotation for d in drawn], (-0.5, 0.2))):
        margin = 0.05 * (upper - lower)
        assert lower <= min(values) < lower + margin
        assert upper - margin < max(values) <= upper
    assert np.std([d.translation for d in drawn]) == pytest.approx(0.5, rel=0.1)
    assert {(d.flip_x, d.flip_y) for d in drawn} == {(False, False), (False, True), (True, False), (True, True)}


def test_flips_can_be_switched_off():
    config = BevAugmentConfig(flip_x=False, flip_y=False)
    rng = np.random.default_rng(0)
    drawn = [draw_bev_augment(config, rng) for _ in range(20)]
    assert not any(d.flip_x or d.flip_y for d in drawn)


def test_image_augmentation_stays_in_the_recipes_ranges():
    config = ImageConfig(size=(256, 704), resized_width=768, train_resized_width=(608, 880))
    rng = np.random.default_rng(0)
    drawn = [draw_image_augment(config, 1600, rng) for _ in range(300)]
    assert 0.38 <= min(d.scale for d in drawn) < 0.39
    assert 0.54 < max(d.scale for d in drawn) <= 0.55
    assert 5 < max(abs(d.rotation_deg) for d in drawn) <= 5.4
    assert {d.flip for d in drawn} == {False, True}
    straight = msgspec.structs.replace(config, train_flip=False, train_rotation_deg=0.0)
    drawn = [draw_image_augment(straight, 1600, rng) for _ in range(20)]
    assert not any(d.flip or d.rotation_deg for d in drawn)


def test_test_time_is_the_fixed_width_and_the_middle():
    config = ImageConfig(size=(256, 704), resized_width=768, train_resized_width=(608, 880))
    augment = fixed_image_augment(config, 1600)
    assert (augment.scale, augment.crop_left, augment.flip, augment.rotation_deg) == (0.48, 0.5, False, 0.0)
