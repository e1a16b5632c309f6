from collections.abc import Callable

import numpy as np
import pytest

from crkd_core.data.synthscenes.lidar import GROUND, lidar_sweep, scan
from crkd_core.data.synthscenes.population import Actor, Block
from crkd_core.data.synthscenes.world import Drive
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
