"""Who and what stands, walks and drives along a road: the cast of one drive, before overlaps are removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from crkd_core.data.synthscenes.road import Layout
from crkd_core.types import DETECTION_CLASSES

LABEL = {name: i for i, name in enumerate(DETECTION_CLASSES)}

# Length, width, height: mean and relative spread. Barriers are short along their heading and wide across, as nuScenes
# annotates them. Two-wheelers are given without a rider.
_SIZES: dict[str, tuple[tuple[float, float, float], float]] = {
    "car": ((4.6, 1.92, 1.70), 0.07),
    "truck": ((6.9, 2.45, 2.85), 0.12),
    "construction_vehicle": ((6.2, 2.6, 3.1), 0.10),
    "bus": ((11.0, 2.85, 3.4), 0.08),
    "trailer": ((10.5, 2.6, 3.7), 0.14),
    "barrier": ((0.5, 2.4, 1.0), 0.06),
    "motorcycle": ((2.1, 0.78, 1.35), 0.07),
    "bicycle": ((1.72, 0.6, 1.15), 0.06),
    "pedestrian": ((0.72, 0.68, 1.75), 0.06),
    "traffic_cone": ((0.42, 0.42, 0.85), 0.15),
}
RIDER_HEIGHT = {"motorcycle": 1.62, "bicycle": 1.72}
LIT = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle")
"""Classes with lamps of their own."""

STATIC = 0
"""Motion profile of everything that does not follow traffic."""


class Actor(NamedTuple):
    """One actor of a detection class and its motion along the road.

    s(t) = s + direction * S[profile](t + time_shift) + v_s * t and d(t) = d + v_d * t, where S is the distance a
    traffic profile has covered; yaw is the road's heading plus ``yaw``.
    """

    name: str
    size: tuple[float, float, float]
    s: float
    d: float
    yaw: float
    profile: int = STATIC
    direction: int = 1
    time_shift: float = 0.0
    v_s: float = 0.0
    v_d: float = 0.0
    manned: bool = False
    """In traffic (a driver, a rider): decides between stopped and parked, with and without rider."""


class Block(NamedTuple):
    """A piece of scenery: an upright box that is no actor."""

    kind: str
    size: tuple[float, float, float]
    s: float
    d: float
    yaw: float = 0.0


@dataclass
class Cast:
    """Everything placed so far."""

    rng: np.random.Generator
    layout: Layout
    actors: list[Actor] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def size(self, name: str, *, rider: bool = False) -> tuple[float, float, float]:
        """A random size (length, width, height) of a class, m."""
        mean, spread = _SIZES[name]
        common = self.rng.normal(0, spread * 0.7)
        scale = 1 + np.clip(common + self.rng.normal(0, spread * 0.7, 3), -2 * spread, 2 * spread)
        length, width, height = (float(m * k) for m, k in zip(mean, scale, strict=True))
        if rider:
            height = RIDER_HEIGHT[name] * float(scale[2])
        return length, width, height

    def add(self, name: str, s: float, d: float, yaw: float, **motion: float) -> Actor:
        """Place an actor of random size."""
        rider = bool(motion.get("manned", False)) and name in RIDER_HEIGHT
        actor = Actor(name, self.size(name, rider=rider), s, d, yaw)._replace(**motion)  # type: ignore[arg-type]
        self.actors.append(actor)
        return actor

    def flip(self) -> float:
        """0 or pi: which way something points."""
        return float(np.pi * self.rng.integers(2))

    def jitter(self, sigma: float) -> float:
        """A normal deviate."""
        return float(self.rng.normal(0, sigma))

    def pick(self, **weights: float) -> str:
        """One of the names, by weight."""
        p = np.array(list(weights.values()))
        return str(self.rng.choice(list(weights), p=p / p.sum()))


def populate_lane(
    cast: Cast,
    *,
    side: int,
    index: int,
    profile: int,
    first: float,
    last: float,
    gap: float,
    clear: tuple[float, float],
) -> None:
    """Traffic of one lane: all follow one profile, each a little later than the one ahead, so they never collide.

    Args:
        side: -1 with the vehicle, +1 oncoming.
        index: lane, 0 next to the divider.
        profile: motion profile of the lane.
        first: where to begin, s, m.
        last: where to end, s, m.
        gap: mean free distance between vehicles, m.
        clear: interval of s at time 0 that stays free (the own vehicle, a crosswalk).
    """
    rng, d = cast.rng, cast.layout.lane_center(side, index)
    direction = -side
    s = first + rng.exponential(gap)
    while s < last:
        name = cast.pick(car=0.62, truck=0.12, bus=0.07, motorcycle=0.10, rig=0.06, construction_vehicle=0.03)
        parts = ["trailer", "truck"] if name == "rig" else [name]
        if direction < 0:
            parts.reverse()
        sway = cast.jitter(0.15)
        for part in parts:
            size = cast.size(part, rider=part in RIDER_HEIGHT)
            s += size[0] / 2
            outside = not clear[0] - size[0] / 2 < s < clear[1] + size[0] / 2
            if outside:
                yaw = (0.0 if direction > 0 else np.pi) + cast.jitter(0.01)
                cast.actors.append(
                    Actor(part, size, s, d + sway, yaw, profile, direction, 0.0, manned=part != "trailer")
                )
            s += size[0] / 2 + 0.6
        s += 2.0 + rng.exponential(gap)


def spread_starts(actors: list[Actor], seconds: float, anchor: float) -> list[Actor]:
    """Let each vehicle of a lane do what the one ahead did ``seconds`` earlier, counted from the place ``anchor``.

    That is Newell's car-following model (2002): a following distance that grows with speed.

    Distances only grow by that, because a profile never goes back. A rig (truck and trailer) keeps one time, so that
    it stays coupled.
    """
    out: list[Actor] = []
    for sign in (1, -1):
        group = [a for a in actors if (a.direction * (a.s - anchor) >= 0) == (sign > 0)]
        rank, previous = 0, None
        for actor in sorted(group, key=lambda a: abs(a.s - anchor)):
            coupled = previous is not None and "trailer" in (actor.name, previous.name) and _close(actor, previous)
            rank += 0 if coupled else 1
            out.append(actor._replace(time_shift=sign * seconds * rank))
            previous = actor
    return out


def _close(a: Actor, b: Actor) -> bool:
    return abs(a.s - b.s) - (a.size[0] + b.size[0]) / 2 < 1.0


def populate_cycle_lane(cast: Cast, side: int, profile: int, first: float, last: float, gap: float) -> None:
    """Cyclists, and now and then a motorcycle, beside the outer lane."""
    d = side * (cast.layout.cycle_edge(side) + 0.5 * cast.layout.cycle_width)
    s = first + cast.rng.exponential(gap)
    while s < last:
        name = cast.pick(bicycle=0.8, motorcycle=0.2)
        yaw = (0.0 if side < 0 else np.pi) + cast.jitter(0.03)
        cast.add(name, s, d + cast.jitter(0.15), yaw, profile=profile, direction=-side, manned=True)
        s += 5.0 + cast.rng.exponential(gap)


def populate_sidewalk(cast: Cast, side: int, first: float, last: float, gap: float) -> None:
    """Pedestrians walking both ways and standing, each kind on its own line; lamp poles at the kerb."""
    rng, edge = cast.rng, cast.layout.walk_edge(side)
    for line, pace in ((1.0, 0.0), (2.0, 1.3), (2.9, -1.3)):
        speed = pace * rng.uniform(0.75, 1.25)
        s = first + rng.exponential(gap)
        while s < last:
            yaw = float(rng.uniform(-np.pi, np.pi)) if speed == 0 else (0.0 if speed > 0 else np.pi)
            cast.add("pedestrian", s, side * (edge + line) + cast.jitter(0.05), yaw + cast.jitter(0.1), v_s=speed)
            if rng.uniform() < 0.3:  # company, one behind the other
                s += rng.uniform(1.0, 1.6)
                cast.add("pedestrian", s, side * (edge + line) + cast.jitter(0.05), yaw + cast.jitter(0.1), v_s=speed)
            s += 1.5 + rng.exponential(gap)
    for s in np.arange(first + rng.uniform(0, 20), last, rng.uniform(22, 35)):
        cast.blocks.append(Block("pole", (0.18, 0.18, 6.5), float(s), side * (edge + 0.3)))


def populate_crosswalk(cast: Cast, s: float) -> None:
    """Pedestrians crossing the whole road at ``s``, in both directions, each on a line of its own."""
    layout, rng = cast.layout, cast.rng
    left, right = layout.walk_edge(1), -layout.walk_edge(-1)
    for k, line in enumerate(np.arange(-2.0, 2.1, 1.0)):
        direction = 1 if k % 2 else -1
        d = float(rng.uniform(right, left))
        cast.add("pedestrian", s + float(line), d, direction * np.pi / 2, v_d=direction * rng.uniform(1.0, 1.5))


# ------------------------------------------------------------------------------------------------- parking strip


def _strip_cars(cast: Cast, side: int, s: float, length: float, d: float) -> None:
    at = s + 0.5
    while True:
        name = cast.pick(car=0.9, truck=0.1)
        actor = Actor(name, cast.size(name), 0, d + cast.jitter(0.1), (0 if side < 0 else np.pi) + cast.jitter(0.02))
        if at + actor.size[0] > s + length:
            return
        if cast.rng.uniform() < 0.85:
            cast.actors.append(actor._replace(s=float(at + actor.size[0] / 2)))
        at += actor.size[0] + cast.rng.uniform(0.8, 2.5)


def _strip_rig(cast: Cast, side: int, s: float, length: float, d: float) -> None:
    yaw = 0.0 if side < 0 else np.pi
    order = ["trailer", "truck"] if side < 0 else ["truck", "trailer"]
    if cast.rng.uniform() < 0.4:
        order = ["trailer"]
    at = s + cast.rng.uniform(0, 1.5)
    for name in order:
        size = cast.size(name)
        if at + size[0] > s + length:
            return
        cast.actors.append(Actor(name, size, float(at + size[0] / 2), d, yaw + cast.jitter(0.01)))
        at += size[0] + 0.7


def _strip_truck(cast: Cast, side: int, s: float, length: float, d: float) -> None:
    size = cast.size("truck")
    at = s + 0.5 + size[0] / 2 + cast.rng.uniform(0, max(0.1, length - size[0] - 1))
    cast.actors.append(Actor("truck", size, float(at), d, (0 if side < 0 else np.pi) + cast.jitter(0.02)))


def _strip_bus(cast: Cast, side: int, s: float, length: float, d: float) -> None:
    size = cast.size("bus")
    yaw = 0.0 if side < 0 else np.pi
    cast.actors.append(Actor("bus", size, s + length / 2, d, yaw + cast.jitter(0.01), manned=True))


def _strip_work(cast: Cast, side: int, s: float, length: float, _d: float) -> None:
    """A work zone: a row of cones, then a row of barriers along the traffic, a machine and workers behind them."""
    inner = side * (cast.layout.parking_edge(side) + 0.25)
    spacing = cast.rng.uniform(1.3, 2.2)
    at = s + 0.5
    for _ in range(int(cast.rng.integers(4, 7))):
        cast.add("traffic_cone", at, inner + cast.jitter(0.05), cast.jitter(0.5))
        at += spacing
    machine = cast.rng.uniform() < 0.75
    size = cast.size("construction_vehicle")
    size = (size[0], min(size[1], 2.5), size[2])
    if machine:
        yaw = cast.flip() + cast.jitter(0.03)
        place = at + 1.0 + size[0] / 2
        cast.actors.append(Actor("construction_vehicle", size, place, inner + side * 1.75, yaw, manned=True))
    while at + 3 < s + length:
        cast.add("barrier", at + 1.3, inner, side * np.pi / 2 + cast.jitter(0.03))
        at += 2.75
    for _ in range(int(cast.rng.integers(1, 3))):
        place = s + cast.rng.uniform(0.5, 5.0)
        cast.add("pedestrian", place, inner + side * cast.rng.uniform(1.0, 2.6), float(cast.rng.uniform(-3, 3)))


def _strip_bikes(cast: Cast, _side: int, s: float, length: float, d: float) -> None:
    lean = cast.rng.choice([-1, 1]) * np.pi / 2 + cast.jitter(0.2)
    name = cast.pick(bicycle=0.5, motorcycle=0.5)
    at = s + 1.0
    while at + 1 < s + length:
        if cast.rng.uniform() < 0.7:
            cast.add(name, at, d, float(lean) + cast.jitter(0.08))
        if cast.rng.uniform() < 0.15:
            name = "motorcycle" if name == "bicycle" else "bicycle"
        at += cast.rng.uniform(1.3, 2.4)


_STRIP = {
    "cars": _strip_cars, "rig": _strip_rig, "truck": _strip_truck, "bus": _strip_bus, "work": _strip_work,
    "bikes": _strip_bikes,
}  # fmt: skip
_STRIP_LENGTH = {"cars": 14.0, "rig": 21.0, "truck": 10.0, "bus": 14.0, "work": 19.0, "bikes": 9.0, "gap": 5.0}
_STRIP_DECK = ("cars", "work", "rig", "bikes", "bus", "work", "truck", "gap")


def populate_strip(cast: Cast, side: int, first: float, last: float) -> None:
    """The parking strip: a shuffled sequence of parked vehicles, work zones, two-wheeler racks and bus stops."""
    d = side * (cast.layout.parking_edge(side) + 0.5 * cast.layout.parking_width)
    s = first
    while s < last:
        for kind in cast.rng.permutation(list(_STRIP_DECK)):
            length = _STRIP_LENGTH[str(kind)]
            if kind != "gap":
                _STRIP[str(kind)](cast, side, s, length, d)
            s += length + 1.5
