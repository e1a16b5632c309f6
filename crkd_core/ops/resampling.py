"""Separable resampling of 8-bit images as tables: which source lines make a line of the result, with which weights.

Weights are integers, ``PRECISION_BITS`` fractional bits; both passes, first along rows, then along columns, end in an
8-bit grey level. That is how Pillow resizes, whose bicubic results the tables reproduce bit for bit. Area and linear
resampling as in OpenCV, which rounds once, come out within two grey levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 22
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
GAIN = tuple(1.0 / (255.0 * std) for std in _STD)
OFFSET = tuple(mean / std for mean, std in zip(_MEAN, _STD, strict=True))
"""ImageNet's normalisation of a grey level: ``level * GAIN - OFFSET``, by channel."""

Filter = Literal["bicubic", "area", "linear"]


@dataclass(frozen=True)
class Taps:
    """How each line of a result (row or column) is made.

    Attributes:
        start: (N,) int32, first source line.
        weight: (N, K) int32, of the source lines from ``start`` on; a line of zeros is black.
    """

    start: NDArray[np.int32]
    weight: NDArray[np.int32]

    def span(self) -> tuple[int, int]:
        """First source line that counts, and the one after the last; (0, 0) if none does."""
        used = self.weight != 0
        if not used.any():
            return 0, 0
        lines = self.start[:, None] + np.arange(self.weight.shape[1])
        return int(lines[used].min()), int(lines[used].max()) + 1

    def padded(self, taps: int) -> Taps:
        """The same with room for more weights."""
        return Taps(self.start, np.pad(self.weight, ((0, 0), (0, taps - self.weight.shape[1]))))


def resampled_lines(kind: Filter, *, source: int, target: int, first: int, count: int) -> Taps:
    """Taps of ``count`` lines, from line ``first`` on, of ``source`` lines resampled to ``target``.

    Lines before 0 or from ``target`` on are black.
    """
    line = np.arange(first, first + count)
    exists = (line >= 0) & (line < target)
    start, weight = _FILTERS[kind](source, target, np.where(exists, line, 0))
    weight = np.where(exists[:, None], weight / weight.sum(1, keepdims=True), 0.0)
    fixed = np.where(weight < 0, np.ceil(weight * 2**PRECISION_BITS - 0.5), np.floor(weight * 2**PRECISION_BITS + 0.5))
    return _trimmed(start, fixed.astype(np.int32))


def _trimmed(start: NDArray[np.int64], weight: NDArray[np.int32]) -> Taps:
    """The taps without the zeros around them, as far as all lines have them."""
    used = weight != 0
    lead = used.argmax(1)
    taps = max(int((weight.shape[1] - used[:, ::-1].argmax(1) - lead)[used.any(1)].max(initial=1)), 1)
    step = lead[:, None] + np.arange(taps)
    kept = np.take_along_axis(weight, np.minimum(step, weight.shape[1] - 1), axis=1)
    kept[step >= weight.shape[1]] = 0
    return Taps((start + lead).astype(np.int32), kept)


def _windowed(
    source: int, target: int, line: NDArray[np.int64], support: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """First source line of each window, distance of each line's middle from the window's, and whether it is inside."""
    scale = source / target
    reach = support * max(scale, 1.0)
    center = (line + 0.5) * scale
    start = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((center + reach + 0.5).astype(np.int64), source)
    lines = start[:, None] + np.arange(math.ceil(reach) * 2 + 1)
    return start, lines + 0.5 - center[:, None], lines < end[:, None]


def _bicubic(source: int, target: int, line: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keys' cubic with a = -0.5, widened when shrinking."""
    start, distance, inside = _windowed(source, target, line, 2.0)
    x, a = np.abs(distance) / max(source / target, 1.0), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return start, np.where(inside, np.where(x < 1, near, np.where(x < 2, far, 0.0)), 0.0)


def _area(source: int, target: int, line: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Each source line by the part of it that the result's line covers."""
    scale = source / target
    low, high = (line * scale)[:, None], ((line + 1) * scale)[:, None]
    start = np.floor(low[:, 0] + 1e-9).astype(np.int64)
    lines = start[:, None] + np.arange(math.ceil(scale) + 1)
    covered = np.minimum(lines + 1, np.minimum(high, source)) - np.maximum(lines, low)
    return start, np.where(covered > 1e-6, covered, 0.0)


def _linear(source: int, target: int, line: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Between the two nearest source lines; beyond the outermost ones, those."""
    place = np.clip((line + 0.5) * (source / target) - 0.5, 0, source - 1)
    start = np.minimum(place.astype(np.int64), max(source - 2, 0))
    part = place - start
    return start, np.stack([1 - part, part], axis=1)


_FILTERS = {"bicubic": _bicubic, "area": _area, "linear": _linear}
