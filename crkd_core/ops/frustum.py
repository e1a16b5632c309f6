"""Where the points of every pixel's ray lie: the geometry of the lift-splat view transform."""

from __future__ import annotations

import torch
from torch import Tensor

from crkd_core.geometry.grid import BevGrid

Z_RANGE = (-10.0, 10.0)
"""Height of the lifted volume, m; by the truncation of quirk Q5 it reaches down to -30 m."""


def frustum_cells(
    pixels: Tensor,  # [H, W, 2]
    depths: Tensor,  # [D]
    image_sample: Tensor,  # [M]
    intrinsics: Tensor,  # [M, 3, 3]
    T_bev_from_cam: Tensor,  # [M, 4, 4]
    image_augment: Tensor,  # [M, 3, 3]
    bev_augment: Tensor,  # [B, 4, 4]
    grid: BevGrid,
) -> Tensor:
    """The cell of each point of the rays of all pixels.

    Indices are truncated toward zero as in the original (quirk Q5): a point up to one cell below a lower border counts
    into the first cell. On a GPU one kernel, whose rounding may put a point that lies on a border into the other cell.

    Args:
        pixels: (H, W, 2) float32, u and v in the network's image, see ``pixel_grid``.
        depths: (D,) float32, m along the optical axis.
        image_sample: (M,) int64, sample of each image.
        intrinsics: (M, 3, 3) float32.
        T_bev_from_cam: (M, 4, 4) float32.
        image_augment: (M, 3, 3) float32, pixel of the full image -> pixel of the network's image; affine.
        bev_augment: (B, 4, 4) float32, BEV -> augmented BEV.
        grid: the cells; its z_range does not matter, see ``Z_RANGE``.

    Returns:
        (M, W, D, H) int32: ``(sample * nx + ix) * ny + iy`` of each point, -1 outside the grid.
    """
    matrices = (intrinsics, T_bev_from_cam, image_augment, bev_augment)
    if pixels.device.type != "cpu":
        lower, size = (*grid.lower, Z_RANGE[0]), (*grid.cell, Z_RANGE[1] - Z_RANGE[0])
        cells: Tensor = _frustum_cells(pixels, depths, image_sample, list(matrices), lower, size, grid.shape)
        return cells
    return frustum_cells_reference(pixels, depths, image_sample, *matrices, grid)


def frustum_cells_reference(
    pixels: Tensor,
    depths: Tensor,
    image_sample: Tensor,
    intrinsics: Tensor,
    T_bev_from_cam: Tensor,
    image_augment: Tensor,
    bev_augment: Tensor,
    grid: BevGrid,
) -> Tensor:
    """What ``frustum_cells`` computes, in torch."""
    scene = bev_augment[image_sample]
    points = frustum_points(pixels.flatten(0, 1), depths, intrinsics, T_bev_from_cam, image_augment, scene)
    cells = cell_index(points, image_sample, grid).int().view(-1, *pixels.shape[:2], len(depths))
    return cells.permute(0, 2, 3, 1).contiguous()


def pixel_grid(image_size: tuple[int, int], feature_size: tuple[int, int]) -> Tensor:
    """(fH * fW, 2) float32: the image position (u, v) of each feature, from the first pixel to the last, row by row."""
    (height, width), (rows, columns) = image_size, feature_size
    u = torch.linspace(0, width - 1, columns, dtype=torch.float32)
    v = torch.linspace(0, height - 1, rows, dtype=torch.float32)
    return torch.stack([u.expand(rows, columns), v[:, None].expand(rows, columns)], dim=-1).flatten(0, 1)


def frustum_points(
    pixels: Tensor,
    depths: Tensor,
    intrinsics: Tensor,
    T_bev_from_cam: Tensor,
    image_augment: Tensor,
    bev_augment: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the points of every pixel's ray lie.

    Args:
        pixels: (P, 2) float32, u and v in the network's image.
        depths: (D,) float32, m along the optical axis.
        intrinsics: (M, 3, 3) float32.
        T_bev_from_cam: (M, 4, 4) float32.
        image_augment: (M, 3, 3) float32; affine.
        bev_augment: (M, 4, 4) float32, of the sample of each image.

    Returns:
        x, y, z, each (M, P, D) float32, m, augmented BEV frame.
    """
    undo = torch.linalg.inv_ex(image_augment[:, :2, :2]).inverse
    uv = (pixels - image_augment[:, None, :2, 2]) @ undo.transpose(1, 2)
    homogeneous = torch.cat([uv, torch.ones_like(uv[..., :1])], dim=-1)
    bev_from_pixel = T_bev_from_cam[:, :3, :3] @ torch.linalg.inv_ex(intrinsics).inverse
    # Points on a ray are linear in depth, so the rotations are applied to P rays instead of P x D points.
    ray = homogeneous @ bev_from_pixel.transpose(1, 2) @ bev_augment[:, :3, :3].transpose(1, 2)
    origin = (bev_augment[:, :3, :3] @ T_bev_from_cam[:, :3, 3:])[..., 0] + bev_augment[:, :3, 3]
    x, y, z = (ray[..., i, None] * depths + origin[:, i, None, None] for i in range(3))
    return x, y, z


def cell_index(points: tuple[Tensor, Tensor, Tensor], image_sample: Tensor, grid: BevGrid) -> Tensor:
    """(M, P, D) int64: the cell of each of (M, P, D) points, see ``frustum_cells``."""
    x, y, z = points
    ix, x_inside = _truncated(x, grid.lower[0], grid.cell[0], grid.shape[0])
    iy, y_inside = _truncated(y, grid.lower[1], grid.cell[1], grid.shape[1])
    _, z_inside = _truncated(z, Z_RANGE[0], Z_RANGE[1] - Z_RANGE[0], 1)
    flat = (image_sample[:, None, None] * grid.shape[0] + ix) * grid.shape[1] + iy
    return torch.where(x_inside & y_inside & z_inside, flat, -1)


def _truncated(values: Tensor, lower: float, size: float, count: int) -> tuple[Tensor, Tensor]:
    """Indices, meaningless where the second tensor (bool) says that they lie outside."""
    position = (values - lower) / size
    return position.long(), (position > -1) & (position < count)


@torch.library.custom_op("crkd::frustum_cells", mutates_args=())
def _frustum_cells(
    pixels: Tensor,
    depths: Tensor,
    image_sample: Tensor,
    matrices: list[Tensor],
    lower: list[float],
    size: list[float],
    shape: list[int],
) -> Tensor:
    from crkd_core.ops.kernels import frustum as kernels

    matrices = [matrix.contiguous() for matrix in matrices]
    return kernels.cells(pixels.contiguous(), depths, image_sample, matrices, lower=lower, size=size, shape=shape)


@_frustum_cells.register_fake
def _(
    pixels: Tensor,
    depths: Tensor,
    image_sample: Tensor,
    matrices: list[Tensor],
    lower: list[float],
    size: list[float],
    shape: list[int],
) -> Tensor:
    rows, columns, _ = pixels.shape
    return pixels.new_empty(image_sample.shape[0], columns, depths.shape[0], rows, dtype=torch.int32)
