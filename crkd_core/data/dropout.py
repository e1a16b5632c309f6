"""Training without some of the sensors, so that a detector copes with their loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crkd_core.config import SensorDropout
from crkd_core.types import SensorFrame


def with_dropped_sensors(frame: SensorFrame, config: SensorDropout, rng: np.random.Generator) -> SensorFrame:
    """The frame as if some of its cameras and radars did not exist.

    Args:
        frame: the measurements.
        config: the chance of each camera and of each radar.
        rng: draws which; sensors are drawn in the order of their names. Should none be left, a LiDAR included, one of
            them, drawn at random, stays.
    """
    sensors = sorted({**frame.cameras, **frame.radars})
    chances = [config.camera if name in frame.cameras else config.radar for name in sensors]
    kept = rng.uniform(size=len(sensors)) >= chances
    survivor = rng.integers(max(1, len(sensors)))
    if not kept.any() and sensors and not frame.lidar:
        kept[survivor] = True
    left = {name for name, keep in zip(sensors, kept.tolist(), strict=True) if keep}
    return replace(
        frame,
        cameras={name: camera for name, camera in frame.cameras.items() if name in left},
        radars={name: sweeps for name, sweeps in frame.radars.items() if name in left},
    )
