"""Lift-splat view transform: image features to a BEV map through a predicted depth distribution per pixel."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.bev_pool import PoolPlan, bev_pool, pool_plan

Z_RANGE = (-10.0, 10.0)
"""Height of the lifted volume, m; by the truncation of quirk Q5 it reaches down to -30 m."""


class Splat(nn.Module):
    """What all lift-splat view transforms share: rays, cells and the sum."""

    pixels: Tensor
    depths: Tensor

    def __init__(
        self,
        channels: int,
        *,
        image_size: tuple[int, int],
        feature_size: tuple[int, int],
        depth: tuple[float, float, float],
        grid: BevGrid,
    ) -> None:
        """A view transform for one image size.

        Args:
            channels: channels of the summed map.
            image_size: (height, width) of the network's images, pixels.
            feature_size: (height, width) of the image features.
            depth: first bin, end (exclusive), step, m.
            grid: the cells of the summed map; its z_range does not matter, see ``Z_RANGE``.
        """
        super().__init__()
        self.grid = grid
        self.channels = channels
        self.feature_size = feature_size
        self.register_buffer("pixels", pixel_grid(image_size, feature_size), persistent=False)
        self.register_buffer("depths", torch.arange(*depth, dtype=torch.float32), persistent=False)

    def plan(
        self,
        image_sample: Tensor,
        *,
        intrinsics: Tensor,
        T_bev_from_cam: Tensor,
        image_augment: Tensor,
        bev_augment: Tensor,
    ) -> PoolPlan:
        """Where the features of these cameras go: all that depends on the geometry alone, to be kept while it stays.

        Args:
            image_sample: (M,) int64, sample of each image.
            intrinsics: (M, 3, 3) float32.
            T_bev_from_cam: (M, 4, 4) float32.
            image_augment: (M, 3, 3) float32, pixel of the full image -> pixel of the network's image.
            bev_augment: (B, 4, 4) float32, BEV -> augmented BEV.
        """
        points = frustum_points(
            self.pixels, self.depths, intrinsics, T_bev_from_cam, image_augment, bev_augment[image_sample]
        )
        cells = cell_index(points, image_sample, self.grid)
        return pool_plan(cells.unflatten(1, self.feature_size), len(bev_augment) * self.grid.cells)

    def splat(self, per_pixel: Tensor, plan: PoolPlan) -> Tensor:
        """Spread the context of each pixel along its ray by the softmax of its depth logits, and sum it by cell.

        Args:
            per_pixel: (M, D + channels, fH, fW), depth logits, then context.
            plan: see ``plan``.

        Returns:
            (B, channels, nx, ny) of the type of ``per_pixel``; cells that no ray reaches are 0.
        """
        pooled = bev_pool(per_pixel, plan)
        return pooled.view(-1, *self.grid.shape, self.channels).permute(0, 3, 1, 2)


class LiftSplat(Splat):
    """LSS with one 1x1 convolution for depth and context. Runs in the type of its weights, also under autocast."""

    def __init__(self, in_channels: int, channels: int, **geometry: Any) -> None:
        """As ``Splat``; ``in_channels`` are those of the image features."""
        super().__init__(channels, **geometry)
        self.depthnet = nn.Conv2d(in_channels, len(self.depths) + channels, 1)

    def forward(self, features: Tensor, image_sample: Tensor, **geometry: Tensor) -> Tensor:
        """(M, in_channels, fH, fW) -> (B, channels, nx, ny), see ``Splat.plan`` for the other arguments."""
        with full_precision(features.device):
            return self.splat(self.per_pixel(features), self.plan(image_sample, **geometry))

    def per_pixel(self, features: Tensor) -> Tensor:
        """(M, D + channels, fH, fW): depth logits and context, in the type of the weights."""
        result: Tensor = self.depthnet(features.to(self.depthnet.weight.dtype))
        return result


class DepthLiftSplat(Splat):
    """LSS whose depth is helped by a raster of LiDAR depths; sums on a grid twice as fine, then halves it.

    Runs in the type of its weights, also under autocast.
    """

    def __init__(self, in_channels: int, channels: int, *, grid: BevGrid, **geometry: Any) -> None:
        """As ``Splat``; ``in_channels`` are those of the image features, ``grid`` the cells of the map returned."""
        fine = BevGrid(
            grid.lower,
            (grid.cell[0] / 2, grid.cell[1] / 2),
            (2 * grid.shape[0], 2 * grid.shape[1]),
            grid.z_range,
        )
        super().__init__(channels, grid=fine, **geometry)
        self.dtransform = nn.Sequential(
            *_conv_norm_relu(1, 8, 1, bias=True),
            *_conv_norm_relu(8, 32, 5, stride=4, bias=True),
            *_conv_norm_relu(32, 64, 5, stride=2, bias=True),
        )
        self.depthnet = nn.Sequential(
            *_conv_norm_relu(in_channels + 64, in_channels, 3, bias=True),
            *_conv_norm_relu(in_channels, in_channels, 3, bias=True),
            nn.Conv2d(in_channels, len(self.depths) + channels, 1),
        )
        self.downsample = nn.Sequential(
            *_conv_norm_relu(channels, channels, 3),
            *_conv_norm_relu(channels, channels, 3, stride=2),
            *_conv_norm_relu(channels, channels, 3),
        )

    def forward(self, features: Tensor, depth_map: Tensor, image_sample: Tensor, **geometry: Tensor) -> Tensor:
        """Lift, splat, sum and halve.

        Args:
            features: (M, in_channels, fH, fW).
            depth_map: (M, 1, H, W) float32, see ``depth_raster``.
            image_sample: (M,) int64, sample of each image.
            **geometry: see ``Splat.plan``.

        Returns:
            (B, channels, nx, ny).
        """
        with full_precision(features.device):
            summed = self.splat(self.per_pixel(features, depth_map), self.plan(image_sample, **geometry))
            halved: Tensor = self.downsample(summed)
        return halved

    def per_pixel(self, features: Tensor, depth_map: Tensor) -> Tensor:
        """(M, D + channels, fH, fW): depth logits and context, in the type of the weights."""
        dtype = next(self.downsample.parameters()).dtype
        maps = [self.dtransform(depth_map.to(dtype)), features.to(dtype)]
        result: Tensor = self.depthnet(torch.cat(maps, dim=1))
        return result


def depth_raster(
    points: Tensor,
    point_sample: Tensor,
    *,
    image_size: tuple[int, int],
    image_sample: Tensor,
    intrinsics: Tensor,
    T_bev_from_cam: Tensor,
    image_augment: Tensor,
    bev_augment: Tensor,
) -> Tensor:
    """LiDAR depths drawn into the images, one pixel per point.

    As in the original, a point behind the camera is given the depth 1e-5 and then nearly always falls off the image.
    Where points share a pixel the nearest is kept (the original keeps any).

    Args:
        points: (P, >=3) float32, x, y, z in the augmented BEV frame, m.
        point_sample: (P,) int64, sample of each point.
        image_size: (height, width), pixels.
        image_sample: (M,) int64, sample of each image.
        intrinsics: (M, 3, 3) float32.
        T_bev_from_cam: (M, 4, 4) float32.
        image_augment: (M, 3, 3) float32.
        bev_augment: (B, 4, 4) float32.

    Returns:
        (M, 1, height, width) float32, m along the optical axis; 0 where no point falls.
    """
    (height, width), images = image_size, len(image_sample)
    undo = torch.linalg.inv_ex(bev_augment[:, :3, :3]).inverse[point_sample]
    bev = (undo @ (points[:, :3] - bev_augment[point_sample, :3, 3])[..., None])[..., 0]
    R_bev_from_cam, center = T_bev_from_cam[:, :3, :3], T_bev_from_cam[:, None, :3, 3]
    pixel_from_bev = intrinsics @ torch.linalg.inv_ex(R_bev_from_cam).inverse
    projected = (bev - center) @ pixel_from_bev.transpose(1, 2)
    depth = projected[..., 2].clamp(1e-5, 1e5)
    uv = projected[..., :2] / depth[..., None]
    uv = uv @ image_augment[:, :2, :2].transpose(1, 2) + image_augment[:, None, :2, 2]
    inside = ((uv >= 0) & (uv < uv.new_tensor([width, height]))).all(-1) & (image_sample[:, None] == point_sample)
    column, row = torch.where(inside[..., None], uv, 0.0).long().unbind(-1)
    image = torch.arange(images, device=points.device)[:, None]
    index = torch.where(inside, (image * height + row) * width + column, images * height * width)
    raster = points.new_full((images * height * width + 1,), torch.inf)
    raster = raster.scatter_reduce(0, index.flatten(), depth.flatten(), "amin")[:-1]
    return torch.where(raster.isinf(), 0.0, raster).view(images, 1, height, width)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast switched off. The meta device, on which operations are only counted, has none."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


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
    """(M, P, D) int64: ``(sample * nx + ix) * ny + iy`` of each point, -1 outside the grid.

    Indices are truncated toward zero as in the original (quirk Q5): a point up to one cell below a lower border counts
    into the first cell.
    """
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


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = False
) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
