"""A crossing street: while traffic on the vehicle's road waits, others drive across, and the other way round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crkd_core.data.synthscenes.population import STATIC, Actor, Block, Cast

HALF_WIDTH = 6.5
"""Along the vehicle's road, m: two lanes, and room to turn."""
LENGTH = 60.0
"""To either side of the vehicle's road, m."""
_LANE = 1.9  # m from the middle of the crossing street to those of its lanes
_HEADWAY = 1.3  # s between vehicles, and
_GAP = 2.5  # m where they stand


@dataclass(frozen=True)
class Junction:
    """Where a street crosses.

    Attributes:
        s: its middle along the vehicle's road, m.
        flowing: traffic drives across, and the vehicle's road waits; else the other way round.
    """

    s: float
    flowing: bool


def clear_junction(cast: Cast, junction: Junction, duration_s: float) -> None:
    """Take away what stands where the street is and, while traffic flows there, who would walk across it."""

    def outside(body: Actor | Block, walked: float) -> bool:
        margin = HALF_WIDTH + max(body.size[:2]) / 2
        first, last = sorted((body.s, body.s + walked))
        return last < junction.s - margin or first > junction.s + margin

    cast.actors = [
        a
        for a in cast.actors
        if outside(a, a.v_s * duration_s) or not (junction.flowing or (a.profile == STATIC and a.v_s == 0 == a.v_d))
    ]
    cast.blocks = [b for b in cast.blocks if outside(b, 0.0)]


def populate_junction(cast: Cast, junction: Junction, duration_s: float) -> None:
    """Traffic of the crossing street, which drives on the right; each lane keeps one speed and its distances."""
    for direction in (1, -1):
        s, yaw = junction.s + direction * _LANE, direction * np.pi / 2
        speed = float(cast.rng.uniform(6.0, 12.0)) if junction.flowing else 0.0
        stop = cast.layout.walk_edge(direction) + 1.0
        d = LENGTH + 20.0 if junction.flowing else -stop
        last = -LENGTH - 20.0 - speed * duration_s if junction.flowing else -stop - 40.0
        while d > last:
            name = cast.pick(car=0.7, truck=0.12, bus=0.06, motorcycle=0.12)
            size = cast.size(name, rider=name == "motorcycle")
            d -= size[0] / 2
            cast.actors.append(
                Actor(name, size, s + cast.jitter(0.1), direction * d, yaw, v_d=direction * speed, manned=True)
            )
            d -= size[0] / 2 + _GAP + speed * _HEADWAY + float(cast.rng.exponential(6.0 + 2.0 * speed))
