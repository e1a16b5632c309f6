from collections.abc import Callable

import numpy as np
import pytest

from crkd_core.data.synthscenes.clutter import rain_echoes, small_reflectors
from crkd_core.data.synthscenes.echoes import Draws
from crkd_core.data.synthscenes.link import make_link
from crkd_core.data.synthscenes.world import Drive, make_drive

Stage = Callable[..., Drive]


def test_small_reflectors_line_the_road_and_lie_nowhere_on_it(stage: Stage):
    drive = stage()
    places = small_reflectors(drive)
    edge = drive.layout.walk_edge(1)
    assert np.abs(places[:, 1]).min() == pytest.approx(edge)  # the stage's road is the x axis
    assert np.mean(np.abs(places[:, 1]) < edge + 0.01) == pytest.approx(0.5, abs=0.1)
    assert 400 < len(places) < 1000


def test_small_reflectors_are_those_of_the_seed():
    first, again, other = (small_reflectors(make_drive(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_rain_echoes_grow_with_the_rate_and_thin_out_with_range(stage: Stage):
    drive = stage()
    scans = [(drive.config.radars[0], drive.start_ns + k * 1_000_000) for k in range(300)]
    link = make_link(drive, scans)
    light, heavy = (rain_echoes(rate, link, Draws.of(drive, scans)) for rate in (5.0, 20.0))
    assert len(heavy.sweep) == pytest.approx(4 * len(light.sweep), rel=0.25)
    distance = np.hypot(heavy.points[:, 0], heavy.points[:, 1])
    assert np.median(distance) < 6
    assert len(rain_echoes(0.0, link, Draws.of(drive, scans)).sweep) == 0
