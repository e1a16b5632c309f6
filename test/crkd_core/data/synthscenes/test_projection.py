import numpy as np
import pytest

from crkd_core.data.synthscenes.projection import NEAR, clipped, painting_levels, part_levels


def test_a_polygon_that_reaches_behind_the_camera_is_cut_at_the_near_plane():
    quad = np.array([[-1.0, 1.0, -5.0], [1.0, 1.0, -5.0], [1.0, 1.0, 5.0], [-1.0, 1.0, 5.0]])
    rest = clipped(quad, side=100.0)
    assert rest[:, 2].min() == pytest.approx(NEAR)
    np.testing.assert_allclose(rest[:, 1], 1.0)
    assert {tuple(p) for p in rest if p[2] > 1} == {(1.0, 1.0, 5.0), (-1.0, 1.0, 5.0)}


def test_a_polygon_is_cut_to_the_sides_and_vanishes_outside_them():
    quad = np.array([[-50.0, 0.0, 2.0], [50.0, 0.0, 2.0], [50.0, 1.0, 2.0], [-50.0, 1.0, 2.0]])
    rest = clipped(quad, side=3.0)
    np.testing.assert_allclose([rest[:, 0].min(), rest[:, 0].max()], [-6.0, 6.0])
    assert len(clipped(quad - np.array([0.0, 0.0, 4.0]), side=3.0)) == 0


def test_a_long_wall_beside_the_view_is_painted_before_what_stands_in_front_of_it():
    # By the distance of middles, the wall (middle at 14 m) would be nearer than the car (21 m) before it.
    xy = np.array([[10.0, 10.0], [20.0, 7.0]])
    half = np.array([[20.0, 1.0], [2.0, 1.0]])
    level = painting_levels(xy, np.zeros(2), half)
    assert level[0] < level[1]


def test_levels_rank_a_queue_from_far_to_near():
    xy = np.array([[10.0, 0.0], [30.0, 0.5], [20.0, -0.5]])
    level = painting_levels(xy, np.array([0.1, 0.2, -0.3]), np.full((3, 2), 1.5))
    assert level.argsort().tolist() == [1, 2, 0]


def test_bodies_behind_the_viewer_do_not_disturb_the_order():
    xy = np.array([[-10.0, 0.1], [-20.0, -0.1], [15.0, 0.0]])
    level = painting_levels(xy, np.zeros(3), np.ones((3, 2)))
    assert level[1] < level[0]


def test_a_cabin_is_painted_after_the_body_from_above_and_before_it_from_below():
    low, high = np.array([[[-2.0, -1, 0], [-1, -1, 1]]]), np.array([[[2.0, 1, 1], [1, 1, 2]]])
    above = part_levels(low, high, np.array([[10.0, 0.0, 3.0]]))
    below = part_levels(low, high, np.array([[10.0, 0.0, 0.5]]))
    assert above[0, 0] < above[0, 1]
    assert below[0, 0] > below[0, 1]


def test_absent_parts_take_no_part_in_the_order():
    low, high = np.full((1, 3, 3), np.nan), np.full((1, 3, 3), np.nan)
    low[0, :2], high[0, :2] = [[0, 0, 0], [2, 0, 0]], [[1, 1, 1], [3, 1, 1]]
    level = part_levels(low, high, np.array([[10.0, 0.0, 0.5]]))
    assert level[0, 0] < level[0, 1]
