"""Objects with their LiDAR points, cut out of a data set and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crkd_core.data.errors import DataError
from crkd_core.data.frames import annotated_frame
from crkd_core.data.lidar import lidar_points, points_in_boxes
from crkd_core.data.lidar_database import LidarDatabase, build_scene, open_database, read_scene, scene_is_done
from crkd_core.data.nuscenes import NuScenesIndex, load_index
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import LIDAR_DTYPE, Boxes3D

SCENE = "scene-0001"


def write_lidar(tiny_set: Any, key: int) -> None:
    """Key frame ``key`` sees three returns in the car, whose centre is (20, 0, 1) in base at first, and one beside."""
    in_base = np.array([[20.5, 0.5, 1.2], [19, -0.9, 0.4], [21.9, 0, 1.7], [25, 0, 1]]) - [4.0 * key, 0, 0]
    turn = np.array([[np.cos(0.1 * key), np.sin(0.1 * key), 0], [-np.sin(0.1 * key), np.cos(0.1 * key), 0], [0, 0, 1]])
    in_base = in_base @ turn.T
    points = np.zeros(4, dtype=LIDAR_DTYPE)
    # LIDAR_TOP is 1 m before and 1.5 m above base, x to the right.
    points["x"], points["y"], points["z"] = -in_base[:, 1], in_base[:, 0] - 1, in_base[:, 2] - 1.5
    points["intensity"] = [7, 255, 31.5, 1]
    tiny_set.files("LIDAR_TOP", key=True)[key].write_bytes(points.tobytes())


@pytest.fixture
def index(tiny_set: Any) -> NuScenesIndex:
    for key in range(3):
        write_lidar(tiny_set, key)
    return load_index(tiny_set.root, tiny_set.version)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "objects"
    folder.mkdir()
    return folder


def opened(index: NuScenesIndex, folder: Path, *, min_points: int = 1, sweeps: int = 0) -> LidarDatabase:
    return open_database(folder, index, index.scene(SCENE).samples, sweeps=sweeps, min_points=min_points)


def test_objects_are_their_boxes_and_the_points_inside(index: NuScenesIndex, folder: Path):
    build_scene(index, index.scene(SCENE), folder, sweeps=0)
    database = opened(index, folder)
    assert database.objects["label"].tolist() == [0, 0, 0]  # the cone has no returns, the animal no class
    assert database.objects["count"].tolist() == [3, 3, 3]
    boxes = database.boxes(np.array([0]))
    np.testing.assert_allclose(boxes.centers, [[0, 19, -0.5]], atol=1e-5)
    np.testing.assert_allclose(boxes.sizes, [[4, 2, 1.5]], atol=1e-6)
    np.testing.assert_allclose(boxes.yaws, [np.pi / 2], atol=1e-6)
    np.testing.assert_allclose(boxes.velocities, [[0, 2]], atol=1e-5)
    points = database.points(np.array([0]))
    np.testing.assert_allclose(points[:, :3], [[-0.5, 19.5, -0.3], [0.9, 18, -1.1], [0, 20.9, 0.2]], atol=6e-4)
    np.testing.assert_allclose(points[:, 3:], [[7, 0], [255, 0], [31.5, 0]])
    assert len(database.points(np.array([2, 0]))) == 6
    assert database.points(np.zeros(0, dtype=np.int64)).shape == (0, 5)


def test_objects_of_other_samples_and_with_few_points_are_left_out(index: NuScenesIndex, folder: Path):
    build_scene(index, index.scene(SCENE), folder, sweeps=0)
    training = index.scene(SCENE).samples[1:2]
    assert len(open_database(folder, index, training, sweeps=0, min_points=3)) == 1
    assert len(opened(index, folder, min_points=4)) == 0


def test_points_of_earlier_sweeps_are_added_with_their_age(index: NuScenesIndex, folder: Path, tiny_set: Any):
    at_key = tiny_set.files("LIDAR_TOP", key=True)[2].read_bytes()
    tiny_set.files("LIDAR_TOP", key=False)[-1].write_bytes(at_key)  # 50 ms before it, 0.5 m behind
    build_scene(index, index.scene(SCENE), folder, sweeps=2)
    frame = annotated_frame(index, index.scene(SCENE).samples[2], lidar_sweeps=range(3))
    expected = lidar_points(frame.frame, sweeps=2)
    boxes = frame.boxes.transformed(inverse(frame.frame.T_base_from_bev))
    inside = expected[points_in_boxes(expected[:, :3], boxes)[0]]
    assert set((1000 * inside[:, 4]).round().tolist()) == {0, 50}
    found = opened(index, folder, sweeps=2).points(np.array([2]))
    np.testing.assert_allclose(found[:, :3], inside[:, :3], atol=6e-4)
    np.testing.assert_allclose(found[:, 3:], inside[:, 3:], atol=1.3e-4)


def test_a_scene_is_done_until_its_annotations_sweeps_or_files_change(
    index: NuScenesIndex, folder: Path, tiny_set: Any
):
    scene = index.scene(SCENE)
    assert not scene_is_done(folder, index, scene, sweeps=0)
    build_scene(index, scene, folder, sweeps=0)
    assert scene_is_done(folder, index, scene, sweeps=0)
    assert not scene_is_done(folder, index, scene, sweeps=1)

    tiny_set.files("LIDAR_TOP", key=True)[1].unlink()
    less = load_index(tiny_set.root, tiny_set.version)
    assert not scene_is_done(folder, less, less.scene(SCENE), sweeps=0)

    tiny_set.tables["sample_annotation"][0]["translation"][0] += 0.1
    tiny_set.write("sample_annotation")
    other = load_index(tiny_set.root, tiny_set.version)
    with pytest.raises(DataError, match=rf"{SCENE}: cut out of other annotations than .*; run training/prepare.py"):
        opened(other, folder)


def test_what_does_not_fit_is_told(index: NuScenesIndex, folder: Path):
    with pytest.raises(DataError, match=f"no LiDAR objects of {SCENE}; run training/prepare.py again"):
        opened(index, folder)
    build_scene(index, index.scene(SCENE), folder, sweeps=0)
    with pytest.raises(DataError, match=r"expected 3 earlier sweeps \(model.lidar.sweeps\), got 0"):
        opened(index, folder, sweeps=3)
    database = opened(index, folder)
    points = folder / f"{SCENE}.points"
    points.write_bytes(points.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{SCENE}.points: truncated"):
        database.points(np.array([2]))
    points.unlink()
    with pytest.raises(DataError, match=rf"{SCENE}.points: cannot be read: No such file"):
        database.points(np.array([0]))


def test_a_damaged_sample_is_named_and_the_others_are_cut_out(index: NuScenesIndex, folder: Path, tiny_set: Any):
    file = tiny_set.files("LIDAR_TOP", key=True)[1]
    file.write_bytes(file.read_bytes()[:-3])
    content = build_scene(index, index.scene(SCENE), folder, sweeps=0)
    assert content.samples == ["scene-0001-0", "scene-0001-2"]
    assert list(content.damaged) == ["scene-0001-1"]
    assert f"{file.name}: truncated" in content.damaged["scene-0001-1"]
    assert opened(index, folder).objects["sample"].tolist() == [0, 1]
    assert not scene_is_done(folder, index, index.scene(SCENE), sweeps=0)  # it may be mended


def test_a_scene_without_all_its_points_counts_as_none(index: NuScenesIndex, folder: Path):
    build_scene(index, index.scene(SCENE), folder, sweeps=0)
    assert read_scene(folder, SCENE) is not None
    points = folder / f"{SCENE}.points"
    points.write_bytes(points.read_bytes()[:-1])
    assert read_scene(folder, SCENE) is None
    points.unlink()
    assert read_scene(folder, SCENE) is None


@pytest.mark.parametrize("content", [b"", b"no msgpack", b"\x81\xa6format\x00"])
def test_an_unfinished_or_foreign_file_counts_as_none(folder: Path, content: bytes):
    (folder / f"{SCENE}.objects").write_bytes(content)
    assert read_scene(folder, SCENE) is None


def test_points_in_boxes_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    n = 12
    boxes = Boxes3D(
        rng.uniform(-40, 40, (n, 3)) * [1, 1, 0.02],
        rng.uniform(0.3, 9, (n, 3)),
        rng.uniform(-4, 4, n),
        np.zeros((n, 2)),
    )
    unit = rng.uniform(-0.6, 0.6, (n, 200, 3)) * boxes.sizes[:, None]
    c, s = np.cos(boxes.yaws)[:, None], np.sin(boxes.yaws)[:, None]
    around = np.stack([unit[..., 0] * c - unit[..., 1] * s, unit[..., 0] * s + unit[..., 1] * c, unit[..., 2]], axis=2)
    around += boxes.centers[:, None]
    xyz = np.concatenate([around.reshape(-1, 3), rng.uniform(-60, 60, (2000, 3))]).astype(np.float32)
    for i, rows in enumerate(points_in_boxes(xyz, boxes)):
        T = np.eye(4)
        T[:2, :2] = [[np.cos(boxes.yaws[i]), -np.sin(boxes.yaws[i])], [np.sin(boxes.yaws[i]), np.cos(boxes.yaws[i])]]
        T[:3, 3] = boxes.centers[i]
        local = apply(inverse(T), xyz)
        expected = np.flatnonzero((np.abs(local) <= boxes.sizes[i] / 2).all(axis=1))
        assert len(expected) > 50
        np.testing.assert_array_equal(np.sort(rows), expected)


def test_no_boxes_and_no_points():
    assert points_in_boxes(np.zeros((5, 3), dtype=np.float32), Boxes3D.empty()) == []
    one = Boxes3D([[0, 0, 0]], [[1, 1, 1]], [0], [[0, 0]])
    assert [len(rows) for rows in points_in_boxes(np.zeros((0, 3), dtype=np.float32), one)] == [0]


@pytest.mark.nuscenes
def test_real_objects_have_as_many_points_as_annotated(nuscenes_root: Path, nuscenes_version: str, folder: Path):
    index = load_index(nuscenes_root, nuscenes_version)
    sample = index.complete_samples()[0]
    scene = index.scenes[sample.scene_index]
    build_scene(index, scene, folder, sweeps=0)
    database = open_database(folder, index, [sample], sweeps=0, min_points=1)
    expected = [a.num_lidar_pts for a in index.annotations(sample) if a.label is not None and a.num_lidar_pts > 0]
    assert len(database) == pytest.approx(len(expected), abs=3)
    assert int(database.objects["count"].sum()) == pytest.approx(sum(expected), rel=0.05)
