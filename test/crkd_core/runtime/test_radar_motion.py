"""Velocities relative to the sensor become velocities over ground."""

import numpy as np
import pytest

from crkd_core.geometry.transforms import inverse, transform, yaw_rotation
from crkd_core.runtime.poses import SECOND
from crkd_core.runtime.radar_motion import SPAN, compensated, is_relative
from crkd_core.types import RADAR_DTYPE, FloatArray

MOUNTING = transform(yaw_rotation(1.2), [3.0, 0.8, 0.5])


def pose(stamp: int, speed: float, rate: float) -> FloatArray:
    """A vehicle on a circle: m/s along its heading, rad/s."""
    angle = rate * stamp / SECOND
    return transform(yaw_rotation(angle), [speed / rate * np.sin(angle), speed / rate * (1 - np.cos(angle)), 0.0])


def sweep_of(world: FloatArray, velocity: FloatArray, stamp: int, speed: float, rate: float) -> np.ndarray:
    """What a radar measures of points (N, 3) that move over ground: position and radial velocity, by differences."""
    at = [inverse(pose(t, speed, rate) @ MOUNTING) for t in (stamp - 1000, stamp + 1000)]
    here = [world + velocity * (t - stamp) / SECOND for t in (stamp - 1000, stamp + 1000)]
    seen = [p @ T[:3, :3].T + T[:3, 3] for T, p in zip(at, here, strict=True)]
    now = (seen[0] + seen[1]) / 2
    sight = now[:, :2] / np.linalg.norm(now[:, :2], axis=1, keepdims=True)
    radial = ((seen[1] - seen[0])[:, :2] * sight).sum(axis=1) * SECOND / 2000
    points = np.zeros(len(world), dtype=RADAR_DTYPE)
    points["x"], points["y"], points["z"] = now.T
    points["vx"], points["vy"] = (radial[:, None] * sight).T
    points["vx_comp"] = points["vy_comp"] = np.nan
    return points


@pytest.mark.parametrize(("speed", "rate"), [(0.01, 0.001), (15.0, 0.001), (8.0, 0.4)])
def test_standing_objects_stand_and_moving_ones_keep_their_radial_velocity(speed: float, rate: float):
    rng = np.random.default_rng(0)
    stamp = SECOND
    around = pose(stamp, speed, rate)[:3, 3]
    angles, distances = rng.uniform(-np.pi, np.pi, 40), rng.uniform(8, 60, 40)
    level = (pose(stamp, speed, rate) @ MOUNTING)[2, 3]
    world = around + np.stack([distances * np.cos(angles), distances * np.sin(angles), np.full(40, level)], axis=1)
    velocity = np.zeros((40, 3))
    velocity[20:, :2] = rng.uniform(-12, 12, (20, 2))
    points = sweep_of(world, velocity, stamp, speed, rate)
    assert is_relative(points)
    poses = {"T_world_from_base": pose(stamp, speed, rate), "T_world_from_base_before": pose(stamp - SPAN, speed, rate)}
    found = compensated(points, MOUNTING, **poses)
    assert not is_relative(found)
    R = (pose(stamp, speed, rate) @ MOUNTING)[:3, :3]
    sight = np.stack([found["x"], found["y"]], axis=1)
    sight /= np.linalg.norm(sight, axis=1, keepdims=True)
    expected = ((velocity @ R)[:, :2] * sight).sum(axis=1)[:, None] * sight
    # The velocity over SPAN lags by half of it: 25 ms of 3.2 m/s2 in the tight turn.
    np.testing.assert_allclose(np.stack([found["vx_comp"], found["vy_comp"]], axis=1), expected, atol=0.1)
    if rate == 0.001:
        np.testing.assert_allclose(found["vx_comp"][:20], 0, atol=0.01)
    assert np.isnan(points["vx_comp"]).all(), "the sweep itself is left as it came"


def test_a_sweep_with_velocities_over_ground_and_an_empty_one_need_nothing():
    assert not is_relative(np.zeros(2, dtype=RADAR_DTYPE))
    assert not is_relative(np.zeros(0, dtype=RADAR_DTYPE))
