"""Samples as the network reads them: what is drawn lies where the pictures show it, with every augmentation."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from micro import micro_recipe

from crkd_core.config import Recipe
from crkd_core.data.augment import BevAugment
from crkd_core.data.encode import TrainingSample, TrainingScene, encode_scene
from crkd_core.drawing.inputs import PANEL_WIDTH, TEXT_SIZE, draw_input
from crkd_core.drawing.style import CLASS_COLORS
from crkd_core.geometry.transforms import inverse, transform
from crkd_core.types import RADAR_DTYPE, Boxes3D, CameraImage, RadarSweep, SensorFrame

# Optical axes (x right, y down, z forward) of a camera that looks along base_link's x.
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
T_BASE_FROM_BEV = transform(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), [0.9, 0, 1.8])
OBJECT = np.array([20.0, 2.0, 1.2])  # base_link
K = np.array([[300.0, 0, 200], [0, 300, 100], [0, 0, 1]])
AUGMENTS = {
    "none": BevAugment(),
    "scaled": BevAugment(scale=1.1),
    "turned": BevAugment(rotation=0.6, translation=(0.5, -1.0, 0.3)),
    "mirrored": BevAugment(flip_x=True),
    "all": BevAugment(scale=0.9, rotation=-0.4, translation=(1.0, 0.5, -0.5), flip_x=True, flip_y=True),
}


def recipe() -> Recipe:
    return micro_recipe()


def encoded(augment: BevAugment, rng: np.random.Generator | None, *, radar: bool = True) -> TrainingSample:
    """A dark picture with a white spot where ``OBJECT`` is, and one radar return from there."""
    T_base_from_cam = transform(FORWARD, [1.5, 0.0, 1.5])
    u, v, w = K @ inverse(T_base_from_cam)[:3] @ [*OBJECT, 1]
    image = np.full((225, 400, 3), 30, dtype=np.uint8)
    cv2.circle(image, (round(u / w), round(v / w)), 5, (255, 255, 255), -1)
    points = np.zeros(int(radar), dtype=RADAR_DTYPE)
    for axis, value in zip("xyz", OBJECT, strict=True):
        points[axis] = value
    frame = SensorFrame(
        cameras={"CAM_FRONT": CameraImage(image, K, T_base_from_cam, np.eye(4), 0)},
        radars={"RADAR_FRONT": [RadarSweep(points, np.eye(4), np.eye(4), 0)]},
        stamp=0,
        T_world_from_base=np.eye(4),
        T_base_from_bev=T_BASE_FROM_BEV,
    )
    scene = TrainingScene(frame, Boxes3D.empty(), np.zeros(0, dtype=np.int64), "", augment, None, rng)
    return encode_scene(scene, recipe())


def with_box(sample: TrainingSample, augment: BevAugment) -> TrainingSample:
    """A car at ``OBJECT``."""
    center = (inverse(T_BASE_FROM_BEV) @ [*OBJECT, 1])[None, :3]
    boxes = Boxes3D(center, np.array([[4.0, 1.8, 1.5]]), np.zeros(1), np.zeros((1, 2)))
    moved = boxes.transformed(augment.matrix())
    encoding = torch.from_numpy(moved.to_mmdet3d().astype(np.float32))
    return replace(sample, boxes=encoding, labels=torch.zeros(1, dtype=torch.int64))


def drawn(sample: TrainingSample, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """The camera's panel and the bird's-eye view."""
    sheet = draw_input(sample, cameras=["CAM_FRONT"], bev=recipe().bev, T_base_from_bev=T_BASE_FROM_BEV, **options)  # type: ignore[arg-type]
    return sheet[:, :PANEL_WIDTH], sheet[:, PANEL_WIDTH:]


def middle(mask: np.ndarray) -> np.ndarray:
    """(x, y) in the middle of the marked pixels."""
    assert mask.any()
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


def changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(a.astype(int) - b) > 25).any(axis=-1))


def spot(panel: np.ndarray) -> np.ndarray:
    label = 3 * TEXT_SIZE
    return middle((panel[label:] > 150).all(axis=-1)) + np.array([0, label])


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
@pytest.mark.parametrize("seed", [None, 1, 2])
class TestCameras:
    def rngs(self, seed: int | None) -> list[np.random.Generator | None]:
        return [None if seed is None else np.random.default_rng(seed) for _ in range(2)]

    def test_a_radar_return_lies_on_its_object(self, augment: BevAugment, seed: int | None):
        with_radar, without = (
            drawn(encoded(augment, rng, radar=radar))[0]
            for rng, radar in zip(self.rngs(seed), (True, False), strict=True)
        )
        # The network's image is shown seven times as large: its pixels are 7 wide.
        np.testing.assert_allclose(middle(changed(with_radar, without)), spot(without), atol=7)

    def test_a_lidar_point_lies_on_its_object(self, augment: BevAugment, seed: int | None):
        sample = encoded(augment, self.rngs(seed)[0], radar=False)
        point = (inverse(T_BASE_FROM_BEV) @ [*OBJECT, 1])[None].astype(np.float32)
        with_point, without = drawn(sample, lidar=point)[0], drawn(sample)[0]
        np.testing.assert_allclose(middle(changed(with_point, without)), spot(without), atol=7)

    def test_a_box_encloses_its_object(self, augment: BevAugment, seed: int | None):
        sample = encoded(augment, self.rngs(seed)[0], radar=False)
        with_box_, without = drawn(with_box(sample, augment))[0], drawn(sample)[0]
        rows, columns = np.nonzero(changed(with_box_, without))
        x, y = spot(without)
        assert columns.min() < x < columns.max()
        assert rows.min() < y < rows.max()
        assert (np.abs(with_box_.astype(int) - CLASS_COLORS["car"]) <= 40).all(axis=-1).any()

    def test_a_wrong_matrix_shows(self, augment: BevAugment, seed: int | None):
        sample = encoded(augment, self.rngs(seed)[0])
        T = torch.eye(4)
        T[0, 3] = 3.0
        wrong = replace(sample.loaded, bev_augment=T @ sample.loaded.bev_augment)
        _, without = self.rngs(seed)
        background = drawn(encoded(augment, without, radar=False))[0]
        marked = changed(drawn(replace(sample, loaded=wrong))[0], background)
        assert not marked.any() or np.abs(middle(marked) - spot(background)).max() > 40


class TestBirdsEyeView:
    def test_right_is_right_and_forward_is_up(self):
        sample = encoded(BevAugment(), None, radar=False)
        far_off = np.array([[500.0, 0.0, 0.0]], dtype=np.float32)  # counted, not seen
        empty = drawn(sample, lidar=far_off)[1]
        half = empty.shape[1] / 2
        scale = empty.shape[1] / (2 * 1.05 * 54)
        for x, y in ((20.0, 0.0), (0.0, 30.0), (-10.0, -40.0)):
            point = np.array([[x, y, 0.0]], dtype=np.float32)
            found = middle(changed(drawn(sample, lidar=point)[1], empty))
            np.testing.assert_allclose(found, [half + x * scale, half - y * scale], atol=1.5)

    def test_the_vehicle_is_where_the_augmentation_puts_it(self):
        """base_link lies behind the LiDAR; mirrored, before it."""
        ahead, behind = (drawn(encoded(BevAugment(flip_y=flip), None, radar=False))[1] for flip in (False, True))
        rows = [middle((view > 220).all(axis=-1))[1] for view in (ahead, behind)]
        np.testing.assert_allclose(rows[0] + rows[1], ahead.shape[0], atol=3)
        assert rows[0] != pytest.approx(rows[1], abs=0.5)


def test_a_sample_without_cameras_is_its_birds_eye_view():
    sample = encoded(BevAugment(), None)
    none = {
        name: getattr(sample.loaded, name)[:0] for name in ("images", "intrinsics", "T_bev_from_cam", "image_augment")
    }
    view = draw_input(
        replace(sample, loaded=replace(sample.loaded, **none)),
        cameras=[],
        bev=recipe().bev,
        T_base_from_bev=T_BASE_FROM_BEV,
        title="words",
    )
    assert view.shape == (PANEL_WIDTH + 2 * TEXT_SIZE, PANEL_WIDTH, 3)
    assert changed(view[: 2 * TEXT_SIZE], np.zeros_like(view[: 2 * TEXT_SIZE]) + view[0, -1]).any()
