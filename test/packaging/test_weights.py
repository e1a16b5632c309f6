"""The weights that are shipped: those of the shipped recipe, small, and good enough to see a drive they never saw."""

from __future__ import annotations

import numpy as np
import pytest

from crkd_core.config import load_recipe
from crkd_core.data.simulated import FrameKey, simulated_frame
from crkd_core.runtime.checkpoint import read_sidecar
from crkd_core.runtime.detector import Detector
from crkd_ros.answers import shipped_checkpoint

SEED = 100_003
"""Beyond those of the training drives (0, 1, 2, ...)."""


def test_they_belong_to_the_shipped_recipe_and_are_small():
    stored, shipped = read_sidecar(shipped_checkpoint()).recipe, load_recipe("student_tiny")
    assert (stored.name, stored.image, stored.bev, stored.model) == (
        shipped.name,
        shipped.image,
        shipped.bev,
        shipped.model,
    )
    assert (shipped_checkpoint() / "model.safetensors").stat().st_size <= 15e6


@pytest.mark.parametrize("position", [0, 1])
def test_they_find_what_is_near_on_an_unseen_drive(position: int):
    sample = simulated_frame(FrameKey(SEED, position, 2), image_width=800, radar_sweeps=6)
    found = Detector(shipped_checkpoint(), device="cpu", score_threshold=0.3)(sample.frame)
    distance = np.linalg.norm(sample.boxes.centers[:, :2], axis=1)
    near = (sample.num_points >= 10) & (distance < 30)
    assert near.sum() > 10
    gaps = np.linalg.norm(sample.boxes.centers[near, None, :2] - found.boxes.centers[None, :, :2], axis=2)
    gaps[sample.labels[near, None] != found.labels[None]] = np.inf
    assert (gaps.min(axis=1) < 1.0).mean() > 0.75
