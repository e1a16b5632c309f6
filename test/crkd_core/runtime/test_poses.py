"""Interpolation between stamped poses."""

import numpy as np
import pytest

from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.runtime.poses import MILLISECOND, SECOND, PoseBuffer


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    return transform(yaw_rotation(yaw), [x, 0.0, 0.0])


def filled(*entries: tuple[int, float], **options: int) -> PoseBuffer:
    buffer = PoseBuffer(**options)
    for ms, x in entries:
        buffer.insert(ms * MILLISECOND, pose(x))
    return buffer


def test_exact_stamp_returns_the_stored_pose_itself():
    buffer, T = PoseBuffer(), pose(1.0, 0.3)
    buffer.insert(5, T)
    buffer.insert(9, pose(2.0))
    assert buffer.at(5) is T


def test_position_and_rotation_are_interpolated_between_neighbours():
    buffer = PoseBuffer()
    buffer.insert(0, pose(0.0, 0.0))
    buffer.insert(100 * MILLISECOND, pose(2.0, 0.4))
    np.testing.assert_allclose(buffer.at(25 * MILLISECOND), pose(0.5, 0.1), atol=1e-12)


def test_order_of_insertion_does_not_matter():
    ordered, shuffled = filled((0, 0.0), (10, 1.0), (20, 4.0)), filled((20, 4.0), (0, 0.0), (10, 1.0))
    for ms in range(21):
        np.testing.assert_array_equal(ordered.at(ms * MILLISECOND), shuffled.at(ms * MILLISECOND))


def test_extrapolates_at_constant_velocity_but_not_far():
    buffer = filled((0, 0.0), (100, 1.0), max_extrapolation=50 * MILLISECOND)
    np.testing.assert_allclose(buffer.at(140 * MILLISECOND), pose(1.4), atol=1e-12)
    np.testing.assert_allclose(buffer.at(-40 * MILLISECOND), pose(-0.4), atol=1e-12)
    assert buffer.at(151 * MILLISECOND) is None
    assert buffer.at(-51 * MILLISECOND) is None


def test_velocity_for_extrapolation_is_not_taken_from_neighbours_a_millisecond_apart():
    # 0.21 m in the last millisecond is noise: 50 ms of it would be 10 m.
    buffer = filled((0, 0.0), (50, 0.5), (99, 0.99), (100, 1.2))
    np.testing.assert_allclose(buffer.at(150 * MILLISECOND)[0, 3], 1.2 + 0.7)


def test_no_answer_across_a_long_hole_or_from_nothing():
    assert PoseBuffer().at(0) is None
    buffer = filled((0, 0.0), (3000, 3.0), max_gap=SECOND)
    assert buffer.at(1500 * MILLISECOND) is None
    assert buffer.at(3000 * MILLISECOND) is not None


def test_covers_only_what_can_no_longer_change():
    buffer = filled((0, 0.0), (10, 1.0))
    assert buffer.covers(10 * MILLISECOND)
    assert not buffer.covers(10 * MILLISECOND + 1)


@pytest.mark.parametrize("capacity", [1, 7, 64])
def test_memory_is_bounded_and_the_newest_stay(capacity: int):
    buffer = PoseBuffer(capacity=capacity)
    for i in range(500):
        buffer.insert(i, pose(float(i)))
    assert len(buffer) <= capacity
    assert buffer.newest == 499


def test_second_pose_of_a_stamp_is_refused():
    buffer = filled((1, 1.0))
    assert not buffer.insert(MILLISECOND, pose(2.0))
    assert buffer.at(MILLISECOND)[0, 3] == 1.0


def test_purge_forgets_what_is_newer():
    buffer = filled((0, 0.0), (10, 1.0), (20, 2.0))
    assert buffer.purge_after(10 * MILLISECOND)
    assert buffer.newest == 10 * MILLISECOND
    assert not buffer.purge_after(10 * MILLISECOND)


def test_what_was_interpolated_follows_transforms_that_come_late_and_time_that_jumps_back():
    buffer = filled((0, 0.0), (100, 1.0), (200, 2.0))
    assert buffer.at(50 * MILLISECOND)[0, 3] == 0.5
    assert buffer.at(50 * MILLISECOND) is buffer.at(50 * MILLISECOND)
    buffer.insert(60 * MILLISECOND, pose(0.0))
    assert buffer.at(50 * MILLISECOND)[0, 3] == 0.0
    buffer.insert(300 * MILLISECOND, pose(9.0))
    assert buffer.at(250 * MILLISECOND)[0, 3] == 5.5
    buffer.purge_after(210 * MILLISECOND)
    np.testing.assert_allclose(buffer.at(250 * MILLISECOND)[0, 3], 2.5)
    buffer.insert(300 * MILLISECOND, pose(3.0))
    assert buffer.at(250 * MILLISECOND)[0, 3] == 2.5


def test_interpolated_transforms_are_bounded_and_go_with_their_neighbours():
    buffer = filled(*((10 * k, 0.1 * k) for k in range(16)), capacity=16)
    for stamp in range(1, 100 * MILLISECOND, MILLISECOND):
        buffer.at(stamp)
    assert 0 < len(buffer._interpolated) <= 16
    buffer.insert(160 * MILLISECOND, pose(1.6))
    assert not buffer._interpolated
    assert buffer.at(-41 * MILLISECOND) is None
