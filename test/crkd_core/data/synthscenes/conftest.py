"""A stage: a straight, empty road on which a test places what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.data.synthscenes.population import LABEL, Actor, Block
from crkd_core.data.synthscenes.road import Layout, Road
from crkd_core.data.synthscenes.traffic import Profiles
from crkd_core.data.synthscenes.world import Drive, make_drive

Stage = Callable[..., Drive]
EGO_D = -1.75
"""D of the vehicle's lane: places on the stage are given in road coordinates."""
DAY = Conditions("day", sun_elevation=np.deg2rad(40.0), sun_azimuth=2.5)
"""A clear day; the sun shines from the left behind."""


@pytest.fixture(scope="session")
def drive() -> Drive:
    """A whole simulated drive; tests must not change it."""
    return make_drive(4)


@pytest.fixture(scope="session")
def stage() -> Stage:
    """``stage(actors, blocks, ego_speed=..., conditions=..., **config)``.

    base_link starts at s = 0, heading along x, at (0, -1.75).
    """
    base = make_drive(1, duration_s=2.0)

    def make(
        actors: Sequence[Actor] = (),
        blocks: Sequence[Block] = (),
        ego_speed: float = 0.0,
        conditions: Conditions = DAY,
        **config: object,
    ) -> Drive:
        s = np.arange(-300.0, 300.5, 0.5)
        road = Road(-300.0, np.stack([s, np.zeros_like(s)], axis=1), np.zeros_like(s), np.zeros_like(s))
        t = np.arange(-30, 32.02, 0.02)
        speed = np.stack([np.zeros_like(t), np.full_like(t, ego_speed)])
        profiles = Profiles(-30.0, speed * t, speed, {})
        return replace(
            base,
            conditions=conditions,
            config=msgspec.structs.replace(SynthConfig(), **config),
            road=road,
            layout=Layout(lanes=(1, 1), ego_lane=0),
            profiles=profiles,
            actors=tuple(actors),
            blocks=tuple(blocks),
            sizes=np.array([b.size for b in (*actors, *blocks)], dtype=np.float64).reshape(-1, 3),
            labels=np.array([LABEL[a.name] for a in actors] + [-1] * len(blocks), dtype=np.int64),
            crosswalk=None,
            junction=None,
        )

    return make
