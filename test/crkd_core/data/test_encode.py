"""Network input from sensor frames, training samples from annotated ones."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from crkd_core.config import BevAugmentConfig, BevConfig, Recipe, SensorDropout, load_recipe
from crkd_core.data.augment import BevAugment
from crkd_core.data.encode import collate, encode, encode_training, training_boxes
from crkd_core.data.errors import DataError
from crkd_core.data.radar import FEATURE_INDEX
from crkd_core.geometry.transforms import apply, transform, yaw_rotation
from crkd_core.types import (
    DETECTION_CLASSES,
    RADAR_DTYPE,
    AnnotatedFrame,
    Boxes3D,
    CameraImage,
    NetworkInput,
    RadarSweep,
    SensorFrame,
    wrapped,
)

STAMP = 1_000_000_000
T_BASE_FROM_BEV = transform(yaw_rotation(-np.pi / 2), [1.0, 0.0, 1.8])
# Optical axes: x right, y down, z forward.
R_BASE_FROM_CAM = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
K = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("student_tiny")


def sensor_frame(cameras: tuple[str, ...] = ("CAM_BACK", "CAM_FRONT"), x_world: float = 5.0) -> SensorFrame:
    """The vehicle drives along the world's x; the images are 1 m older than the frame."""
    points = np.zeros(3, dtype=RADAR_DTYPE)
    points["x"], points["y"] = [10.0, 30.0, 100.0], [0.0, 1.0, 0.0]
    shade = {name: np.full((90, 160, 3), 20 + 40 * i, dtype=np.uint8) for i, name in enumerate(cameras)}
    T_base_from_cam = transform(R_BASE_FROM_CAM, [1.5, 0.0, 1.6])
    T_world_from_base = transform(np.eye(3), [x_world, 0, 0])
    earlier = transform(np.eye(3), [x_world - 1, 0, 0])
    return SensorFrame(
        cameras={n: CameraImage(shade[n], K, T_base_from_cam, earlier, STAMP - 50_000_000) for n in cameras},
        radars={"RADAR_FRONT": [RadarSweep(points, transform(np.eye(3), [3, 0, 0.5]), T_world_from_base, STAMP)]},
        stamp=STAMP,
        T_world_from_base=T_world_from_base,
        T_base_from_bev=T_BASE_FROM_BEV,
    )


def annotated(centers: Any, **changes: Any) -> AnnotatedFrame:
    n = len(centers)
    boxes = Boxes3D(centers, np.tile([4.0, 2.0, 1.5], (n, 1)), np.zeros(n), np.tile([3.0, 0.0], (n, 1)))
    sample = AnnotatedFrame(sensor_frame(), boxes, np.arange(n), np.ones(n, dtype=np.int64), "a sample")
    return replace(sample, **changes)


def shapes(inputs: NetworkInput) -> dict[str, tuple[int, ...]]:
    return {f.name: tuple(getattr(inputs, f.name).shape) for f in fields(NetworkInput)}


