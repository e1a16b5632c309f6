from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.data.synthscenes.lidar import DROP, ELEVATIONS_DEG, GROUND, NOTHING, lidar_sweep, scan
from crkd_core.data.synthscenes.population import Actor, Block
from crkd_core.data.synthscenes.world import Drive, make_drive
from crkd_core.geometry.transforms import apply
from crkd_core.types import LIDAR_DTYPE

Stage = Callable[..., Drive]


_CAR = Actor("car", (4.6, 1.9, 1.7), 15.0, -1.75, 0.5)


def test_points_of_a_car_lie_on_its_faces_that_look_at_the_sensor(stage: Stage):
    drive = stage([_CAR], lidar_dropout=0.0)
    result, sweep = scan(drive, drive.start_ns), lidar_sweep(drive, drive.start_ns)
    xyz = np.stack([sweep.points[a] for a in "xyz"], axis=1)
    world = apply(sweep.T_world_from_base @ sweep.T_base_from_lidar, xyz)
    ring, column = np.nonzero(result.body != -2)
    points = world[result.body[ring, column] == 0]
    assert len(points) > 100
    offset = points[:, :2] - [15.0, -1.75]
    along = offset @ [np.cos(0.5), np.sin(0.5)]
    across = offset @ [-np.sin(0.5), np.cos(0.5)]
    assert np.abs(along).max() < 2.3 + 0.1
    assert np.abs(across).max() < 0.95 + 0.1
    assert points[:, 2].max() < 1.7 + 0.02
    assert points[:, 2].min() > -0.02
    # The sensor stands behind it and to its left: nothing on the front and the right.
    on_body = points[:, 2] < 0.9
    assert ((np.abs(along + 2.3) < 0.1) | (np.abs(across - 0.95) < 0.1))[on_body].all()


def test_the_bare_ground_is_flat_and_its_rings_have_the_radii_of_the_beams(stage: Stage):
    drive = stage(lidar_dropout=0.0)
    result, sweep = scan(drive, drive.start_ns), lidar_sweep(drive, drive.start_ns)
    assert sweep.points.dtype == LIDAR_DTYPE
    assert set(np.unique(result.body)) == {GROUND, -2}
    np.testing.assert_allclose(sweep.points["z"], -1.84, atol=0.08)
    innermost = np.hypot(sweep.points["x"], sweep.points["y"])[sweep.points["ring"] == 0]
    np.testing.assert_allclose(innermost, 1.84 / np.tan(np.deg2rad(30.67)), atol=0.12)


def test_x_points_to_the_right_and_y_forward(stage: Stage):
    drive = stage([_CAR._replace(s=15.0, d=-9.0, yaw=0.0)])
    result, sweep = scan(drive, drive.start_ns), lidar_sweep(drive, drive.start_ns)
    hit = sweep.points[(sweep.points["z"] > -1.5)]
    assert result.hits()[0] == pytest.approx(len(hit), rel=0.4)
    assert abs(np.median(hit["x"]) - 6.3) < 0.5
    assert 11 < np.median(hit["y"]) < 17


def test_what_is_hidden_gets_no_point_but_is_known_to_be_in_the_way_of_rays(stage: Stage):
    drive = stage([_CAR], [Block("building", (1.0, 20.0, 8.0), 8.0, -1.75)])
    result = scan(drive, drive.start_ns)
    assert result.hits()[0] == 0
    assert result.would_hit[0] > 100


def test_a_half_hidden_car_keeps_about_half_of_its_points(stage: Stage):
    drive = stage([_CAR._replace(yaw=np.pi / 2)], [Block("wall", (0.4, 20.0, 5.0), 12.0, -11.9)], lidar_dropout=0.0)
    result = scan(drive, drive.start_ns)
    assert 0.35 < result.hits()[0] / result.would_hit[0] < 0.65


def test_far_bodies_give_fewer_points(stage: Stage):
    hits = []
    for s in (10.0, 20.0, 40.0, 65.0):
        drive = stage([_CAR._replace(s=s)])
        hits.append(int(scan(drive, drive.start_ns).hits()[0]))
    assert hits == sorted(hits, reverse=True)
    assert hits[0] > 6 * hits[2] > 0


def _rain(rate: float) -> Conditions:
    return Conditions("day", sun_elevation=0.7, sun_azimuth=2.5, rain=rate)


