"""How bodies reflect, hide and mirror radar (77 GHz) and LiDAR (905 nm): by class, and by kind of scenery.

Radar cross-sections are rounded from published measurements at 76-81 GHz: cars 5..20 dBsm with flashes where a face is
looked at squarely (Kamel, Peden and Pajusco 2017), pedestrians -10..0 dBsm (Fortuny-Guasch and Chareau, JRC report
EUR 25762, 2013), bicycles -10..5 dBsm and motorcycles 0..10 dBsm (Schipper, Fortuny-Guasch, Tarchi, Reichardt and Zwick
2011; Stolz et al. 2017), trucks 10..25 dBsm. A body's cross-section is divided among its scattering centres. Values for
scenery, cones and barriers, and what passes or is mirrored, are estimates of the same order as the sensor's reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crkd_core.types import FloatArray


class _Material(NamedTuple):
    """One class or kind.

    Attributes:
        centres: scattering centres of a body; ``per_metre`` of its longer side besides.
        rcs: mean radar cross-section of one centre where a face is looked at squarely, dBsm.
        corner: dB less where it is looked at over a corner.
        far_field: m; where its flat parts are looked at from nearer, less of them shines: power is
            r^2 / (r^2 + far_field^2) of what it would be (2 D^2 / wavelength for a plate of D = 0.25 m is 32 m).
        shadow: two-way loss of what stands behind, dB; 0: hides nothing.
        mirror: loss of one reflection off a flat side, dB; infinite: no mirror.
        albedo: diffuse reflectivity at 905 nm, 0..1.
    """

    centres: int
    per_metre: float
    rcs: float
    corner: float
    far_field: float
    shadow: float
    mirror: float
    albedo: float


_NEVER = float("inf")
_MATERIALS = {
    "car": _Material(2, 0.0, 8.0, 6.0, 30.0, 14.0, _NEVER, 0.30),
    "truck": _Material(3, 0.25, 12.0, 8.0, 30.0, 20.0, 8.0, 0.40),
    "construction_vehicle": _Material(3, 0.2, 9.0, 4.0, 30.0, 14.0, _NEVER, 0.35),
    "bus": _Material(3, 0.6, 12.0, 8.0, 30.0, 25.0, 6.0, 0.40),
    "trailer": _Material(2, 0.4, 12.0, 8.0, 30.0, 20.0, 6.0, 0.45),
    "barrier": _Material(1, 0.0, 1.0, 4.0, 0.0, 3.0, _NEVER, 0.40),
    "motorcycle": _Material(2, 0.0, 1.0, 3.0, 0.0, 0.0, _NEVER, 0.25),
    "bicycle": _Material(1, 0.0, -1.0, 4.0, 0.0, 0.0, _NEVER, 0.20),
    "pedestrian": _Material(1, 0.0, -2.5, 1.0, 0.0, 0.0, _NEVER, 0.35),
    "traffic_cone": _Material(1, 0.0, -6.0, 0.0, 0.0, 0.0, _NEVER, 0.50),
    "building": _Material(2, 0.7, 12.0, 8.0, 30.0, 60.0, 8.0, 0.30),
    "wall": _Material(1, 0.5, 6.0, 8.0, 30.0, 40.0, 8.0, 0.30),
    "pole": _Material(1, 0.0, 4.0, 0.0, 0.0, 0.0, _NEVER, 0.30),
    "tree": _Material(4, 0.0, 0.0, 0.0, 0.0, 5.0, _NEVER, 0.30),
}


@dataclass(frozen=True)
class Reflection:
    """N bodies, as radar and LiDAR meet them; each array is (N,).

    Attributes:
        centres: int64, scattering centres.
        rcs: dBsm, mean of one centre seen squarely; ``corner``: dB less over a corner.
        far_field: m; from nearer it is r^2 / (r^2 + far_field^2) of that.
        shadow: two-way loss of what a radar sees behind the body, dB.
        mirror: loss of one radar reflection off a flat side, dB; infinite where there is none.
        albedo: diffuse reflectivity at 905 nm, the same paint or cloth for a whole drive.
    """

    centres: NDArray[np.int64]
    rcs: FloatArray
    corner: FloatArray
    far_field: FloatArray
    shadow: FloatArray
    mirror: FloatArray
    albedo: FloatArray


def reflections(seed: int, kinds: Sequence[str], sizes: FloatArray) -> Reflection:
    """Of every body, by its class or kind of scenery.

    Args:
        seed: of the drive; draws how bright each body is between 0.4 and 1.6 of its kind (dark and light paint).
        kinds: N classes or kinds.
        sizes: (N, 3) m.

    Raises:
        ValueError: a kind without a material.
    """
    unknown = sorted(set(kinds) - set(_MATERIALS))
    if unknown:
        raise ValueError(f"reflection.py: no material for {', '.join(unknown)}; known: {', '.join(_MATERIALS)}")
    rows = np.array([_MATERIALS[kind] for kind in kinds], dtype=np.float64).reshape(-1, len(_Material._fields))
    centres, per_metre, rcs, corner, far_field, shadow, mirror, albedo = rows.T
    shade = np.random.default_rng([seed, 102]).uniform(0.4, 1.6, len(rows))
    return Reflection(
        centres=np.rint(centres + per_metre * sizes[:, :2].max(axis=1, initial=0)).astype(np.int64),
        rcs=rcs,
        corner=corner,
        far_field=far_field,
        shadow=shadow,
        mirror=mirror,
        albedo=albedo * shade,
    )
