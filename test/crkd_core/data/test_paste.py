"""Objects of other samples that join a scene."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from micro import micro_frame, micro_recipe

from crkd_core.config import PasteConfig, PasteCounts, Recipe
from crkd_core.data.dataset import TrainingSet
from crkd_core.data.encode import training_scene
from crkd_core.data.errors import DataError
from crkd_core.data.lidar_database import OBJECT_DTYPE, POINT_DTYPE, LidarDatabase
from crkd_core.data.paste import PastedObjects, Paster, with_pasted
from crkd_core.ops.nms import rotated_iou
from crkd_core.types import DETECTION_CLASSES, AnnotatedFrame, Boxes3D

NONE = PasteCounts(**dict.fromkeys(DETECTION_CLASSES, 0))


@pytest.fixture
def database(tmp_path: Path) -> LidarDatabase:
    """30 cars and 20 pedestrians anywhere on the ground, each of two points 10 cm before and behind its middle."""
    rng = np.random.default_rng(0)
    objects = np.zeros(50, dtype=OBJECT_DTYPE)
    objects["label"] = [0] * 30 + [8] * 20
    objects["count"], objects["first"] = 2, 2 * np.arange(50)
    objects["center"][:, :2] = rng.uniform(-50, 50, (50, 2))
    objects["size"] = np.where(objects["label"][:, None] == 0, [4.5, 2.0, 1.6], [0.7, 0.7, 1.8])
    objects["yaw"] = rng.uniform(-3, 3, 50)
    points = np.zeros(100, dtype=POINT_DTYPE)
    points["offset_mm"][:, 0] = [100, -100] * 50
    points["intensity"] = np.repeat(np.arange(50), 2)
    (tmp_path / "scene-0001.points").write_bytes(points.tobytes())
    return LidarDatabase(tmp_path, ["scene-0001"], [objects])


def config(stop_epoch: int = 15, **counts: int) -> PasteConfig:
    return PasteConfig(stop_epoch=stop_epoch, fill_up_to=msgspec.structs.replace(NONE, **counts))


def drawn(database: LidarDatabase, present: Boxes3D, labels: list[int], seed: int = 0, **counts: int) -> PastedObjects:
    return Paster(database, config(**counts)).draw(present, np.array(labels, dtype=int), np.random.default_rng(seed))


def rectangles(boxes: Boxes3D) -> np.ndarray:
    return boxes.to_mmdet3d()[:, [0, 1, 3, 4, 6]]


class TestDraw:
    def test_each_class_is_filled_up_to_its_number(self, database: LidarDatabase):
        far = Boxes3D(np.full((2, 3), 500.0), np.ones((2, 3)), np.zeros(2), np.zeros((2, 2)))
        counts = [
            np.bincount(drawn(database, far, [0, 0], seed, car=3, pedestrian=2, bus=4).labels, minlength=10)
            for seed in range(30)
        ]
        assert max(c[0] for c in counts) == 1
        assert max(c[8] for c in counts) == 2
        assert all(c.sum() == c[0] + c[8] for c in counts)  # there is no bus to draw
        assert len(drawn(database, far, [0, 0], car=2).labels) == 0

    def test_no_two_boxes_overlap(self, database: LidarDatabase):
        rng = np.random.default_rng(1)
        present = Boxes3D(
            rng.uniform(-50, 50, (40, 3)), np.full((40, 3), 6.0), rng.uniform(-3, 3, 40), np.zeros((40, 2))
        )
        total = 0
        for seed in range(10):
            found = drawn(database, present, [1] * 40, seed, car=30, pedestrian=20)
            boxes = rectangles(present.joined(found.boxes))
            i, j = np.triu_indices(len(boxes), k=1)
            new = j >= 40
            assert rotated_iou(boxes[i[new]], boxes[j[new]]).max() < 1e-9
            total += len(found.labels)
        assert 100 < total < 450  # of 500 drawn: some fit, some do not

    def test_an_object_is_drawn_once_with_its_own_points(self, database: LidarDatabase):
        found = drawn(database, Boxes3D.empty(), [], car=30)
        assert len(np.unique(found.boxes.centers, axis=0)) == len(found.labels) > 10
        middles = found.points[:, :3].reshape(-1, 2, 3).mean(axis=1)
        np.testing.assert_allclose(middles, found.boxes.centers, atol=1e-3)
        rows = found.points[::2, 3].astype(int)
        np.testing.assert_allclose(database.boxes(rows).centers, found.boxes.centers)

    def test_the_seed_decides(self, database: LidarDatabase):
        first, again, other = (drawn(database, Boxes3D.empty(), [], seed, car=3) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.points, again.points)
        assert not np.array_equal(first.boxes.centers, other.boxes.centers)

    def test_it_ends_with_the_epoch_of_the_recipe(self, database: LidarDatabase):
        paster = Paster(database, config(stop_epoch=2))
        assert [paster.active(epoch) for epoch in range(4)] == [True, True, False, False]


def test_points_inside_pasted_boxes_make_room():
    boxes = Boxes3D([[10.0, 0, 0]], [[4, 2, 1.5]], [0.0], [[0, 0]])
    pasted = PastedObjects(np.full((3, 5), 10, dtype=np.float32), boxes, np.array([0]))
    scene = np.array([[10, 0, 0, 1, 0], [11.9, 0.9, 0.7, 2, 0], [12.1, 0, 0, 3, 0], [0, 0, 0, 4, 0]], dtype=np.float32)
    found = with_pasted(scene, pasted)
    assert found[:3].tolist() == pasted.points.tolist()
    assert found[3:, 3].tolist() == [3, 4]


class TestTraining:
    @pytest.fixture
    def recipe(self) -> Recipe:
        recipe = micro_recipe()
        paste = msgspec.structs.replace(config(stop_epoch=1, pedestrian=8), without_lidar=True)
        return msgspec.structs.replace(recipe, samples=msgspec.structs.replace(recipe.samples, paste=paste))

    def frame(self) -> AnnotatedFrame:
        return micro_frame(0)

    def test_pasted_boxes_are_learnt_and_augmented_with_the_scene(self, recipe: Recipe, database: LidarDatabase):
        paster = Paster(database, recipe.samples.paste or config())
        scene = training_scene(self.frame(), recipe, np.random.default_rng(0), paster=paster)
        plain = training_scene(self.frame(), recipe, np.random.default_rng(0))
        assert scene.pasted is not None
        expected = len(plain.labels) + len(scene.pasted.labels)
        assert len(plain.labels) < len(scene.labels) <= expected
        np.testing.assert_allclose(scene.boxes.centers[: len(plain.labels)], plain.boxes.centers)
        T = scene.augment.matrix()
        moved = scene.pasted.boxes.centers @ T[:3, :3].T + T[:3, 3]
        last = scene.boxes.centers[-1]
        assert np.abs(moved - last).sum(axis=1).min() < 1e-9

    def test_only_epochs_before_the_last_paste(self, recipe: Recipe, database: LidarDatabase):
        samples = TrainingSet([self.frame()], recipe, database=database)
        assert len(samples[0, 0].labels) > 3
        assert len(samples[1, 0].labels) <= 3
        assert len(TrainingSet([self.frame()], recipe, augment=False)[0, 0].labels) == 3

    def test_without_objects_the_fix_is_told(self, recipe: Recipe):
        with pytest.raises(DataError, match=r"samples\.paste needs the LiDAR objects that training/prepare"):
            TrainingSet([self.frame()], recipe)