def _hits(drive: Drive, sweeps: int = 10) -> NDArray[np.int64]:
    return np.sum([scan(drive, drive.start_ns + k * 50_000_000).hits() for k in range(sweeps)], axis=0)


def test_rain_takes_a_larger_share_of_points_from_far_bodies_than_from_near_ones(stage: Stage):
    share = []
    for s in (10.0, 30.0, 50.0):
        wall = Block("wall", (0.4, 14.0, 6.0), s, -1.75)
        dry, wet = (int(_hits(stage([], [wall], conditions=_rain(rate)))[0]) for rate in (0.0, 40.0))
        assert dry > 200
        share.append(wet / dry)
    assert share[0] > 0.95
    assert share[0] - 0.02 > share[1] > share[2] + 0.04


def test_rain_gives_weak_points_near_the_sensor_in_proportion_to_its_rate(stage: Stage):
    def drops(rate: float) -> float:
        drive = stage(conditions=_rain(rate))
        return float(np.mean([(scan(drive, drive.start_ns + k * 50_000_000).body == DROP).sum() for k in range(10)]))

    assert drops(0.0) == 0
    assert drops(20.0) == pytest.approx(2 * drops(10.0), rel=0.25)
    drive = stage(conditions=_rain(20.0))
    result, points = scan(drive, drive.start_ns), lidar_sweep(drive, drive.start_ns).points
    struck = points[(result.body == DROP)[np.nonzero(result.body != NOTHING)]]
    assert 20 < len(struck) < 150
    assert np.median(np.hypot(struck["x"], struck["y"])) < 5
    assert struck["intensity"].max() <= 5


def test_returns_of_the_bare_road_end_where_it_is_met_too_flatly_sooner_when_wet(stage: Stage):
    def reach(conditions: Conditions) -> float:
        drive = stage(conditions=conditions)
        points = lidar_sweep(drive, drive.start_ns).points
        counts = np.bincount(points["ring"].astype(int), minlength=32)
        complete = counts > 0.5 * drive.config.lidar_columns
        return float(1.84 / -np.tan(np.deg2rad(ELEVATIONS_DEG[np.flatnonzero(complete)[-1]])))

    assert 20 < reach(_rain(0.0)) < 60
    assert reach(_rain(5.0)) < reach(_rain(0.0))


def test_intensity_falls_with_the_angle_of_incidence_and_in_fog_with_distance(stage: Stage):
    def median(yaw: float, s: float, visibility: float = 20_000.0) -> float:
        wall = Block("wall", (0.4, 5.0, 4.0), s, -1.75, yaw)
        drive = stage([], [wall], conditions=replace(_rain(0.0), visibility=visibility), lidar_dropout=0.0)
        result = scan(drive, drive.start_ns)
        return float(np.median(result.intensity[result.body == 0]))

    assert median(1.0, 15.0) < 0.85 * median(0.0, 15.0)
    assert median(0.0, 30.0) == pytest.approx(median(0.0, 15.0), rel=0.15)
    extinction = 3.0 / 200.0  # 1/m at a visibility of 200 m (Koschmieder)
    assert median(0.0, 30.0, 200.0) / median(0.0, 15.0, 200.0) == pytest.approx(np.exp(-2 * extinction * 15), rel=0.15)


def test_dark_bodies_have_fewer_points_far_away(stage: Stage):
    drive = stage([_CAR._replace(s=50.0, d=d, yaw=0.0) for d in np.arange(-24.0, 24.0, 4.0)])
    found = _hits(drive, 40) / np.maximum(40 * scan(drive, drive.start_ns).would_hit, 1)
    dark = np.argsort(drive.reflection.albedo)
    assert found[dark[:4]].mean() < found[dark[-4:]].mean() - 0.1


def test_a_ray_past_several_parts_of_a_body_counts_once(stage: Stage):
    drive = stage([_CAR], lidar_dropout=0.0)
    result = scan(drive, drive.start_ns)
    assert result.would_hit[0] == result.hits()[0] > 100


def test_a_scan_is_the_same_whenever_it_is_made(drive: Drive):
    first, again = scan(drive, drive.start_ns), scan(make_drive(drive.seed), drive.start_ns)
    np.testing.assert_array_equal(first.horizontal, again.horizontal)
    np.testing.assert_array_equal(first.body, again.body)
    np.testing.assert_array_equal(first.intensity, again.intensity)
