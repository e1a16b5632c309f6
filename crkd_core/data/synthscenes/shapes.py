"""What bodies look like: boxes and truncated pyramids, their faces, and marks painted on the faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.population import Actor, Block
from crkd_core.data.synthscenes.templates import Glow, Template, actor_variant, block_variant, template
from crkd_core.types import FloatArray

MAX_PARTS = 8
_LIT_WINDOWS = 0.3  # share of a building's windows


@dataclass(frozen=True)
class BodyShapes:
    """All quadrilaterals of N bodies in their own frames (x forward, y left, z up, origin on the ground below centre).

    Quadrilaterals of a body are contiguous; those of a part are in painting order.

    Attributes:
        corners: (Q, 4, 3) m, counter-clockwise seen from outside.
        normals: (Q, 3) unit, outward.
        colours: (Q, 3) RGB 0..255, unlit.
        mark: (Q,) painted on a face (no face of its own).
        glow: (Q,) int64 ``Glow`` of what shines where lights are on.
        body: (Q,) index of the body.
        part: (Q,) index of the part in its body.
        part_low, part_high: (N, MAX_PARTS, 3) the axis-aligned box of each part; NaN where there is none.
    """

    corners: FloatArray
    normals: FloatArray
    colours: FloatArray
    mark: NDArray[np.bool_]
    glow: NDArray[np.int64]
    body: NDArray[np.int64]
    part: NDArray[np.int64]
    part_low: FloatArray
    part_high: FloatArray


def build_shapes(seed: int, actors: Sequence[Actor], blocks: Sequence[Block]) -> BodyShapes:
    """The shapes of actors, then blocks; variants and colours are drawn from the seed."""
    rng = np.random.default_rng([seed, 7])
    count = len(actors) + len(blocks)
    low, high = (np.full((count, MAX_PARTS, 3), np.nan) for _ in range(2))
    pieces: list[tuple[_Flat, FloatArray, FloatArray]] = []
    bodies: list[Actor | Block] = [*actors, *blocks]
    for n, body in enumerate(bodies):
        if isinstance(body, Actor):
            key, paint = actor_variant(body.name, rng, manned=body.manned)
        else:
            key, paint = block_variant(body.kind, body.size, rng)
        flat = _flattened(key)
        size = np.array(body.size)
        low[n, : len(flat.low)], high[n, : len(flat.low)] = flat.low * size, flat.high * size
        pieces.append((flat, flat.corners * size, flat.tone * paint[flat.slot]))
    corners = np.concatenate([np.zeros((0, 4, 3)), *(p[1] for p in pieces)])
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    glow = np.concatenate([np.zeros(0, dtype=np.int64), *(p[0].glow for p in pieces)])
    glow[(glow == Glow.WINDOW) & (np.random.default_rng([seed, 13]).random(len(glow)) > _LIT_WINDOWS)] = Glow.NONE
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return BodyShapes(
        corners=corners,
        normals=normals,
        colours=np.clip(np.concatenate([np.zeros((0, 3)), *(p[2] for p in pieces)]), 0, 255),
        mark=np.concatenate([np.zeros(0, dtype=bool), *(p[0].mark for p in pieces)]),
        glow=glow,
        body=np.repeat(np.arange(count), np.array([len(p[0].corners) for p in pieces], dtype=np.int64)),
        part=np.concatenate([np.zeros(0, dtype=np.int64), *(p[0].part for p in pieces)]),
        part_low=low,
        part_high=high,
    )


@dataclass(frozen=True)
class _Flat:
    """A template as arrays, in fractions of the body's size."""

    corners: FloatArray
    slot: NDArray[np.int64]
    tone: FloatArray
    mark: NDArray[np.bool_]
    glow: NDArray[np.int64]
    part: NDArray[np.int64]
    low: FloatArray
    high: FloatArray


@lru_cache(maxsize=256)
def _flattened(key: tuple[str, ...]) -> _Flat:
    shape: Template = template(key)
    corners, slot, tone, mark, glow, part = [], [], [], [], [], []
    for number, piece in enumerate(shape.parts):
        faces = _faces(piece.low, piece.high, piece.taper)
        for quad in faces.values():
            corners.append(quad)
            slot.append(piece.slot)
            tone.append(piece.tone)
            mark.append(False)
            glow.append(Glow.NONE)
            part.append(number)
        for patch in piece.marks:
            corners.append(_on_face(faces[patch.face], patch.uv))
            slot.append(patch.slot)
            tone.append(patch.tone)
            mark.append(True)
            glow.append(patch.glow)
            part.append(number)
    if len(shape.parts) > MAX_PARTS:
        raise ValueError(f"shape {key}: {len(shape.parts)} parts, at most {MAX_PARTS}")
    return _Flat(
        np.array(corners),
        np.array(slot),
        np.array(tone, dtype=np.float64),
        np.array(mark),
        np.array(glow, dtype=np.int64),
        np.array(part),
        np.array([p.low for p in shape.parts]),
        np.array([p.high for p in shape.parts]),
    )


def _faces(
    low: tuple[float, float, float], high: tuple[float, float, float], taper: tuple[float, float]
) -> dict[str, FloatArray]:
    """The six faces (4, 3) of a box whose top is scaled by ``taper``; each begins at its lower left, seen from outside.

    Top and bottom begin at low x, low y and at low x, high y.
    """
    (x0, y0, z0), (x1, y1, z1) = low, high
    cx, cy, tx, ty = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2 * taper[0], (y1 - y0) / 2 * taper[1]
    b = np.array([[x0, y0, z0], [x1, y0, z0], [x1, y1, z0], [x0, y1, z0]])
    t = np.array([[cx - tx, cy - ty, z1], [cx + tx, cy - ty, z1], [cx + tx, cy + ty, z1], [cx - tx, cy + ty, z1]])
    return {
        "bottom": np.stack([b[3], b[2], b[1], b[0]]),
        "front": np.stack([b[1], b[2], t[2], t[1]]),
        "rear": np.stack([b[3], b[0], t[0], t[3]]),
        "left": np.stack([b[2], b[3], t[3], t[2]]),
        "right": np.stack([b[0], b[1], t[1], t[0]]),
        "top": t,
    }


def _on_face(face: FloatArray, uv: Sequence[tuple[float, float]]) -> FloatArray:
    """Points of a face by fractions: u along its bottom edge, v up."""
    u, v = np.array(uv).T[:, :, None]
    quad: FloatArray = (1 - u) * (1 - v) * face[0] + u * (1 - v) * face[1] + u * v * face[2] + (1 - u) * v * face[3]
    return quad
