"""Radar features from the bytes of returns are those from their columns."""

from __future__ import annotations

import numpy as np
import torch

from crkd_core.data.radar import sweep_features
from crkd_core.geometry.transforms import transform
from crkd_core.runtime.radar_records import RECORD, features_of_records
from crkd_core.types import RADAR_DTYPE


def test_every_column_is_that_of_the_sweep() -> None:
    rng = np.random.default_rng(5)
    points = rng.integers(0, 256, (60, RECORD), dtype=np.uint8).view(RADAR_DTYPE)[
        :, 0
    ]  # all states, also negative ones
    for name in ("x", "y", "z", "rcs", "vx_comp", "vy_comp"):
        points[name] = rng.normal(0, 30, 60)
    T = transform([0.9, 0.1, -0.2, 0.4], [1.0, -2.0, 0.5])
    ages = np.array([0.0, 0.0752])
    sweep = np.arange(60) % 2
    expected = np.zeros((60, 45), np.float32)
    for i, age in enumerate(ages):
        expected[sweep == i] = sweep_features(points[sweep == i], T, age)
    records = torch.from_numpy(points.view(np.uint8).reshape(60, RECORD).copy())
    sweep_there = torch.from_numpy(np.where(np.arange(60) < 50, sweep, -1)).int()
    found = features_of_records(
        records, sweep_there, torch.from_numpy(np.stack([T, T])[:, :3]), torch.from_numpy(ages), outside=-99.0
    )
    torch.testing.assert_close(found[:50], torch.from_numpy(expected[:50]), rtol=1e-6, atol=1e-5)
    assert (found[50:, :2] == -99.0).all()
    assert not found[50:, 2:].any()
