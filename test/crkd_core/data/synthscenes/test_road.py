import numpy as np
import pytest

from crkd_core.data.synthscenes.road import Road, make_road


@pytest.fixture(scope="module")
def road():
    return make_road(np.random.default_rng(0), -100.0, 200.0)


def test_moving_along_the_reference_line_follows_its_heading(road: Road):
    s, step = np.linspace(-99, 198, 200), 1e-3
    motion = (road.place(s + step, 0.0).xy - road.place(s, 0.0).xy) / step
    heading = road.place(s, 0.0).heading
    np.testing.assert_allclose(np.hypot(*motion.T), 1.0, atol=1e-4)
    np.testing.assert_allclose(motion, np.stack([np.cos(heading), np.sin(heading)], axis=1), atol=2e-3)


def test_positive_d_lies_to_the_left(road: Road):
    at = road.place(20.0, 0.0)
    left = road.place(20.0, 3.0).xy - at.xy
    np.testing.assert_allclose(left, 3.0 * np.array([-np.sin(at.heading), np.cos(at.heading)]), atol=1e-9)


def test_curvature_is_the_change_of_heading(road: Road):
    s = np.linspace(-99, 198, 100)
    change = (road.place(s + 0.25, 0.0).heading - road.place(s - 0.25, 0.0).heading) / 0.5
    np.testing.assert_allclose(road.place(s, 0.0).curvature, change, atol=2e-5)
    assert np.abs(change).max() > 1e-4


def test_beyond_its_ends_the_road_goes_on_straight(road: Road):
    ends = road.place(np.array([200.0, 210.0, 220.0]), 0.0)
    assert np.ptp(ends.heading) == 0
    np.testing.assert_allclose(np.diff(ends.xy, axis=0)[0], np.diff(ends.xy, axis=0)[1], atol=1e-9)
    assert ends.curvature[1] == 0
