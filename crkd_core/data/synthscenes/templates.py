"""The looks of every class and kind of scenery, in fractions of the body's size (x, y in -0.5..0.5, z in 0..1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from crkd_core.types import FloatArray

UV = Sequence[tuple[float, float]]
RGB = tuple[float, float, float]
Triple = tuple[float, float, float]

# Colour slots: 0 is white, so that a tone is the colour itself; 1 and 2 are the body's own two colours.
FIXED, PAINT, SECOND = 0, 1, 2
_SAME: RGB = (1.0, 1.0, 1.0)
_BLACK, _GLASS, _WINDSHIELD = (24, 24, 26), (36, 42, 50), (78, 94, 110)
_HEAD, _TAIL, _RUBBER, _STEEL = (250, 248, 228), (196, 22, 22), (28, 28, 30), (70, 72, 76)
_WINDOW, _LAMP = (62, 72, 84), (226, 226, 214)


class Glow(IntEnum):
    """What shines at night."""

    NONE = 0
    HEAD = 1
    TAIL = 2
    WINDOW = 3
    STREET = 4


_GLOWS: dict[RGB, Glow] = {_HEAD: Glow.HEAD, _TAIL: Glow.TAIL, _WINDOW: Glow.WINDOW, _LAMP: Glow.STREET}


class Mark(NamedTuple):
    """A patch painted on a face: four points in fractions of that face."""

    face: str
    uv: UV
    slot: int
    tone: RGB
    glow: Glow = Glow.NONE


@dataclass
class Part:
    """A box, or with ``taper`` a truncated pyramid; its colour is that of ``slot`` times ``tone``."""

    low: Triple
    high: Triple
    slot: int = FIXED
    tone: RGB = _SAME
    taper: tuple[float, float] = (1.0, 1.0)
    marks: list[Mark] = field(default_factory=list)

    def mark(self, faces: str, u: tuple[float, float], v: tuple[float, float], tone: RGB, slot: int = FIXED) -> Part:
        """Paint a rectangle on each of the faces named (blank-separated); on "right", u is mirrored to match "left"."""
        for face in faces.split():
            a, b = (1 - u[1], 1 - u[0]) if face == "right" else u
            quad = [(a, v[0]), (b, v[0]), (b, v[1]), (a, v[1])]
            self.marks.append(Mark(face, quad, slot, tone, _GLOWS.get(tone, Glow.NONE)))
        return self

    def wheels(self, at: Sequence[float], du: float, dv: float, v: float) -> Part:
        """Eight-cornered wheels on both sides at fractions u from the front, of radii du, dv, centred at height v."""
        for u in at:
            self.mark("left right", (u - du, u + du), (v - 0.414 * dv, v + 0.414 * dv), _RUBBER)
            for sign in (-1, 1):
                near, far = max(0.0, v + sign * 0.414 * dv), max(0.0, v + sign * dv)
                for face, middle in (("left", u), ("right", 1 - u)):
                    wide, slim = sign * du, sign * 0.414 * du  # the sign keeps the corners counter-clockwise
                    quad = [(middle - wide, near), (middle + wide, near), (middle + slim, far), (middle - slim, far)]
                    self.marks.append(Mark(face, quad, FIXED, _RUBBER))
            self.mark("left right", (u - du * 0.35, u + du * 0.35), (v - dv * 0.35, v + dv * 0.35), (150, 152, 156))
        return self


class Template(NamedTuple):
    """The parts of one look; their axis-aligned boxes do not overlap."""

    parts: list[Part]


_VEHICLE_PAINT: tuple[RGB, ...] = (
    (226, 228, 230), (196, 198, 202), (120, 124, 130), (44, 46, 50), (30, 30, 34), (150, 28, 30), (34, 62, 128),
    (28, 84, 60), (206, 172, 60), (90, 70, 54), (170, 190, 204),
)  # fmt: skip
_CLOTHES: tuple[RGB, ...] = (
    (40, 44, 60), (150, 36, 40), (210, 208, 200), (60, 96, 62), (44, 84, 150), (190, 150, 60), (92, 60, 90),
    (30, 30, 32),
)  # fmt: skip
_FACADES: tuple[RGB, ...] = (
    (168, 150, 130), (150, 100, 84), (176, 176, 172), (120, 124, 130), (196, 184, 160),
)  # fmt: skip
_LEAVES: tuple[RGB, ...] = ((66, 96, 46), (84, 110, 52), (52, 82, 50), (120, 104, 50))
_HI_VIS: RGB = (214, 226, 40)


def _any_of(colours: Sequence[RGB], rng: np.random.Generator) -> RGB:
    return colours[int(rng.integers(len(colours)))]


def actor_variant(name: str, rng: np.random.Generator, *, manned: bool) -> tuple[tuple[str, ...], FloatArray]:
    """A look's key and its (3, 3) colours by slot, for an actor of a class."""
    variant = int(rng.integers(4))
    paint, second = _any_of(_VEHICLE_PAINT, rng), (225.0, 226.0, 228.0)
    key: tuple[str, ...] = (name,)
    if name == "car":
        key = (name, ("sedan", "sedan", "wagon", "van")[variant])
    elif name in ("truck", "trailer"):
        second = _any_of([(232, 232, 230), (200, 204, 206), (60, 90, 150), (160, 60, 50), (222, 222, 224)], rng)
    elif name == "bus":
        paint = _any_of([(220, 222, 224), (176, 40, 44), (40, 96, 150), (222, 176, 50), (60, 130, 90)], rng)
    elif name == "construction_vehicle":
        key = (name, ("excavator", "loader")[variant % 2])
        paint = _any_of([(236, 178, 24), (228, 160, 30), (222, 120, 30)], rng)
    elif name == "barrier":
        key = (name, ("striped", "striped", "concrete", "orange")[variant])
    elif name in ("motorcycle", "bicycle"):
        key, second = (name, "rider" if manned else "parked"), _any_of(_CLOTHES, rng)
    elif name == "pedestrian":
        key = (name, ("plain", "plain", "backpack", "plain")[variant])
        paint, second = _any_of(_CLOTHES, rng), _any_of([(38, 42, 58), (60, 60, 64), (110, 96, 76), (24, 24, 28)], rng)
        if rng.uniform() < 0.12:
            paint = _HI_VIS
    shade = rng.uniform(0.85, 1.08)
    return key, np.array([(255, 255, 255), paint, second], dtype=np.float64) * np.array([[1], [shade], [shade]])


