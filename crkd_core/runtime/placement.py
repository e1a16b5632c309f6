"""Where a camera image goes in the network's input at test time: for the GPU, which does the pixels itself."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from crkd_core.config import ImageConfig
from crkd_core.data.augment import fixed_image_augment
from crkd_core.ops.resampling import Filter, Taps, resampled_lines
from crkd_core.types import FloatArray


@dataclass(frozen=True)
class Placement:
    """How one image becomes network input.

    Attributes:
        first_row: first row of the source that matters.
        end_row: the one after the last that does.
        rows: taps of the result's rows, counted from ``first_row``.
        columns: taps of the result's columns.
        matrix: (3, 3) float64, pixel of the full image -> pixel of the network's image.
    """

    first_row: int
    end_row: int
    rows: Taps
    columns: Taps
    matrix: FloatArray


def resized(full: tuple[int, int], config: ImageConfig) -> tuple[int, int]:
    """(width, height) after resizing, before the crop, of a full image of this (width, height)."""
    scale = fixed_image_augment(config, full[0]).scale
    # The small term keeps width * (w / width) from being truncated to w - 1.
    return max(1, int(full[0] * scale + 1e-6)), max(1, int(full[1] * scale + 1e-6))


@functools.lru_cache(maxsize=32)
def placement(full: tuple[int, int], source: tuple[int, int], config: ImageConfig) -> Placement:
    """The placement of test time, equal to ``data.images.augmented_image`` of it.

    Args:
        full: (width, height) of the full image, to which K refers.
        source: (width, height) of the pixels at hand: the full image, or one decoded at half scale.
        config: size and resizing.
    """
    height, width = config.size
    size = resized(full, config)
    left, top = max(0, size[0] - width) // 2, size[1] - height
    kind: Filter = "bicubic"
    if config.resize == "reduced":
        kind = "area" if size[0] <= source[0] and size[1] <= source[1] else "linear"
    rows = resampled_lines(kind, source=source[1], target=size[1], first=top, count=height)
    columns = resampled_lines(kind, source=source[0], target=size[0], first=left, count=width)
    first_row, end_row = rows.span()
    scale = fixed_image_augment(config, full[0]).scale
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = [-left, -top]
    start = np.where(rows.weight.any(1), rows.start - first_row, 0).astype(np.int32)
    return Placement(first_row, end_row, Taps(start, rows.weight), columns, matrix)