class TestEncode:
    def test_shapes_and_types(self, recipe: Recipe):
        inputs = encode(sensor_frame(), recipe)
        height, width = recipe.image.size
        assert shapes(inputs) == {
            "images": (2, 3, height, width),
            "image_sample": (2,),
            "intrinsics": (2, 3, 3),
            "T_bev_from_cam": (2, 4, 4),
            "image_augment": (2, 3, 3),
            "bev_augment": (1, 4, 4),
            "lidar": (0, 5),
            "lidar_sample": (0,),
            "radar": (2, 45),
            "radar_sample": (2,),
        }
        for field in fields(NetworkInput):
            expected = torch.int64 if field.name.endswith("_sample") else torch.float32
            assert getattr(inputs, field.name).dtype == expected

    def test_known_cameras_come_in_the_originals_order_and_others_after(self, recipe: Recipe):
        names = ("extra", "CAM_BACK", "CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")
        images = encode(sensor_frame(names), recipe).images
        brightness = torch.tensor([images[i, 0, -5, 170] for i in range(5)])
        # CAM_FRONT, CAM_FRONT_RIGHT, CAM_FRONT_LEFT, CAM_BACK, extra by position in ``names``.
        assert brightness.argsort().argsort().tolist() == [3, 4, 2, 1, 0]

    def test_sensors_without_a_branch_are_not_read(self):
        frame = sensor_frame()
        damaged = {name: replace(camera, image=b"no image") for name, camera in frame.cameras.items()}
        radar_only = encode(replace(frame, cameras=damaged), load_recipe("radar_tiny"))
        assert (len(radar_only.images), len(radar_only.T_bev_from_cam), len(radar_only.radar)) == (0, 0, 2)
        camera_only = encode(frame, load_recipe("camera_tiny"), rng=np.random.default_rng(0))
        assert (len(camera_only.images), len(camera_only.radar), camera_only.batch_size) == (2, 0, 1)

    def test_camera_geometry_contains_the_motion_since_the_image(self, recipe: Recipe):
        """A point 10 m before the camera, seen 1 m ago, is 10.5 m ahead of base now, 9.5 m of the BEV frame."""
        inputs = encode(sensor_frame(), recipe)
        in_bev = apply(inputs.T_bev_from_cam[0].numpy().astype(np.float64), [[0, 0, 10]])
        np.testing.assert_allclose(in_bev, [[0, 9.5, -0.2]], atol=1e-5)

    def test_vehicle_far_from_the_worlds_origin_loses_no_precision(self, recipe: Recipe):
        near, far = encode(sensor_frame(), recipe), encode(sensor_frame(x_world=3e6), recipe)
        torch.testing.assert_close(near.T_bev_from_cam, far.T_bev_from_cam, atol=1e-5, rtol=0)
        torch.testing.assert_close(near.radar, far.radar, atol=1e-5, rtol=0)

    def test_returns_beyond_the_grid_are_left_out(self, recipe: Recipe):
        radar = encode(sensor_frame(), recipe).radar
        np.testing.assert_allclose(radar[:, FEATURE_INDEX["y"]], [12, 32], atol=1e-5)

    def test_test_time_is_not_augmented_and_repeats(self, recipe: Recipe):
        first, second = encode(sensor_frame(), recipe), encode(sensor_frame(), recipe)
        assert torch.equal(first.bev_augment[0], torch.eye(4))
        for field in fields(NetworkInput):
            assert torch.equal(getattr(first, field.name), getattr(second, field.name))

    def test_missing_sensors_add_nothing(self, recipe: Recipe):
        frame = replace(sensor_frame(), cameras={}, radars={})
        inputs = encode(frame, recipe)
        assert inputs.batch_size == 1
        assert shapes(inputs)["images"] == (0, 3, *recipe.image.size)
        assert shapes(inputs)["radar"] == (0, 45)

    def test_threads_change_nothing(self, recipe: Recipe):
        with ThreadPoolExecutor(3) as pool:
            for seed in (None, 4):
                rngs = [None, None] if seed is None else [np.random.default_rng(seed) for _ in range(2)]
                alone = encode(sensor_frame(), recipe, rng=rngs[0])
                together = encode(sensor_frame(), recipe, rng=rngs[1], pool=pool)
                for field in fields(NetworkInput):
                    assert torch.equal(getattr(alone, field.name), getattr(together, field.name))

    def test_damaged_image_is_told_by_its_camera(self, recipe: Recipe):
        frame = sensor_frame()
        frame.cameras["CAM_BACK"] = replace(frame.cameras["CAM_BACK"], image=b"\xff\xd8 broken")
        with pytest.raises(DataError, match=r"^CAM_BACK: "):
            encode(frame, recipe)


@pytest.mark.golden
class TestGolden:
    """Cameras and ground truth of one sample, as the original's data set gives them to its pipeline."""

    @pytest.fixture
    def golden(self, load_golden: Callable[[str], Any]) -> Any:
        return load_golden("calibration_and_gt")

    def frame(self, golden: Any) -> SensorFrame:
        def pose(name: str) -> Any:
            return transform(golden[f"in.{name}_rotation"], golden[f"in.{name}_translation"])

        cameras = {
            f"sensor{i}": CameraImage(
                image=np.zeros((90, 160, 3), dtype=np.uint8),
                intrinsics=golden[f"in.sensor{i}.cam_intrinsic"].numpy(),
                T_base_from_cam=pose(f"sensor{i}.sensor2ego"),
                T_world_from_base=pose(f"sensor{i}.ego2global"),
                stamp=STAMP,
            )
            for i in range(3)
        }
        return SensorFrame(cameras, {}, STAMP, pose("ego2global"), pose("lidar2ego"))

    def test_cameras(self, golden: Any, recipe: Recipe):
        inputs = encode(self.frame(golden), recipe)
        assert torch.allclose(inputs.T_bev_from_cam, golden["out.camera2lidar"], atol=1e-5)
        projections = np.stack([np.eye(4)] * 3)
        projections[:, :3, :3] = inputs.intrinsics
        projections = projections @ np.linalg.inv(inputs.T_bev_from_cam.numpy().astype(np.float64))
        np.testing.assert_allclose(projections, golden["out.lidar2image"], rtol=1e-5, atol=2e-3)

    def test_ground_truth(self, golden: Any):
        """The order of classes, the objects without returns left out, an unknown velocity as zero."""
        frame = self.frame(golden)
        ann = {key: value.numpy() for key, value in golden.group("in.ann.").items()}
        labels = np.array(
            [DETECTION_CLASSES.index(n) if n in DETECTION_CLASSES else -1 for n in golden.meta["ann_names"]]
        )
        in_world = Boxes3D.from_nuscenes(ann["translation"], ann["wlh"], ann["rotation"], ann["global_velocity_xy"])
        in_base = in_world.transformed(np.linalg.inv(frame.T_world_from_base))
        sample = AnnotatedFrame(frame, in_base, labels, ann["valid_flag"].astype(np.int64), "golden")
        everywhere = BevConfig(x_range=(-1.2e6, 1.2e6), y_range=(-1.2e6, 1.2e6), cell=600)
        boxes, found = training_boxes(sample, everywhere, BevAugment())
        np.testing.assert_array_equal(found, golden["out.gt_labels_3d"])
        difference = boxes.to_mmdet3d() - golden["out.gt_bboxes_3d"].numpy()
        difference[:, 6] = wrapped(difference[:, 6])
        # By way of base, the vehicle's tilt enters yaw and velocity to second order.
        np.testing.assert_allclose(difference[:, :6], 0, atol=5e-6)
        np.testing.assert_allclose(difference[:, 6], 0, atol=1e-4)
        np.testing.assert_allclose(difference[:, 7:], 0, atol=2e-3)


