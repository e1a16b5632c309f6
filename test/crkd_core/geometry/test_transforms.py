"""Rigid transforms against scipy and the original's calibration chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from crkd_core.geometry.transforms import (
    apply,
    interpolated,
    inverse,
    quaternion_from_rotation,
    rotation_from_quaternion,
    transform,
    yaw_rotation,
)

RANDOM = Rotation.random(60, random_state=np.random.RandomState(0))
# Half turns, where the scalar part is zero and a naive conversion divides by it.
HALF_TURNS = Rotation.from_rotvec(np.pi * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0, -0.8], [0, 0.6, 0.8]]))
ROTATIONS = Rotation.concatenate([RANDOM, HALF_TURNS, Rotation.identity(1)])


def wxyz(rotation: Rotation) -> np.ndarray:
    x, y, z, w = rotation.as_quat()
    return np.array([w, x, y, z])


@pytest.mark.parametrize("rotation", list(ROTATIONS), ids=range(len(ROTATIONS)))
class TestQuaternions:
    def test_matrix_is_scipys(self, rotation: Rotation):
        np.testing.assert_allclose(rotation_from_quaternion(2.5 * wxyz(rotation)), rotation.as_matrix(), atol=1e-12)

    def test_back_to_the_same_rotation_with_positive_scalar(self, rotation: Rotation):
        q = quaternion_from_rotation(rotation.as_matrix())
        assert q[0] >= 0
        assert np.linalg.norm(q) == pytest.approx(1)
        np.testing.assert_allclose(rotation_from_quaternion(q), rotation.as_matrix(), atol=1e-12)


@pytest.mark.parametrize("quaternion", [[0, 0, 0, 0], [np.nan, 0, 0, 1], [np.inf, 0, 0, 0]])
def test_quaternion_without_direction_is_refused(quaternion: list[float]):
    with pytest.raises(ValueError, match=r"quaternion .*expected a non-zero finite one"):
        rotation_from_quaternion(quaternion)


def test_transform_maps_points_of_b_to_a():
    T_a_from_b = transform(yaw_rotation(np.pi / 2), [10, 0, 1])
    np.testing.assert_allclose(apply(T_a_from_b, [[1, 0, 0], [0, 2, 3]]), [[10, 1, 1], [8, 0, 4]], atol=1e-12)


def test_inverse_undoes_one_and_a_stack():
    stack = np.stack([transform(r.as_matrix(), [1, 2, 3]) for r in RANDOM[:5]])
    np.testing.assert_allclose(inverse(stack) @ stack, np.broadcast_to(np.eye(4), (5, 4, 4)), atol=1e-12)
    np.testing.assert_allclose(inverse(stack[0]), np.linalg.inv(stack[0]), atol=1e-12)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.9, 1.0, 1.2])
def test_interpolation_is_linear_in_place_and_spherical_in_rotation(fraction: float):
    for first, last in zip(RANDOM[:10], RANDOM[10:20], strict=True):
        T = interpolated(transform(first.as_matrix(), [0, 0, 0]), transform(last.as_matrix(), [4, 8, -4]), fraction)
        np.testing.assert_allclose(T[:3, 3], fraction * np.array([4, 8, -4]), atol=1e-12)
        if fraction <= 1:
            expected = Slerp([0, 1], Rotation.concatenate([first, last]))(fraction)
            np.testing.assert_allclose(T[:3, :3], expected.as_matrix(), atol=1e-9)
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)


def test_interpolation_between_equal_poses_is_that_pose():
    T = transform(RANDOM[0].as_matrix(), [1, 2, 3])
    np.testing.assert_allclose(interpolated(T, T, 0.3), T, atol=1e-12)


@pytest.mark.golden
@pytest.mark.parametrize("sensor", [0, 1, 2])
def test_sensor_to_reference_lidar_with_ego_motion(load_golden: Callable[[str], Any], sensor: int):
    golden = load_golden("calibration_and_gt")

    def pose(name: str) -> np.ndarray:
        return transform(golden[f"in.{name}_rotation"], golden[f"in.{name}_translation"])

    T_world_from_bev = pose("ego2global") @ pose("lidar2ego")
    T = inverse(T_world_from_bev) @ pose(f"sensor{sensor}.ego2global") @ pose(f"sensor{sensor}.sensor2ego")
    np.testing.assert_allclose(T[:3, :3], golden[f"out.sensor{sensor}.sensor2lidar_rotation"], atol=1e-12)
    np.testing.assert_allclose(T[:3, 3], golden[f"out.sensor{sensor}.sensor2lidar_translation"], atol=1e-11)
