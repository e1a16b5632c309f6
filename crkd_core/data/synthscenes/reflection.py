"""How strongly bodies reflect radar, and how much passes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crkd_core.types import FloatArray

# Mean returns in the open, radar cross-section in dBsm: by label, then by kind of scenery. Metal vehicles are strong,
# people and cones weak.
_ACTORS = (
    (1.8, 10.0), (2.8, 16.0), (2.6, 14.0), (3.6, 18.0), (3.4, 17.0),
    (0.9, 1.0), (1.1, 4.0), (0.9, 0.0), (0.8, -5.0), (0.5, -9.0),
)  # fmt: skip
_SCENERY = {"building": (5.0, 16.0), "wall": (3.0, 8.0), "pole": (1.0, 5.0), "tree": (1.4, 1.0)}
# The share of returns that come past a body in the way (under a car, around it); 1: it hides nothing from a radar.
_PASS = {"car": 0.15, "truck": 0.12, "construction_vehicle": 0.2, "bus": 0.06, "trailer": 0.15}


def radar_traits(labels: NDArray[np.int64], scenery: Sequence[str]) -> FloatArray:
    """(N, 2) mean returns per sweep in the open, and radar cross-section in dBsm: actors by label, then scenery."""
    rows = [_ACTORS[label] for label in labels if label >= 0] + [_SCENERY[kind] for kind in scenery]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def radar_passing(kinds: Sequence[str]) -> FloatArray:
    """(N,) share of returns that come past a body of each class or kind of scenery in the way."""
    return np.array([_PASS.get(kind, 0.0 if kind in ("building", "wall") else 1.0) for kind in kinds])