def block_variant(kind: str, size: Triple, rng: np.random.Generator) -> tuple[tuple[str, ...], FloatArray]:
    """A look's key and its (3, 3) colours by slot, for a piece of scenery."""
    key: tuple[str, ...] = (kind,)
    paint: RGB = (140, 140, 140)
    if kind == "building":
        floors, columns = int(np.clip(size[2] // 3.2, 1, 5)), int(np.clip(size[0] // 4, 1, 6))
        key = (kind, str(floors), str(columns), str(int(np.clip(size[1] // 4, 1, 4))))
        paint = _any_of(_FACADES, rng)
    elif kind == "tree":
        paint = _any_of(_LEAVES, rng)
    elif kind == "wall":
        paint = _any_of(_FACADES, rng)
    elif kind == "pole":
        paint = (96, 98, 102)
    shade = rng.uniform(0.85, 1.1)
    return key, np.array([(255, 255, 255), np.multiply(paint, shade), (200, 200, 200)], dtype=np.float64)


def template(key: tuple[str, ...]) -> Template:
    """The look of a key made by ``actor_variant`` or ``block_variant``; tones of fixed colours are 0..1."""
    parts = _BUILDERS[key[0]](*key[1:])
    for part in parts:
        part.tone = _unit(part.slot, part.tone)
        part.marks = [m._replace(tone=_unit(m.slot, m.tone)) for m in part.marks]
    return Template(parts)


def _unit(slot: int, tone: RGB) -> RGB:
    return (tone[0] / 255, tone[1] / 255, tone[2] / 255) if slot == FIXED and max(tone) > 1 else tone


def _car(style: str) -> list[Part]:
    body = Part((-0.5, -0.5, 0.0), (0.5, 0.5, 0.56), PAINT, taper=(0.97, 0.94))
    body.mark("front rear left right", (0, 1), (0.0, 0.2), _BLACK)
    body.wheels((0.19, 0.8), 0.075, 0.36, 0.34)
    body.mark("front", (0.03, 0.25), (0.6, 0.85), _HEAD).mark("front", (0.75, 0.97), (0.6, 0.85), _HEAD)
    body.mark("front", (0.3, 0.7), (0.35, 0.75), _BLACK)
    body.mark("rear", (0.02, 0.22), (0.6, 0.9), _TAIL).mark("rear", (0.78, 0.98), (0.6, 0.9), _TAIL)
    body.mark("rear", (0.38, 0.62), (0.35, 0.55), (230, 230, 220))
    low, high, taper = {
        "sedan": (-0.36, 0.24, (0.62, 0.8)),
        "wagon": (-0.47, 0.24, (0.78, 0.82)),
        "van": (-0.49, 0.34, (0.85, 0.86)),
    }[style]
    cabin = Part((low, -0.46, 0.56), (high, 0.46, 1.0), FIXED, _GLASS, taper)
    cabin.mark("front", (0.06, 0.94), (0.05, 0.92), _WINDSHIELD)
    cabin.mark("left right", (0.46, 0.52), (0, 1), _SAME, PAINT).mark("left right", (0, 1), (0.9, 1), _SAME, PAINT)
    cabin.mark("top", (0.02, 0.98), (0.02, 0.98), _SAME, PAINT)
    cabin.mark("rear", (0, 1), (0.88, 1), _SAME, PAINT)
    return [body, cabin]


def _truck() -> list[Part]:
    chassis = Part((-0.5, -0.48, 0.0), (0.26, 0.48, 0.26), FIXED, _STEEL)
    chassis.wheels((0.62, 0.8), 0.08, 0.62, 0.6)
    chassis.mark("rear", (0.02, 0.2), (0.5, 0.95), _TAIL).mark("rear", (0.8, 0.98), (0.5, 0.95), _TAIL)
    cargo = Part((-0.5, -0.5, 0.26), (0.25, 0.5, 1.0), SECOND)
    cargo.mark("rear", (0.49, 0.51), (0, 1), _BLACK).mark("rear", (0.04, 0.96), (0.0, 0.05), _BLACK)
    cargo.mark("left right", (0.1, 0.9), (0.3, 0.55), (0.86, 0.86, 0.86), SECOND)
    cab = Part((0.27, -0.47, 0.0), (0.5, 0.47, 0.86), PAINT, taper=(0.86, 0.94))
    cab.wheels((0.5,), 0.26, 0.2, 0.19)
    cab.mark("front", (0.06, 0.94), (0.55, 0.92), _WINDSHIELD).mark("left right", (0.15, 0.75), (0.58, 0.9), _GLASS)
    cab.mark("front", (0.04, 0.2), (0.2, 0.32), _HEAD).mark("front", (0.8, 0.96), (0.2, 0.32), _HEAD)
    cab.mark("front", (0.25, 0.75), (0.15, 0.45), _BLACK)
    return [chassis, cargo, cab]


def _bus() -> list[Part]:
    body = Part((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), PAINT, taper=(0.99, 0.97))
    body.mark("left right front rear", (0, 1), (0, 0.08), _BLACK)
    body.wheels((0.23, 0.74), 0.045, 0.15, 0.15)
    body.mark("left right", (0.03, 0.97), (0.45, 0.84), _GLASS)
    for u in (0.2, 0.38, 0.56, 0.74):
        body.mark("left right", (u, u + 0.012), (0.45, 0.84), _SAME, PAINT)
    body.mark("front", (0.05, 0.95), (0.32, 0.84), _WINDSHIELD).mark("front", (0.2, 0.8), (0.87, 0.96), (220, 150, 40))
    body.mark("front", (0.05, 0.2), (0.14, 0.24), _HEAD).mark("front", (0.8, 0.95), (0.14, 0.24), _HEAD)
    body.mark("rear", (0.1, 0.9), (0.55, 0.85), _GLASS).mark("rear", (0.15, 0.85), (0.12, 0.4), (60, 60, 62))
    body.mark("rear", (0.02, 0.12), (0.15, 0.5), _TAIL).mark("rear", (0.88, 0.98), (0.15, 0.5), _TAIL)
    return [body]


def _trailer() -> list[Part]:
    bogie = Part((-0.46, -0.48, 0.0), (-0.12, 0.48, 0.3), FIXED, _STEEL)
    bogie.wheels((0.2, 0.5, 0.8), 0.13, 0.45, 0.42)
    bogie.mark("rear", (0.02, 0.25), (0.6, 0.95), _TAIL).mark("rear", (0.75, 0.98), (0.6, 0.95), _TAIL)
    legs = Part((0.2, -0.4, 0.0), (0.24, 0.4, 0.3), FIXED, _STEEL)
    cargo = Part((-0.5, -0.5, 0.3), (0.5, 0.5, 1.0), SECOND)
    for u in (0.14, 0.28, 0.42, 0.56, 0.7, 0.84):
        cargo.mark("left right", (u, u + 0.008), (0, 1), (0.72, 0.72, 0.72), SECOND)
    cargo.mark("rear", (0.48, 0.52), (0, 1), _BLACK)
    for u in (0.05, 0.35, 0.65):
        cargo.mark("rear", (u, u + 0.15), (0.0, 0.05), _TAIL)
    cargo.mark("front", (0.3, 0.7), (0.5, 0.85), (0.6, 0.6, 0.6), SECOND)
    return [bogie, legs, cargo]


def _construction_vehicle(style: str) -> list[Part]:
    if style == "excavator":
        tracks = Part((-0.42, -0.5, 0.0), (0.28, 0.5, 0.27), FIXED, _RUBBER, (0.9, 1.0))
        tracks.mark("left right", (0.12, 0.88), (0.25, 0.7), _STEEL)
        house = Part((-0.5, -0.45, 0.28), (0.12, 0.45, 0.66), PAINT)
        house.mark("rear", (0.1, 0.9), (0.2, 0.6), _BLACK).mark("left right", (0.55, 0.95), (0.3, 0.7), _BLACK)
        cab = Part((-0.16, 0.06, 0.66), (0.12, 0.43, 1.0), FIXED, _GLASS, (0.9, 0.9))
        cab.mark("top", (0, 1), (0, 1), _SAME, PAINT).mark("front", (0.1, 0.9), (0.1, 0.9), _WINDSHIELD)
        boom = Part((0.13, -0.14, 0.45), (0.36, 0.06, 0.98), PAINT, (0.92, 0.92, 0.92), (0.7, 1.0))
        bucket = Part((0.37, -0.22, 0.02), (0.5, 0.14, 0.82), PAINT, (0.8, 0.8, 0.8), (0.5, 0.7))
        bucket.mark("front rear left right", (0, 1), (0, 0.3), _STEEL)
        return [tracks, house, cab, boom, bucket]
    wheels = Part((-0.46, -0.5, 0.0), (0.26, 0.5, 0.34), FIXED, _STEEL).wheels((0.22, 0.78), 0.19, 0.52, 0.5)
    engine = Part((-0.5, -0.36, 0.35), (-0.12, 0.36, 0.66), PAINT)
    engine.mark("rear", (0.15, 0.85), (0.15, 0.8), _BLACK)
    cab = Part((-0.11, -0.34, 0.35), (0.14, 0.34, 1.0), PAINT)
    cab.mark("left right front rear", (0.1, 0.9), (0.42, 0.92), _GLASS)
    arm = Part((0.15, -0.2, 0.35), (0.3, 0.2, 0.55), PAINT, (0.9, 0.9, 0.9))
    bucket = Part((0.31, -0.5, 0.0), (0.5, 0.5, 0.42), PAINT, (0.7, 0.7, 0.7), (0.55, 1.0))
    bucket.mark("front", (0, 1), (0, 0.25), _STEEL)
    return [wheels, engine, cab, arm, bucket]


def _barrier(style: str) -> list[Part]:
    body = Part((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), FIXED, (186, 184, 178), (0.45, 1.0))
    if style == "concrete":
        return [body.mark("front rear", (0, 1), (0, 0.12), (120, 118, 112))]
    body.tone = (236, 110, 30) if style == "orange" else (232, 230, 226)
    stripe = (240, 238, 232) if style == "orange" else (204, 32, 34)
    for u in (0.04, 0.24, 0.44, 0.64, 0.84):
        for face in ("front", "rear"):
            quad = [(u, 0.35), (u + 0.09, 0.35), (u + 0.15, 0.95), (u + 0.06, 0.95)]
            body.marks.append(Mark(face, quad, FIXED, stripe))
    return [body]


def _motorcycle(style: str) -> list[Part]:
    z = 0.82 if style == "rider" else 1.0
    front = Part((0.2, -0.1, 0.0), (0.5, 0.1, 0.46 * z), FIXED, _RUBBER)
    rear = Part((-0.5, -0.12, 0.0), (-0.2, 0.12, 0.46 * z), FIXED, _RUBBER)
    for wheel in (front, rear):
        wheel.mark("left right", (0.3, 0.7), (0.3, 0.7), (150, 150, 154))
    engine = Part((-0.19, -0.26, 0.14 * z), (0.19, 0.26, 0.5 * z), FIXED, _STEEL)
    tank = Part((-0.04, -0.24, 0.5 * z), (0.22, 0.24, 0.76 * z), PAINT)
    seat = Part((-0.46, -0.2, 0.5 * z), (-0.05, 0.2, 0.66 * z), FIXED, _BLACK)
    seat.mark("rear", (0.15, 0.85), (0.1, 0.8), _TAIL)
    fairing = Part(
        (0.23, -0.5, 0.62 * z), (0.36, 0.5, (0.84 if style == "rider" else 1.0) * z), PAINT, taper=(0.6, 0.8)
    )
    fairing.mark("front", (0.3, 0.7), (0.1, 0.6), _HEAD)
    parts = [front, rear, engine, tank, seat, fairing]
    if style == "rider":
        torso = Part((-0.3, -0.42, 0.66 * z), (-0.05, 0.42, 0.86), SECOND, taper=(0.9, 0.85))
        head = Part((-0.2, -0.17, 0.86), (0.0, 0.17, 1.0), PAINT, (0.8, 0.8, 0.8))
        head.mark("front", (0.1, 0.9), (0.3, 0.75), _BLACK)
        parts += [torso, head]
    return parts


def _bicycle(style: str) -> list[Part]:
    z = 0.66 if style == "rider" else 1.0
    front = Part((0.1, -0.05, 0.0), (0.5, 0.05, 0.6 * z), FIXED, (54, 54, 56))
    rear = Part((-0.5, -0.05, 0.0), (-0.1, 0.05, 0.6 * z), FIXED, (54, 54, 56))
    for wheel in (front, rear):
        wheel.mark("left right", (0.16, 0.84), (0.16, 0.84), (128, 130, 130))
    frame = Part((-0.09, -0.07, 0.24 * z), (0.09, 0.07, 0.7 * z), PAINT)
    bar = Part((0.1, -0.5, 0.84 * z), (0.19, 0.5, 0.97 * z), FIXED, _STEEL)
    stem = Part((0.1, -0.05, 0.61 * z), (0.18, 0.05, 0.83 * z), PAINT)
    saddle = Part((-0.24, -0.13, 0.72 * z), (-0.05, 0.13, 0.84 * z), FIXED, _BLACK)
    if style != "rider":
        return [front, rear, frame, bar, stem, saddle]
    saddle = Part((-0.22, -0.3, 0.3), (-0.1, 0.3, 0.52), FIXED, (44, 46, 60))
    torso = Part((-0.2, -0.38, 0.56), (0.09, 0.38, 0.86), SECOND, taper=(0.8, 0.85))
    head = Part((-0.08, -0.17, 0.87), (0.1, 0.17, 1.0), FIXED, (206, 164, 138))
    head.mark("rear top", (0, 1), (0, 1), (60, 50, 44)).mark("left right", (0.4, 1), (0.3, 1), (60, 50, 44))
    return [front, rear, frame, bar, stem, torso, head]


def _pedestrian(style: str) -> list[Part]:
    left = Part((-0.02, 0.03, 0.0), (0.3, 0.3, 0.47), SECOND)
    right = Part((-0.3, -0.3, 0.0), (0.02, -0.03, 0.47), SECOND)
    torso = Part((-0.26, -0.36, 0.47), (0.26, 0.36, 0.85), PAINT, taper=(0.85, 0.9))
    arms = [
        Part((-0.35, 0.37, 0.45), (-0.05, 0.5, 0.82), PAINT, (0.9, 0.9, 0.9)),
        Part((0.05, -0.5, 0.45), (0.35, -0.37, 0.82), PAINT, (0.9, 0.9, 0.9)),
    ]
    head = Part((-0.17, -0.16, 0.86), (0.17, 0.16, 1.0), FIXED, (208, 166, 140), (0.85, 0.85))
    head.mark("rear", (0, 1), (0, 1), (58, 46, 40)).mark("top", (0, 1), (0, 1), (58, 46, 40))
    head.mark("left right", (0.5, 1), (0.2, 1), (58, 46, 40))
    parts = [left, right, torso, *arms, head]
    if style == "backpack":
        parts.append(Part((-0.5, -0.28, 0.52), (-0.27, 0.28, 0.82), FIXED, (150, 60, 40)))
    return parts


def _traffic_cone() -> list[Part]:
    base = Part((-0.5, -0.5, 0.0), (0.5, 0.5, 0.06), FIXED, (44, 40, 38))
    cone = Part((-0.38, -0.38, 0.06), (0.38, 0.38, 1.0), FIXED, (240, 92, 24), (0.18, 0.18))
    for v in ((0.34, 0.54), (0.7, 0.84)):
        cone.mark("front rear left right", (0, 1), v, (240, 238, 232))
    return [base, cone]


def _building(floors: str, columns: str, depth_columns: str) -> list[Part]:
    body = Part((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), PAINT)
    rows = int(floors)
    for row in range(rows):
        v = ((row + 0.35) / rows, (row + 0.8) / rows)
        for faces, count in (("left right", int(columns)), ("front rear", int(depth_columns))):
            for column in range(count):
                body.mark(faces, ((column + 0.2) / count, (column + 0.8) / count), v, _WINDOW)
    return [body]


def _wall() -> list[Part]:
    body = Part((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), PAINT)
    for u in (0.2, 0.4, 0.6, 0.8):
        body.mark("left right", (u, u + 0.006), (0, 1), (0.7, 0.7, 0.7), PAINT)
    return [body]


def _pole() -> list[Part]:
    return [Part((-0.5, -0.5, 0.0), (0.5, 0.5, 1.0), PAINT).mark("front rear left right", (0, 1), (0.93, 0.99), _LAMP)]


def _tree() -> list[Part]:
    return [
        Part((-0.06, -0.06, 0.0), (0.06, 0.06, 0.34), FIXED, (84, 66, 50)),
        Part((-0.4, -0.4, 0.34), (0.4, 0.4, 0.5), PAINT, (0.8, 0.8, 0.8), (1.25, 1.25)),
        Part((-0.5, -0.5, 0.5), (0.5, 0.5, 0.78), PAINT, taper=(0.85, 0.85)),
        Part((-0.42, -0.42, 0.78), (0.42, 0.42, 1.0), PAINT, (1.1, 1.1, 1.1), (0.5, 0.5)),
    ]


_BUILDERS: dict[str, Callable[..., list[Part]]] = {
    "car": _car, "truck": _truck, "bus": _bus, "trailer": _trailer, "construction_vehicle": _construction_vehicle,
    "barrier": _barrier, "motorcycle": _motorcycle, "bicycle": _bicycle, "pedestrian": _pedestrian,
    "traffic_cone": _traffic_cone, "building": _building, "wall": _wall, "pole": _pole, "tree": _tree,
}  # fmt: skip
