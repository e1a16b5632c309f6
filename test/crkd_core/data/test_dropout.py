"""Samples that lack sensors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from micro import micro_crkd, micro_frame, micro_frame_with_lidar, micro_recipe, micro_teacher

from crkd_core.config import Recipe, SensorDropout
from crkd_core.data.dataset import TrainingSet
from crkd_core.data.dropout import with_dropped_sensors
from crkd_core.types import SensorFrame

FRAME = micro_frame(0).frame
WITH_LIDAR = micro_frame_with_lidar(0).frame
SENSORS = {"CAM_FRONT", "CAM_FRONT_LEFT", "RADAR_FRONT"}


def dropping(recipe: Recipe, *, camera: float = 0.0, radar: float = 0.0) -> Recipe:
    """The recipe with chances."""
    samples = msgspec.structs.replace(recipe.samples, dropout=SensorDropout(camera=camera, radar=radar))
    return msgspec.structs.replace(recipe, samples=samples)


def left(frame: SensorFrame, recipe: Recipe, seed: int) -> frozenset[str]:
    found = with_dropped_sensors(frame, recipe, np.random.default_rng(seed))
    return frozenset({**found.cameras, **found.radars})


def test_nothing_is_dropped_by_default():
    assert left(FRAME, micro_recipe(), seed=0) == SENSORS


def test_sensors_are_lost_as_often_as_the_recipe_says():
    recipe = dropping(micro_recipe(), camera=0.2, radar=0.4)
    seen = Counter(name for seed in range(4000) for name in left(FRAME, recipe, seed))
    # All three are lost with 0.2 * 0.2 * 0.4 = 0.016; then one of them stays.
    for name, chance in (("CAM_FRONT", 0.2), ("CAM_FRONT_LEFT", 0.2), ("RADAR_FRONT", 0.4)):
        assert 1 - seen[name] / 4000 == pytest.approx(chance - 0.016 / 3, abs=0.025)


def test_one_sensor_always_stays_and_each_may_be_it():
    recipe = dropping(micro_recipe(), camera=1.0, radar=1.0)
    assert {left(FRAME, recipe, seed) for seed in range(60)} == {frozenset({name}) for name in SENSORS}


def test_the_models_own_lidar_is_a_sensor_that_stays():
    recipe = dropping(micro_teacher(), camera=1.0)
    assert left(replace(WITH_LIDAR, radars={}), recipe, seed=0) == frozenset()
    assert len(left(replace(WITH_LIDAR, radars={}, lidar=()), recipe, seed=0)) == 1


def test_the_teachers_lidar_is_none_of_the_student():
    recipe = dropping(micro_crkd(), camera=1.0, radar=1.0)
    assert {left(WITH_LIDAR, recipe, seed) for seed in range(60)} == {frozenset({name}) for name in SENSORS}
    samples = TrainingSet([micro_frame_with_lidar(1)], recipe, teacher=micro_teacher().model.lidar)
    for epoch in range(10):
        loaded = samples[epoch, 0].loaded
        assert (len(loaded.images), len(loaded.radar) > 0) in ((1, False), (0, True))
        assert len(loaded.lidar) > 100


def test_a_sensor_that_the_model_does_not_read_is_neither_lost_nor_the_one_that_stays():
    recipe = dropping(micro_teacher(), camera=1.0, radar=1.0)
    frame = replace(WITH_LIDAR, lidar=())
    found = {left(frame, recipe, seed) for seed in range(60)}
    assert found == {frozenset({name, "RADAR_FRONT"}) for name in ("CAM_FRONT", "CAM_FRONT_LEFT")}


def test_the_same_seed_drops_the_same_sensors_whatever_their_order():
    reordered = SensorFrame(dict(reversed(FRAME.cameras.items())), FRAME.radars, FRAME.stamp, np.eye(4), np.eye(4))
    recipe = dropping(micro_recipe(), camera=0.5, radar=0.5)
    drawn = [left(FRAME, recipe, seed) for seed in range(20)]
    assert drawn == [left(reordered, recipe, seed) for seed in range(20)]
    assert len(set(drawn)) > 3


def test_a_frame_without_sensors_stays_as_it_is():
    empty = SensorFrame({}, {}, 0, np.eye(4), np.eye(4))
    assert left(empty, dropping(micro_recipe(), camera=1.0), seed=0) == frozenset()
