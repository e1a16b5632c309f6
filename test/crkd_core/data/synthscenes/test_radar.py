from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.data.synthscenes.config import RadarMount
from crkd_core.data.synthscenes.population import Actor, Block
from crkd_core.data.synthscenes.radar import radar_sweep, radar_sweeps
from crkd_core.data.synthscenes.world import Drive, make_drive
from crkd_core.geometry.transforms import apply
from crkd_core.types import RADAR_DTYPE

Stage = Callable[..., Drive]
DAY = Conditions("day", sun_elevation=0.7, sun_azimuth=2.5)


def _front(drive: Drive) -> RadarMount:
    return drive.config.radars[0]


def _many(drive: Drive, mount: RadarMount, count: int = 40) -> NDArray[np.void]:
    """Points of several sweeps of a stage within half a second."""
    stamps = [drive.start_ns + k * 12_000_000 for k in range(count)]
    return np.concatenate([s.points for s in radar_sweeps(drive, [(mount, stamp) for stamp in stamps])])


def _near(points: NDArray[np.void], x: float, y: float, reach: float = 3.0) -> NDArray[np.void]:
    return points[np.hypot(points["x"] - x, points["y"] - y) < reach]


def test_returns_of_a_vehicle_ahead_lie_on_its_rear(stage: Stage):
    drive = stage([Actor("truck", (7.0, 2.4, 2.8), 33.41, -1.75, 0.0)])
    points = _near(_many(drive, _front(drive)), 28, 0)
    assert len(points) > 40
    assert abs(np.median(points["x"]) - 26.5) < 0.4
    assert np.percentile(np.abs(points["y"]), 90) < 2.2


def test_doppler_of_the_world_at_rest_is_the_own_motion_and_vanishes_when_compensated(stage: Stage):
    drive = stage([Actor("truck", (7.0, 2.4, 2.8), 43.41, -1.75, 0.0)], ego_speed=10.0)
    points = _many(drive, _front(drive))
    points = points[points["invalid_state"] == 0]
    bearing = np.arctan2(points["y"], points["x"])
    still = np.hypot(points["vx_comp"], points["vy_comp"]) < 0.5
    assert still.mean() > 0.97  # the others are false alarms and double bounces
    assert still.sum() > 300
    np.testing.assert_allclose(np.hypot(points["vx"], points["vy"])[still], 10 * np.cos(bearing)[still], atol=0.5)
    assert (points["vx"][still] < 0).all()


@pytest.mark.parametrize(("speed", "state"), [(8.0, 0), (-8.0, 2)])
def test_a_vehicle_going_away_has_positive_doppler_and_an_oncoming_one_negative(stage: Stage, speed: float, state: int):
    drive = stage([Actor("car", (4.6, 1.9, 1.7), 33.41, -1.75, 0.0, v_s=speed)], ego_speed=5.0)
    # Where the car is, there are no ghosts.
    many = np.concatenate(
        [
            _near(radar_sweep(drive, _front(drive), stamp).points, 30 - 2.3 + (speed - 5.0) * t, 0, 2.5)
            for t, stamp in ((t, drive.start_ns + int(t * 1e9)) for t in np.arange(20) * 0.01)
        ]
    )
    assert len(many) > 10
    np.testing.assert_allclose(many["vx_comp"], speed, atol=0.6)
    np.testing.assert_allclose(many["vx"], speed - 5.0, atol=0.6)
    assert (many["dyn_prop"] == state).mean() > 0.8


def test_velocities_are_vectors_along_the_line_of_sight(drive: Drive):
    for mount in drive.config.radars:
        p = radar_sweep(drive, mount, drive.start_ns).points
        assert p.dtype == RADAR_DTYPE
        for vx, vy in (("vx", "vy"), ("vx_comp", "vy_comp")):
            across = (p["x"] * p[vy] - p["y"] * p[vx]) / np.hypot(p["x"], p["y"])
            np.testing.assert_allclose(across, 0, atol=1e-4)


def test_what_stands_behind_a_building_gives_no_return(stage: Stage):
    truck = Actor("truck", (7.0, 2.4, 2.8), 40.0, -1.75, 0.0)
    open_view, hidden = stage([truck]), stage([truck], [Block("building", (2.0, 20.0, 8.0), 20.0, -1.75)])
    clear = len(_near(_many(open_view, _front(open_view)), 34, 0, 3.5))
    blocked = len(_near(_many(hidden, _front(hidden)), 34, 0, 3.5))
    assert clear > 60
    assert blocked < 0.1 * clear  # false alarms


def test_metal_is_seen_more_often_and_stronger_than_people(stage: Stage):
    def echoes(name: str, size: tuple[float, float, float]) -> NDArray[np.void]:
        drive = stage([Actor(name, size, 33.41, -1.75, 0.0)])
        return _near(_many(drive, _front(drive)), 30, 0, 4.0)

    car, person = echoes("car", (4.6, 1.9, 1.7)), echoes("pedestrian", (0.7, 0.7, 1.75))
    assert len(car) > 1.5 * len(person) > 0
    assert np.median(car["rcs"]) > np.median(person["rcs"]) + 2


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_sweep_is_the_same_alone_and_in_a_batch(seed: int):
    drive = make_drive(seed)
    scans = [(mount, drive.start_ns + k * 77_000_000) for k in range(6) for mount in drive.config.radars]
    for (mount, stamp), sweep in zip(scans, radar_sweeps(drive, scans), strict=True):
        np.testing.assert_array_equal(sweep.points, radar_sweep(drive, mount, stamp).points)


