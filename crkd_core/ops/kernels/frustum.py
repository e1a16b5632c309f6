"""Kernel of ``crkd_core.ops.frustum``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


def cells(
    pixels: Tensor,
    depths: Tensor,
    image_sample: Tensor,
    matrices: Sequence[Tensor],
    *,
    lower: Sequence[float],
    size: Sequence[float],
    shape: Sequence[int],
) -> Tensor:
    """See ``ops.frustum.frustum_cells``; ``matrices`` are its four; all contiguous."""
    images, columns, bins, rows = len(image_sample), pixels.shape[1], len(depths), pixels.shape[0]
    result = torch.empty(images, columns, bins, rows, dtype=torch.int32, device=pixels.device)
    if result.numel():
        locate_points[(images * columns,)](
            pixels,
            depths,
            image_sample,
            *matrices,
            result,
            *lower,
            *size,
            *shape,
            columns,
            bins,
            rows,
            BLOCK_BINS=triton.next_power_of_2(bins),
            BLOCK_ROWS=triton.next_power_of_2(rows),
            num_warps=4,
        )
    return result


@triton.jit
def turned(matrix, x, y, z):
    """The product of a 4 x 4 matrix's rotation with a vector."""
    a = tl.load(matrix) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2) * z
    b = tl.load(matrix + 4) * x + tl.load(matrix + 5) * y + tl.load(matrix + 6) * z
    c = tl.load(matrix + 8) * x + tl.load(matrix + 9) * y + tl.load(matrix + 10) * z
    return a, b, c


@triton.jit
def unprojected(matrix, x, y):
    """The product of the inverse of a 3 x 3 matrix with (x, y, 1), by its adjugate."""
    a, b, c = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
    d, e, f = tl.load(matrix + 3), tl.load(matrix + 4), tl.load(matrix + 5)
    g, h, i = tl.load(matrix + 6), tl.load(matrix + 7), tl.load(matrix + 8)
    p, q, r = e * i - f * h, f * g - d * i, d * h - e * g
    determinant = a * p + b * q + c * r
    first = (p * x + (c * h - b * i) * y + (b * f - c * e)) / determinant
    second = (q * x + (a * i - c * g) * y + (c * d - a * f)) / determinant
    third = (r * x + (b * g - a * h) * y + (a * e - b * d)) / determinant
    return first, second, third


@triton.jit
def locate_points(
    pixels,
    depths,
    image_sample,
    intrinsics,
    bev_from_cam,
    image_augment,
    bev_augment,
    result,
    lower_x,
    lower_y,
    lower_z,
    size_x,
    size_y,
    size_z,
    nx,
    ny,
    columns,
    bins,
    rows,
    BLOCK_BINS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """One image column: the cells of its points."""
    image = tl.program_id(0) // columns
    d, row = tl.arange(0, BLOCK_BINS), tl.arange(0, BLOCK_ROWS)
    depth = tl.load(depths + d, mask=d < bins, other=0.0)[:, None]

    # The pixel of the full image; the augmentation is affine.
    affine = image_augment + image * 9
    a, b, c, e = tl.load(affine), tl.load(affine + 1), tl.load(affine + 3), tl.load(affine + 4)
    pixel = pixels + 2 * (row * columns + tl.program_id(0) % columns)
    x = tl.load(pixel, mask=row < rows, other=0.0) - tl.load(affine + 2)
    y = tl.load(pixel + 1, mask=row < rows, other=0.0) - tl.load(affine + 5)
    determinant = a * e - b * c
    full_u, full_v = (e * x - b * y) / determinant, (a * y - c * x) / determinant

    sample = tl.load(image_sample + image)
    pose, scene = bev_from_cam + image * 16, bev_augment + sample * 16
    right, down, forward = unprojected(intrinsics + image * 9, full_u, full_v)
    right, down, forward = turned(pose, right, down, forward)
    right, down, forward = turned(scene, right, down, forward)
    start_x, start_y, start_z = turned(scene, tl.load(pose + 3), tl.load(pose + 7), tl.load(pose + 11))
    px = tl.div_rn(right[None, :] * depth + (start_x + tl.load(scene + 3)) - lower_x, size_x)
    py = tl.div_rn(down[None, :] * depth + (start_y + tl.load(scene + 7)) - lower_y, size_y)
    pz = tl.div_rn(forward[None, :] * depth + (start_z + tl.load(scene + 11)) - lower_z, size_z)

    inside = (px > -1) & (px < nx) & (py > -1) & (py < ny) & (pz > -1) & (pz < 1)
    ix, iy = tl.where(inside, px, 0.0).to(tl.int32), tl.where(inside, py, 0.0).to(tl.int32)  # towards zero
    flat = tl.where(inside, (sample.to(tl.int32) * nx + ix) * ny + iy, -1)
    point = (tl.program_id(0) * bins + d[:, None]) * rows + row[None, :]
    tl.store(result + point, flat, mask=(d < bins)[:, None] & (row < rows)[None, :])
