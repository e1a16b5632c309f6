"""LiDAR points of a teacher: the original's rules for sweeps, motion between sweeps, range, training order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.config import BevConfig, Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.data.encode import collate, encode
from crkd_core.data.lidar import inside, lidar_points, move_points
from crkd_core.geometry.transforms import apply, inverse, transform, yaw_rotation
from crkd_core.types import LIDAR_DTYPE, FloatArray, LidarSweep, SensorFrame

STAMP = 2_000_000_000
T_BASE_FROM_LIDAR = transform(yaw_rotation(-np.pi / 2), [1.0, 0.0, 1.8])
T_WORLD_FROM_BASE = transform(yaw_rotation(0.3), [100.0, 50.0, 0.0])


def structured(points: NDArray[np.float32]) -> NDArray[np.void]:
    """(N, 5) columns as a structured array."""
    return np.ascontiguousarray(points, dtype=np.float32).view(LIDAR_DTYPE)[:, 0]


def frame_of(*sweeps: LidarSweep) -> SensorFrame:
    return SensorFrame({}, {}, STAMP, T_WORLD_FROM_BASE, T_BASE_FROM_LIDAR, lidar=sweeps)


def sweep(points: Any, *, age_ms: int = 0, T_world_from_base: FloatArray = T_WORLD_FROM_BASE) -> LidarSweep:
    return LidarSweep(
        structured(np.asarray(points, dtype=np.float32)), T_BASE_FROM_LIDAR, T_world_from_base, STAMP - age_ms * 10**6
    )


def point(x: float, y: float, z: float = 0.0) -> list[float]:
    return [x, y, z, 30.0, 11.0]


class TestGolden:
    pytestmark = pytest.mark.golden

    def frame(self, g: Any, sweeps: int) -> SensorFrame:
        """Key and sweeps whose transform into the key frame is the given one."""
        key = LidarSweep(structured(g["in.key"].numpy()), np.eye(4), np.eye(4), 1000 * g.meta["key_timestamp_us"])
        earlier = [
            LidarSweep(
                structured(g[f"in.sweep{i}"].numpy()),
                np.eye(4),
                transform(g[f"in.sweep{i}.rotation"].numpy(), g[f"in.sweep{i}.translation"].numpy()),
                1000 * int(g[f"in.sweep{i}.timestamp_us"]),
            )
            for i in range(sweeps)
        ]
        return SensorFrame({}, {}, key.stamp, np.eye(4), np.eye(4), lidar=(key, *earlier))

    @pytest.mark.parametrize(("sweeps", "output"), [(4, "out.four_sweeps"), (0, "out.no_sweeps")])
    def test_sweeps(self, load_golden: Callable[[str], Any], sweeps: int, output: str) -> None:
        g = load_golden("lidar_sweeps")
        points = lidar_points(self.frame(g, sweeps), sweeps=g.meta["sweeps_num"])
        np.testing.assert_allclose(points, g[output], rtol=1e-5, atol=1e-5)


def test_own_returns_are_removed_from_earlier_sweeps_only() -> None:
    own, far, edge = point(0.5, -0.5), point(5, 0), point(1.0, 0.0)
    points = lidar_points(frame_of(sweep([own, far]), sweep([own, far, edge], age_ms=50)), sweeps=9)
    np.testing.assert_allclose(points[:, 0], [0.5, 5, 5, 1], atol=1e-5)
    np.testing.assert_allclose(points[:, 4], [0, 0, 0.05, 0.05], atol=1e-6)
    assert (points[:, 3] == 30.0).all()


def test_a_standing_object_stays_in_place_while_the_vehicle_drives() -> None:
    T_earlier = T_WORLD_FROM_BASE @ transform(yaw_rotation(0.1), [-3.0, 0.2, 0.0])
    in_world = np.array([[120.0, 60.0, 1.0]])
    seen = [apply(inverse(T @ T_BASE_FROM_LIDAR), in_world)[0] for T in (T_WORLD_FROM_BASE, T_earlier)]
    frame = frame_of(sweep([point(*seen[0])]), sweep([point(*seen[1])], age_ms=50, T_world_from_base=T_earlier))
    points = lidar_points(frame, sweeps=9)
    np.testing.assert_allclose(points[0, :3], points[1, :3], atol=1e-4)


def test_the_newest_sweeps_are_taken_unless_drawn() -> None:
    frame = frame_of(*(sweep([point(5 + i, 0)], age_ms=50 * i) for i in range(11)))
    newest = lidar_points(frame, sweeps=9)
    np.testing.assert_allclose(newest[:, 0], np.arange(5, 15), atol=1e-4)
    drawn = [set(lidar_points(frame, sweeps=9, rng=np.random.default_rng(s))[:, 0].round(3)) for s in range(20)]
    assert all(len(choice) == 10 and 5.0 in choice for choice in drawn)
    assert set.union(*drawn) == {5.0 + i for i in range(11)}


def test_no_lidar_gives_no_points() -> None:
    assert lidar_points(frame_of(), sweeps=9).shape == (0, 5)


def test_rings_that_a_driver_does_not_know_do_no_harm() -> None:
    known, unknown = (sweep([[5.0, 1.0, 0.5, 30.0, ring]]) for ring in (11.0, float("nan")))
    np.testing.assert_array_equal(*(lidar_points(frame_of(one), sweeps=0) for one in (known, unknown)))


def test_points_may_lie_apart_in_memory() -> None:
    points = structured(np.random.default_rng(0).uniform(-50, 50, (8, 5)).astype(np.float32))
    apart, together = (
        LidarSweep(chosen, T_BASE_FROM_LIDAR, T_WORLD_FROM_BASE, STAMP) for chosen in (points[::2], points[::2].copy())
    )
    moved = lidar_points(frame_of(apart), sweeps=0)
    np.testing.assert_array_equal(moved, lidar_points(frame_of(together), sweeps=0))
    assert moved.shape == (4, 5)


def test_many_points_are_moved_where_they_are() -> None:
    """More than are moved at a time; intensity and age stay."""
    points = np.random.default_rng(0).uniform(-50, 50, (10_001, 5)).astype(np.float32)
    before, T = points.copy(), transform(yaw_rotation(0.3), [1.0, -2.0, 0.5])
    move_points(T, points)
    np.testing.assert_array_equal(points[:, :3], apply(T, before[:, :3]).astype(np.float32))
    np.testing.assert_array_equal(points[:, 3:], before[:, 3:])


def test_range_is_strict_in_all_axes() -> None:
    points = np.array([[53.9, 0, 0], [54, 0, 0], [0, -54, 0], [0, 0, 3], [0, 0, -5], [0, 0, 2.9]], dtype=np.float32)
    assert inside(points, BevConfig()).tolist() == [True, False, False, False, False, True]


@pytest.fixture(scope="module")
def teacher() -> Recipe:
    return load_recipe("teacher_r50")


def test_a_teacher_reads_points_and_no_radar(teacher: Recipe) -> None:
    frame = frame_of(sweep([point(5, 0), point(60, 0)]), sweep([point(6, 0)], age_ms=50))
    inputs = encode(frame, teacher)
    assert inputs.lidar.shape == (2, 5)
    assert len(inputs.radar) == 0
    batch = collate([inputs, encode(frame_of(), teacher), inputs])
    assert batch.lidar_sample.tolist() == [0, 0, 2, 2]


def test_a_student_reads_no_points() -> None:
    assert len(encode(frame_of(sweep([point(5, 0)])), load_recipe("student_r50")).lidar) == 0


def test_training_moves_points_with_the_scene_in_an_order_of_its_own(teacher: Recipe) -> None:
    cloud = np.random.default_rng(0).uniform(-20, 20, (200, 5)).astype(np.float32)
    cloud[:, 2] = 0
    frame = frame_of(sweep(cloud), sweep(cloud[:1] + 2, age_ms=50))
    plain = encode(frame, teacher).lidar.numpy().astype(np.float64)
    inputs = encode(frame, teacher, rng=np.random.default_rng(1))
    T = inputs.bev_augment[0].numpy().astype(np.float64)
    assert abs(T[0, 1]) > 1e-3  # the teacher's scenes turn
    moved = np.concatenate([apply(T, plain[:, :3]), plain[:, 3:]], axis=1)
    found = inputs.lidar.numpy()
    assert not np.allclose(found, moved, atol=1e-3)
    np.testing.assert_allclose(found[np.lexsort(found.T)], moved[np.lexsort(moved.T)], atol=1e-4)
    again = encode(frame, teacher, rng=np.random.default_rng(1)).lidar.numpy()
    np.testing.assert_array_equal(found, again)


def test_a_random_choice_of_sweeps_is_for_training_only(teacher: Recipe) -> None:
    values = recipe_to_dict(teacher)
    values["model"]["lidar"] |= {"random_sweeps": True, "sweeps": 2}
    values["bev_augment"] |= {"scale": [1, 1], "rotation": [0, 0], "translation_std": 0, "flip_x": False}
    values["bev_augment"]["flip_y"] = False
    recipe = recipe_from_dict(values, source="test")
    assert recipe.lidar_sweeps == range(4)
    frame = frame_of(*(sweep([point(5 + i, 0)], age_ms=50 * i) for i in recipe.lidar_sweeps))
    assert sorted(encode(frame, recipe).lidar[:, 0].round().tolist()) == [5, 6, 7]
    drawn = {
        tuple(sorted(encode(frame, recipe, rng=np.random.default_rng(s)).lidar[:, 0].round().tolist()))
        for s in range(20)
    }
    assert drawn == {(5, 6, 7), (5, 6, 8), (5, 7, 8)}


def test_points_of_another_layout_are_refused() -> None:
    wrong = replace(sweep([point(5, 0)]), points=np.zeros(3, dtype=[("x", "f4"), ("y", "f4")]))
    with pytest.raises((ValueError, KeyError)):
        lidar_points(frame_of(wrong), sweeps=9)