def test_points_keep_to_the_field_of_view_and_to_the_plane_of_the_sensor(drive: Drive):
    p = np.concatenate([radar_sweep(drive, m, drive.start_ns).points for m in drive.config.radars])
    assert np.abs(np.rad2deg(np.arctan2(p["y"], p["x"]))).max() < 64
    assert np.hypot(p["x"], p["y"]).max() < drive.config.radar_range + 2
    assert (p["z"] == 0).all()
    assert p["rcs"].min() >= -5


def test_side_and_rear_radars_place_points_where_the_object_is(stage: Stage):
    drive = stage([Actor("bus", (11.0, 2.8, 3.4), -15.0, 6.0, 0.0)])
    mount = next(m for m in drive.config.radars if m.name == "RADAR_BACK_LEFT")
    world = []
    for k in range(20):
        sweep = radar_sweep(drive, mount, drive.start_ns + k * 12_000_000)
        xyz = np.stack([sweep.points[a] for a in "xyz"], axis=1)
        world.append(apply(sweep.T_world_from_base @ sweep.T_base_from_radar, xyz))
    points = np.concatenate(world)
    on_bus = (np.abs(points[:, 0] + 15) < 6.2) & (np.abs(points[:, 1] - 6) < 2.0)
    assert on_bus.sum() > 20


def test_a_car_looked_at_squarely_shines_more_than_over_a_corner(stage: Stage):
    def echoes(yaw: float) -> NDArray[np.void]:
        drive = stage([Actor("car", (4.6, 1.9, 1.7), 43.41, -1.75, yaw)])
        return _near(_many(drive, _front(drive)), 40, 0, 4.0)

    square, corner = echoes(np.pi / 2), echoes(np.pi / 4)
    assert len(square) > len(corner) > 20
    assert np.median(square["rcs"]) > np.median(corner["rcs"]) + 2


def test_small_things_stay_where_they_are_from_sweep_to_sweep(stage: Stage):
    drive = stage(ego_speed=8.0)
    world = []
    for k in range(6):
        sweep = radar_sweep(drive, _front(drive), drive.start_ns + k * 77_000_000)
        xyz = np.stack([sweep.points[a] for a in "xyz"], axis=1)[sweep.points["rcs"] > 8]
        world.append(apply(sweep.T_world_from_base @ sweep.T_base_from_radar, xyz)[:, :2])
    gaps = np.linalg.norm(world[0][:, None] - np.concatenate(world[1:])[None], axis=2).min(axis=1)
    near = np.hypot(*(world[0] - world[0].mean(axis=0)).T) < 60
    assert np.median(gaps[near]) < 0.6
    assert len(world[0]) > 10


def test_a_sweep_has_at_most_125_points(stage: Stage):
    poles = [
        Block("pole", (0.2, 0.2, 6.0), s, d) for s in np.arange(10.0, 60.0, 2.0) for d in np.arange(-20.0, 20.0, 2.0)
    ]
    drive = stage([], poles)
    sizes = [len(radar_sweep(drive, _front(drive), drive.start_ns + k * 12_000_000).points) for k in range(5)]
    assert sizes == [125] * 5


def test_rain_adds_echoes_near_the_sensor_that_the_sensor_doubts(stage: Stage):
    dry, wet = stage(), stage(conditions=replace(DAY, rain=20.0))

    def near(drive: Drive) -> NDArray[np.void]:
        return _near(_many(drive, _front(drive)), 0, 0, 7.0)

    assert len(near(wet)) > len(near(dry)) + 20
    extra = near(wet)
    doubted = extra[extra["rcs"] < 3]
    assert (doubted["pdh0"] >= 3).mean() > 0.8


@pytest.mark.parametrize("distance", [20.0, 45.0, 55.0, 75.0])
def test_a_walker_aside_is_noticed_as_often_as_the_radar_equation_says(stage: Stage, distance: float):
    x, y = distance * np.cos(np.deg2rad(30)), distance * np.sin(np.deg2rad(30))
    drive = stage([Actor("pedestrian", (0.7, 0.7, 1.75), 3.41 + x, -1.75 + y, np.deg2rad(30), v_s=1.5)])
    drive.scratch["small_reflectors"] = np.zeros((0, 3))  # an open place would fill the sweep with them
    sweeps = radar_sweeps(drive, [(_front(drive), drive.start_ns + k * 1_000_000) for k in range(600)])
    near = [_near(s.points, x + 1.5e-3 * k, y, 0.03 * distance + 1.0) for k, s in enumerate(sweeps)]
    found = np.mean([(np.abs(p["vx_comp"]) > 0.5).any() for p in near])
    # -2.5 dBsm and 91 dB at 1 m, less R^4 and 12 dB beside the far beam; what seems below -5.25 dBsm is not reported.
    signal = 10 ** ((-2.5 + 91 - 12.04 - 40 * np.log10(distance - 0.35)) / 10)
    expected = min(1e-4 ** (1 / (1 + signal)), np.exp(-(10 ** ((-5.25 + 2.5) / 10))))
    assert found == pytest.approx(expected, abs=0.07)
