"""Triton kernel of image preparation: both passes of the resampling, the crop and the normalisation at once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from crkd_core.ops.resampling import GAIN, OFFSET, PRECISION_BITS

_COLUMNS = 128


def launch_prepare_images(
    pixels: Tensor, pitch: Tensor, row: Tensor, row_weight: Tensor, column: Tensor, column_weight: Tensor, out: Tensor
) -> None:
    """The kernel behind ``ops.image_prepare.prepare_images``; ``out`` (M, 3, H, W) in channels-last memory."""
    images, _, height, width = out.shape
    if images == 0:
        return
    grid = (triton.cdiv(width, _COLUMNS), height, images)
    _prepare_kernel[grid](
        pixels, pitch, row, row_weight, column, column_weight, out, pixels.stride(0), height, width,
        *GAIN, *OFFSET,
        ROW_TAPS=row_weight.shape[2], COLUMN_TAPS=column_weight.shape[1], BITS=PRECISION_BITS, COLUMNS=_COLUMNS,
        num_warps=4,
    )  # fmt: skip


@triton.jit
def _level(total, BITS: tl.constexpr):
    """A weighted sum as a grey level, rounded as Pillow does."""
    return tl.minimum(tl.maximum((total + (1 << (BITS - 1))) >> BITS, 0), 255)


@triton.jit
def _prepare_kernel(
    pixels, pitch, row, row_weight, column, column_weight, out, slot_bytes, height, width,
    gain_r, gain_g, gain_b, offset_r, offset_g, offset_b,
    ROW_TAPS: tl.constexpr, COLUMN_TAPS: tl.constexpr, BITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One stretch of one row of one image."""
    image, y = tl.program_id(2), tl.program_id(1)
    x = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = x < width
    first = tl.load(column + image * width + x, mask=inside, other=0)
    line = tl.load(pitch + image)
    source = pixels + image.to(tl.int64) * slot_bytes
    top = tl.load(row + image * height + y)
    red = tl.zeros((COLUMNS,), dtype=tl.int32)
    green = tl.zeros((COLUMNS,), dtype=tl.int32)
    blue = tl.zeros((COLUMNS,), dtype=tl.int32)
    for tap in range(ROW_TAPS):
        down = tl.load(row_weight + (image * height + y) * ROW_TAPS + tap)
        if down != 0:
            r = tl.zeros((COLUMNS,), dtype=tl.int32)
            g = tl.zeros((COLUMNS,), dtype=tl.int32)
            b = tl.zeros((COLUMNS,), dtype=tl.int32)
            for step in tl.static_range(COLUMN_TAPS):
                across = tl.load(column_weight + (image * COLUMN_TAPS + step) * width + x, mask=inside, other=0)
                used = across != 0
                at = source + (top + tap) * line + 3 * (first + step)
                r += across * tl.load(at, mask=used, other=0).to(tl.int32)
                g += across * tl.load(at + 1, mask=used, other=0).to(tl.int32)
                b += across * tl.load(at + 2, mask=used, other=0).to(tl.int32)
            red += down * _level(r, BITS)
            green += down * _level(g, BITS)
            blue += down * _level(b, BITS)
    at = out + ((image * height + y) * width + x) * 3
    tl.store(at, (_level(red, BITS).to(tl.float32) * gain_r - offset_r).to(out.dtype.element_ty), mask=inside)
    tl.store(at + 1, (_level(green, BITS).to(tl.float32) * gain_g - offset_g).to(out.dtype.element_ty), mask=inside)
    tl.store(at + 2, (_level(blue, BITS).to(tl.float32) * gain_b - offset_b).to(out.dtype.element_ty), mask=inside)
