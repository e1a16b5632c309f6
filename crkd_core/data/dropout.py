"""Training without some of the sensors, so that a detector copes with their loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crkd_core.config import Recipe
from crkd_core.types import SensorFrame


def with_dropped_sensors(frame: SensorFrame, recipe: Recipe, rng: np.random.Generator) -> SensorFrame:
    """The frame as if some of the cameras and radars that a model reads did not exist.

    Args:
        frame: the measurements; sensors that the model does not read stay.
        recipe: the model, and the chance of each camera and of each radar.
        rng: draws which; sensors are drawn in the order of their names. Should the model be left with none, its LiDAR
            included, one of them, drawn at random, stays. A LiDAR that only a teacher reads is not the model's.
    """
    model, config = recipe.model, recipe.samples.dropout
    chance = {name: config.camera for name in frame.cameras if model.camera is not None}
    chance |= {name: config.radar for name in frame.radars if model.radar is not None}
    sensors = sorted(chance)
    kept = rng.uniform(size=len(sensors)) >= [chance[name] for name in sensors]
    survivor = rng.integers(max(1, len(sensors)))
    if sensors and not kept.any() and (model.lidar is None or not frame.lidar):
        kept[survivor] = True
    lost = {name for name, keep in zip(sensors, kept.tolist(), strict=True) if not keep}
    return replace(
        frame,
        cameras={name: camera for name, camera in frame.cameras.items() if name not in lost},
        radars={name: sweeps for name, sweeps in frame.radars.items() if name not in lost},
    )
