"""What lies behind the sidewalk: buildings, parking lots, yards, squares, side streets, parks."""

from __future__ import annotations

import numpy as np

from crkd_core.data.synthscenes.population import Block, Cast


def populate_frontage(cast: Cast, side: int, first: float, last: float) -> None:
    """Fill one side with a shuffled sequence of sections; each keeps to its own stretch of the road."""
    s = first
    while s < last:
        for kind in cast.rng.permutation(list(_DECK)):
            length = float(cast.rng.uniform(16, 26))
            _SECTIONS[str(kind)](cast, side, s + 1, length)
            s += length + 2


def _building(cast: Cast, side: int, s: float, length: float) -> None:
    edge, depth, height = cast.layout.frontage_edge(side), cast.rng.uniform(9, 14), cast.rng.uniform(5, 16)
    d = side * (edge + cast.rng.uniform(0.3, 2.5) + depth / 2)
    cast.blocks.append(Block("building", (length - 1, float(depth), float(height)), s + length / 2, float(d)))


def _back_wall(cast: Cast, side: int, s: float, length: float) -> None:
    kind = cast.pick(building=0.5, wall=0.5)
    height, depth = (cast.rng.uniform(5, 14), 6.0) if kind == "building" else (cast.rng.uniform(1.5, 2.6), 0.4)
    d = side * (cast.layout.frontage_edge(side) + cast.layout.frontage_depth + depth / 2)
    cast.blocks.append(Block(kind, (length - 1, depth, float(height)), s + length / 2, float(d)))


def _lot(cast: Cast, side: int, s: float, length: float) -> None:
    """Two rows of perpendicular or slanted bays."""
    edge = cast.layout.frontage_edge(side)
    slant = float(cast.rng.choice([np.pi / 2, np.pi / 2, np.pi / 3]))
    for depth in (4.0, 13.5):
        at = s + 2.5
        while at < s + length - 2:
            if cast.rng.uniform() < 0.7:
                name = cast.pick(car=0.86, truck=0.08, motorcycle=0.06)
                yaw = slant + cast.flip() + cast.jitter(0.04)
                cast.add(name, at, side * (edge + depth) + cast.jitter(0.2), yaw)
            at += 3.1 if slant == np.pi / 2 else 3.7
    _back_wall(cast, side, s, length)


def _yard(cast: Cast, side: int, s: float, length: float) -> None:
    """Construction machines and trailers at any angle behind barriers."""
    edge, rng = cast.layout.frontage_edge(side), cast.rng
    for at in np.arange(s + 2, s + length - 2, 2.75):
        if rng.uniform() < 0.75:
            cast.add("barrier", float(at), side * (edge + 0.8), side * np.pi / 2 + cast.jitter(0.05))
    for k in range(2):
        name = cast.pick(construction_vehicle=0.6, trailer=0.25, truck=0.15)
        depth = (6.5, 15.0)[k]
        place = s + length / 2 + rng.uniform(-3, 3)
        yaw = float(rng.uniform(-np.pi, np.pi)) if name == "construction_vehicle" else cast.flip() + cast.jitter(0.2)
        cast.add(name, float(place), side * (edge + depth), yaw)
    for _ in range(int(rng.integers(2, 5))):
        place, depth = rng.uniform(s + 1, s + length - 1), rng.uniform(2, 11)
        cast.add(cast.pick(pedestrian=0.4, traffic_cone=0.6), float(place), float(side * (edge + depth)), 0.0)
    _back_wall(cast, side, s, length)


def _square(cast: Cast, side: int, s: float, length: float) -> None:
    """People walking any way or standing, parked and ridden bicycles, a few trees."""
    edge, rng = cast.layout.frontage_edge(side), cast.rng
    for _ in range(int(rng.integers(5, 10))):
        place, depth = rng.uniform(s + 1, s + length - 1), rng.uniform(1, 14)
        yaw, speed = rng.uniform(-np.pi, np.pi), rng.choice([0.0, 0.6, 1.2])
        motion = {"v_s": float(speed * np.cos(yaw)), "v_d": float(speed * np.sin(yaw))}
        cast.add("pedestrian", float(place), float(side * (edge + depth)), float(yaw), **motion)
    for _ in range(int(rng.integers(1, 3))):
        place, depth = rng.uniform(s + 2, s + length - 2), rng.uniform(2, 10)
        yaw = cast.flip()
        cast.add("bicycle", float(place), float(side * (edge + depth)), yaw, v_s=float(2.5 * np.cos(yaw)), manned=True)
    at, depth = s + rng.uniform(2, 6), rng.uniform(1.5, 5)
    name = cast.pick(bicycle=0.6, motorcycle=0.4)
    for k in range(int(rng.integers(3, 7))):
        cast.add(name, float(at + 1.3 * k), float(side * (edge + depth)), np.pi / 2 + cast.jitter(0.1))
    _trees(cast, side, s, length, depth=17.0)


def _street(cast: Cast, side: int, s: float, length: float) -> None:
    """A side street: vehicles waiting to come in and others leaving."""
    edge, middle, rng = cast.layout.frontage_edge(side), s + length / 2, cast.rng
    toward, away = (-side) * np.pi / 2, side * np.pi / 2
    depth = 2.0
    for _ in range(int(rng.integers(1, 4))):
        name = cast.pick(car=0.65, truck=0.15, motorcycle=0.15, bus=0.05)
        size = cast.size(name)
        actor = cast.add(name, middle - side * 1.9, side * (edge + depth + size[0] / 2 + 1.0), toward, manned=True)
        depth += max(size[0], actor.size[0]) + rng.uniform(2.5, 5)
    speed, depth = rng.uniform(3, 8), 3.0
    for _ in range(int(rng.integers(0, 3))):
        name = cast.pick(car=0.7, truck=0.1, motorcycle=0.2)
        depth += 6.0
        cast.add(name, middle + side * 1.9, side * (edge + depth), away, v_d=float(side * speed), manned=True)
        depth += 6.0 + rng.uniform(2, 10)


def _park(cast: Cast, side: int, s: float, length: float) -> None:
    _trees(cast, side, s, length, depth=6.0)
    _trees(cast, side, s, length, depth=14.0)
    for _ in range(int(cast.rng.integers(0, 4))):
        place = cast.rng.uniform(s + 1, s + length - 1)
        d = side * (cast.layout.frontage_edge(side) + cast.rng.uniform(0.8, 2.0))
        cast.add("pedestrian", float(place), float(d), float(cast.rng.uniform(-np.pi, np.pi)))


def _trees(cast: Cast, side: int, s: float, length: float, depth: float) -> None:
    at = s + 2.5
    while at < s + length - 2:
        width, height = cast.rng.uniform(2.5, 4.2), cast.rng.uniform(4.5, 8.5)
        d = side * (cast.layout.frontage_edge(side) + depth + cast.jitter(0.5))
        cast.blocks.append(Block("tree", (float(width), float(width), float(height)), float(at), float(d)))
        at += width + cast.rng.uniform(1, 5)


_SECTIONS = {
    "building": _building, "lot": _lot, "yard": _yard, "square": _square, "street": _street, "park": _park,
}  # fmt: skip
_DECK = ("building", "lot", "yard", "square", "building", "street", "park")