class TestTraining:
    def test_worked_example(self, recipe: Recipe):
        """A car 10 m ahead of the BEV frame, facing and driving forward."""
        sample = annotated([[11.0, 0.0, 1.6]])
        training = encode_training(sample, recipe, None)
        expected = [[0, 10, -0.2 - 0.75, 2, 4, 1.5, -np.pi, 0, 3]]
        np.testing.assert_allclose(training.boxes, expected, atol=1e-5)
        assert training.boxes.dtype == torch.float32
        assert training.labels.tolist() == [0]
        assert (training.token,) == ("a sample",)

    def test_boxes_without_returns_are_left_out(self):
        sample = annotated([[11.0, 0, 0], [12.0, 0, 0]], num_points=np.array([0, 1]))
        boxes, labels = training_boxes(sample, load_recipe("student_r50").bev, BevAugment())
        assert labels.tolist() == [1]
        assert len(boxes) == 1

    def test_boxes_outside_the_grid_are_left_out_after_augmentation(self):
        bev = load_recipe("student_r50").bev
        # The BEV frame is 1 m ahead of base: x = 55 is its border at 54 m.
        sample = annotated([[54.9, 0, 0], [55.0, 0, 0], [20.0, 53.9, 0], [20.0, -54.0, 0], [-40.0, 0, 0]])
        assert training_boxes(sample, bev, BevAugment())[1].tolist() == [0, 2, 4]
        assert training_boxes(sample, bev, BevAugment(scale=1.1))[1].tolist() == [4]
        assert training_boxes(sample, bev, BevAugment(scale=0.9))[1].tolist() == [0, 1, 2, 3, 4]

    def test_unknown_velocity_becomes_zero(self):
        sample = annotated([[11.0, 0, 0]])
        unknown = replace(sample.boxes, velocities=np.array([[np.nan, np.nan]]))
        boxes, _ = training_boxes(replace(sample, boxes=unknown), load_recipe("student_r50").bev, BevAugment())
        np.testing.assert_array_equal(boxes.velocities, [[0, 0]])

    def test_released_radar_augmentation_is_a_recipe_option(self, recipe: Recipe):
        # Scaling alone tells them apart: the released code scales rcs and vx_comp, and leaves vy_comp as it is.
        frame = sensor_frame(("CAM_FRONT",))
        points = np.ones(1, dtype=RADAR_DTYPE)
        frame = replace(frame, radars={"RADAR_FRONT": [replace(frame.radars["RADAR_FRONT"][0], points=points)]})
        at = [FEATURE_INDEX[name] for name in ("rcs", "vx_comp", "vy_comp")]
        plain = encode(frame, recipe).radar[0, at]
        for kind, factors in (("corrected", (1.0, 2.0, 2.0)), ("released", (2.0, 2.0, 1.0))):
            config = BevAugmentConfig(
                scale=(2.0, 2.0), translation_std=0.0, flip_x=False, flip_y=False, radar_velocity=kind
            )
            changed = msgspec.structs.replace(recipe, bev_augment=config)
            found = encode(frame, changed, rng=np.random.default_rng(0)).radar[0, at]
            np.testing.assert_allclose(found, plain * torch.tensor(factors), atol=1e-5)

    def test_the_oldest_radar_sweep_is_repeated_where_the_recipe_says_so(self, recipe: Recipe):
        assert len(encode(sensor_frame(), recipe).radar) == 2
        radar = msgspec.structs.replace(recipe.model.radar, repeat_oldest=True)
        repeating = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, radar=radar))
        assert len(encode(sensor_frame(), repeating).radar) == 2 * 6

    def test_dropped_sensors_are_in_training_samples_only(self, recipe: Recipe):
        dropout = SensorDropout(camera=0.5, radar=0.5)
        dropping = msgspec.structs.replace(recipe, samples=msgspec.structs.replace(recipe.samples, dropout=dropout))
        sample = annotated([[11.0, 0, 0]])
        counts = {
            (len(found.loaded.images), len(found.loaded.radar))
            for found in (encode_training(sample, dropping, np.random.default_rng(seed)) for seed in range(40))
        }
        assert counts == {(2, 2), (2, 0), (1, 2), (1, 0), (0, 2)}
        full = encode_training(sample, dropping, None).loaded
        assert (len(full.images), len(full.radar)) == (2, 2)

    def test_frame_without_boxes(self, recipe: Recipe):
        training = encode_training(annotated(np.zeros((0, 3))), recipe, np.random.default_rng(0))
        assert training.boxes.shape == (0, 9)
        assert training.labels.shape == (0,)

    @pytest.mark.parametrize("seed", range(4))
    def test_box_radar_and_pixels_stay_together_under_augmentation(self, recipe: Recipe, seed: int):
        """One object is a box, a radar return at its centre, and a bright spot in the image."""
        config = BevAugmentConfig(rotation=(-0.7, 0.7))
        recipe = msgspec.structs.replace(recipe, bev_augment=config)
        center = np.array([13.0, 0.5, 1.0])
        frame = sensor_frame(("CAM_FRONT",))
        camera = frame.cameras["CAM_FRONT"]
        pixel = _pixel(camera, center + np.array([1.0, 0, 0]))
        image = np.zeros((900, 1600, 3), dtype=np.uint8)
        spot = np.round(10 * pixel).astype(int)
        image[spot[1] - 6 : spot[1] + 6, spot[0] - 6 : spot[0] + 6] = 255
        camera = replace(camera, image=image, intrinsics=np.diag([10.0, 10.0, 1.0]) @ K)
        points = np.zeros(1, dtype=RADAR_DTYPE)
        points["x"], points["y"], points["z"], points["vx_comp"] = *(center - [3, 0, 0.5]), 3.0
        radar = replace(frame.radars["RADAR_FRONT"][0], points=points)
        frame = replace(frame, cameras={"CAM_FRONT": camera}, radars={"RADAR_FRONT": [radar]})
        sample = annotated([center.tolist()], frame=frame)
        training = encode_training(sample, recipe, np.random.default_rng(seed))
        inputs, box = training.loaded, training.boxes[0].numpy().astype(np.float64)
        middle = box[:3] + np.array([0, 0, box[5] / 2])
        at = [FEATURE_INDEX[name] for name in ("x", "y", "z", "vx_comp", "vy_comp")]
        np.testing.assert_allclose(inputs.radar[0, at], [*middle, *box[7:]], atol=1e-4)
        # From the augmented BEV frame back to the network's image.
        in_bev = np.linalg.inv(inputs.bev_augment[0].numpy().astype(np.float64)) @ [*middle, 1]
        in_camera = np.linalg.inv(inputs.T_bev_from_cam[0].numpy().astype(np.float64)) @ in_bev
        full = inputs.intrinsics[0].numpy() @ (in_camera[:3] / in_camera[2])
        expected = (inputs.image_augment[0].numpy() @ full)[:2]
        bright = inputs.images[0, 0].numpy()
        rows, columns = np.nonzero(bright > bright.mean() + 0.5 * (bright.max() - bright.mean()))
        assert np.abs([columns.mean() + 0.5 - expected[0], rows.mean() + 0.5 - expected[1]]).max() < 1.0


def _pixel(camera: CameraImage, point_in_base_then: np.ndarray) -> np.ndarray:
    """Pixel of a point given in base at the image's stamp."""
    T_cam_from_base = np.linalg.inv(camera.T_base_from_cam)
    in_camera = apply(T_cam_from_base, point_in_base_then[None])[0]
    return np.asarray((camera.intrinsics @ (in_camera / in_camera[2]))[:2])


class TestCollate:
    def test_batch_keeps_samples_apart(self, recipe: Recipe):
        one = encode(sensor_frame(("CAM_FRONT",)), recipe)
        none = encode(replace(sensor_frame(), cameras={}, radars={}), recipe)
        two = encode(sensor_frame(), recipe)
        batch = collate([one, none, two])
        assert batch.batch_size == 3
        assert batch.image_sample.tolist() == [0, 2, 2]
        assert batch.radar_sample.tolist() == [0, 0, 2, 2]
        assert torch.equal(batch.images[1:], two.images)
        assert torch.equal(batch.radar[:2], one.radar)

    def test_batches_can_be_joined_again(self, recipe: Recipe):
        one = encode(sensor_frame(("CAM_FRONT",)), recipe)
        assert collate([collate([one, one]), one]).image_sample.tolist() == [0, 1, 2]
