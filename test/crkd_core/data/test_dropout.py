"""Samples that lack sensors."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from micro import micro_frame

from crkd_core.config import SensorDropout
from crkd_core.data.dropout import with_dropped_sensors
from crkd_core.types import LIDAR_DTYPE, LidarSweep, SensorFrame

FRAME = micro_frame(0).frame
SENSORS = {"CAM_FRONT", "CAM_FRONT_LEFT", "RADAR_FRONT"}


def left(frame: SensorFrame, config: SensorDropout, seed: int) -> frozenset[str]:
    found = with_dropped_sensors(frame, config, np.random.default_rng(seed))
    return frozenset({**found.cameras, **found.radars})


def test_nothing_is_dropped_by_default():
    assert left(FRAME, SensorDropout(), seed=0) == SENSORS


def test_sensors_are_lost_as_often_as_the_recipe_says():
    seen = Counter(name for seed in range(4000) for name in left(FRAME, SensorDropout(camera=0.2, radar=0.4), seed))
    # All three are lost with 0.2 * 0.2 * 0.4 = 0.016; then one of them stays.
    for name, chance in (("CAM_FRONT", 0.2), ("CAM_FRONT_LEFT", 0.2), ("RADAR_FRONT", 0.4)):
        assert 1 - seen[name] / 4000 == pytest.approx(chance - 0.016 / 3, abs=0.025)


def test_one_sensor_always_stays_and_each_may_be_it():
    survivors = {left(FRAME, SensorDropout(camera=1.0, radar=1.0), seed) for seed in range(60)}
    assert survivors == {frozenset({name}) for name in SENSORS}


def test_a_lidar_is_a_sensor_that_stays():
    sweep = LidarSweep(np.zeros(1, LIDAR_DTYPE), np.eye(4), np.eye(4), FRAME.stamp)
    frame = SensorFrame(FRAME.cameras, {}, FRAME.stamp, np.eye(4), np.eye(4), lidar=(sweep,))
    assert left(frame, SensorDropout(camera=1.0), seed=0) == frozenset()


def test_the_same_seed_drops_the_same_sensors_whatever_their_order():
    reordered = SensorFrame(dict(reversed(FRAME.cameras.items())), FRAME.radars, FRAME.stamp, np.eye(4), np.eye(4))
    config = SensorDropout(camera=0.5, radar=0.5)
    drawn = [left(FRAME, config, seed) for seed in range(20)]
    assert drawn == [left(reordered, config, seed) for seed in range(20)]
    assert len(set(drawn)) > 3


def test_a_frame_without_sensors_stays_as_it_is():
    empty = SensorFrame({}, {}, 0, np.eye(4), np.eye(4))
    assert left(empty, SensorDropout(camera=1.0), seed=0) == frozenset()
