import numpy as np

from crkd_core.geometry.overlap import drop_later, overlapping_pairs

_HALF = np.array([2.0, 1.0])


def test_rectangles_that_only_touch_by_their_circles_do_not_overlap():
    xy = np.array([[0.0, 0.0], [0.0, 2.1], [4.1, 0.0]])
    assert len(overlapping_pairs(xy, np.zeros(3), np.tile(_HALF, (3, 1)))) == 0


def test_a_turned_rectangle_reaches_its_neighbour():
    xy = np.array([[0.0, 0.0], [0.0, 2.5]])
    pairs = overlapping_pairs(xy, np.array([0.0, np.pi / 2]), np.tile(_HALF, (2, 1)))
    assert pairs.tolist() == [[0, 1]]


def test_a_subset_asks_only_for_its_own_pairs():
    xy, half = np.array([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]]), np.tile(_HALF, (3, 1))
    assert overlapping_pairs(xy, np.zeros(3), half).tolist() == [[0, 1], [1, 2]]
    assert overlapping_pairs(xy, np.zeros(3), half, np.array([2])).tolist() == [[1, 2]]


def test_a_dropped_rectangle_drops_no_other_and_fixed_ones_stay():
    pairs = np.array([[0, 1], [1, 2]])
    for fixed, expected in ((1, [True, False, True]), (2, [True, True, False])):
        keep = np.ones(3, dtype=bool)
        drop_later(keep, pairs, fixed)
        assert keep.tolist() == expected
