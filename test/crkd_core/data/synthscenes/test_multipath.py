from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.population import Actor, Block
from crkd_core.data.synthscenes.radar import radar_sweep
from crkd_core.data.synthscenes.world import Drive

Stage = Callable[..., Drive]
_SENSOR_X, _SENSOR_D = 3.41, -1.75


def _sweeps(drive: Drive, count: int = 80) -> list[NDArray[np.void]]:
    mount = drive.config.radars[0]
    return [radar_sweep(drive, mount, drive.start_ns + k * 5_000_000).points for k in range(count)]


def _near(points: NDArray[np.void], x: float, y: float, reach: float) -> NDArray[np.void]:
    return points[np.hypot(points["x"] - x, points["y"] - y) < reach]


# A long wall 7.25 m to the right of the sensor, and a truck 20 m ahead that changes over towards it.
_WALL = Block("building", (60.0, 8.0, 8.0), 30.0, _SENSOR_D - 7.25 - 4.0)
_TRUCK = Actor("truck", (7.0, 2.4, 2.8), 26.9, _SENSOR_D, 0.0, v_s=6.0, v_d=-3.0)


def test_a_wall_shows_the_mirror_image_of_a_vehicle_where_geometry_puts_it_with_the_mirrored_doppler(stage: Stage):
    ghosts = []
    for k, points in enumerate(_sweeps(stage([_TRUCK], [_WALL], ego_speed=6.0))):
        # The rear of the truck is 20 m ahead at the beginning, and 3 m/s nearer to the wall each second.
        aside = -3.0 * 0.005 * k
        image = _near(points, 20.0, -2 * 7.25 - aside, 2.0)
        ghosts.append(image)
    ghost = np.concatenate(ghosts)
    assert len(ghost) > 15
    # The image moves as the truck does along the wall, and the opposite way across it.
    sight = np.array([20.0, -14.5]) / np.hypot(20.0, 14.5)
    expected = np.array([6.0, 3.0]) @ sight
    unmirrored = np.array([6.0, -3.0]) @ sight
    measured = ghost["vx_comp"] * sight[0] + ghost["vy_comp"] * sight[1]
    moving = np.abs(measured) > 1.0  # what stands there is small things behind the wall, if any
    assert moving.mean() > 0.9
    assert abs(np.median(measured[moving]) - expected) < 0.3
    assert abs(expected - unmirrored) > 2


def test_without_the_wall_there_is_no_mirror_image(stage: Stage):
    points = np.concatenate(_sweeps(stage([_TRUCK], ego_speed=6.0)))
    ghosts = _near(points, 20.0, -14.5, 2.0)
    assert (np.hypot(ghosts["vx_comp"], ghosts["vy_comp"]) > 1.0).sum() < 3


def test_the_sensors_filter_doubts_many_mirror_images_and_lets_others_pass(stage: Stage):
    ghost = np.concatenate([_near(p, 20.0, -14.5, 2.0) for p in _sweeps(stage([_TRUCK], [_WALL], ego_speed=6.0), 160)])
    ghost = ghost[np.hypot(ghost["vx_comp"], ghost["vy_comp"]) > 1.0]
    assert 0.15 < (ghost["invalid_state"] == 6).mean() < 0.5
    assert (ghost["pdh0"][ghost["invalid_state"] == 6] == 6).all()
    assert (ghost["invalid_state"] == 0).mean() > 0.1


def test_a_vehicle_close_ahead_shows_again_at_twice_the_range_with_twice_the_relative_speed(stage: Stage):
    drive = stage([Actor("bus", (11.0, 2.85, 3.4), _SENSOR_X + 7.0 + 5.5, _SENSOR_D, 0.0, v_s=3.0)], ego_speed=5.0)
    direct, double = [], []
    for k, points in enumerate(_sweeps(drive)):
        gap = 7.0 - 2.0 * 0.005 * k
        direct.append(_near(points, gap, 0.0, 1.2))
        double.append(_near(points, 2 * gap, 0.0, 1.2))
    once, twice = np.concatenate(direct), np.concatenate(double)
    assert len(once) > 50
    assert 3 < len(twice) < len(once)
    np.testing.assert_allclose(np.median(once["vx"]), -2.0, atol=0.2)
    np.testing.assert_allclose(np.median(twice["vx"]), -4.0, atol=0.3)
    # What it is compensated by is the own motion, so it seems to go at 1 m/s.
    np.testing.assert_allclose(np.median(twice["vx_comp"]), 1.0, atol=0.3)


def test_a_pedestrian_gives_no_double_bounce(stage: Stage):
    drive = stage([Actor("pedestrian", (0.7, 0.7, 1.75), _SENSOR_X + 15.0, _SENSOR_D, 0.0, v_s=1.3)])
    points = np.concatenate(_sweeps(drive))
    assert len(_near(points, 15.2, 0.0, 1.0)) > 10
    again = _near(points, 30.4, 0.0, 1.5)
    assert (again["vx_comp"] > 2.0).sum() == 0


def test_bearings_are_sometimes_taken_for_others_and_the_sensor_says_so(stage: Stage):
    drive = stage(ego_speed=10.0)
    points = np.concatenate(_sweeps(drive, 40))
    wrong = points[points["invalid_state"] == 7]
    assert 0.03 < len(wrong) / len(points) < 0.15
    bearing = np.abs(np.rad2deg(np.arctan2(wrong["y"], wrong["x"])))
    assert 7 < bearing.min() <= bearing.max() < 14
    assert (wrong["dyn_prop"] == 4).all()
    assert (wrong["ambig_state"] == 0).all()
    # Something at rest at 45 degrees approaches at 7 m/s; taken for 10 degrees, 3 m/s of that seem its own.
    assert np.median(np.hypot(wrong["vx_comp"], wrong["vy_comp"])) > 0.5
