"""Lift-splat view transform: image features to a BEV map through a predicted depth distribution per pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.bev_pool import PoolPlan, bev_pool, pool_plan
from crkd_core.ops.frustum import frustum_cells, pixel_grid


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
            grid: the cells of the summed map; its z_range does not matter, see ``frustum.Z_RANGE``.
        """
        super().__init__()
        self.grid = grid
        self.channels = channels
        self.feature_size = feature_size
        self.register_buffer("pixels", pixel_grid(image_size, feature_size), persistent=False)
        self.register_buffer("depths", torch.arange(*depth, dtype=torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Splat:
        """Moves with its weights, but keeps its float32: half precision does not tell neighbouring pixels apart."""
        pixels, depths = self.pixels, self.depths
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.pixels, self.depths = pixels.to(self.pixels.device), depths.to(self.depths.device)
        return self

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
        cells = frustum_cells(
            self.pixels.unflatten(0, self.feature_size),
            self.depths,
            image_sample,
            intrinsics,
            T_bev_from_cam,
            image_augment,
            bev_augment,
            self.grid,
        )
        return pool_plan(cells, len(bev_augment) * self.grid.cells)

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
        point_sample: (P,) int64, ascending, sample of each point.
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
    # An image looks at the points of its own sample only: all points of a batch would be the square of the work.
    augmented, filled = _padded(points[:, :3], point_sample, len(bev_augment))
    undo = torch.linalg.inv_ex(bev_augment[:, :3, :3]).inverse
    by_sample = (augmented - bev_augment[:, None, :3, 3]) @ undo.transpose(1, 2)
    R_bev_from_cam, center = T_bev_from_cam[:, :3, :3], T_bev_from_cam[:, None, :3, 3]
    pixel_from_bev = intrinsics @ torch.linalg.inv_ex(R_bev_from_cam).inverse
    projected = (by_sample[image_sample] - center) @ pixel_from_bev.transpose(1, 2)
    depth = projected[..., 2].clamp(1e-5, 1e5)
    uv = projected[..., :2] / depth[..., None]
    uv = uv @ image_augment[:, :2, :2].transpose(1, 2) + image_augment[:, None, :2, 2]
    inside = ((uv >= 0) & (uv < uv.new_tensor([width, height]))).all(-1) & filled[image_sample]
    column, row = torch.where(inside[..., None], uv, 0.0).long().unbind(-1)
    image = torch.arange(images, device=points.device)[:, None]
    # Points outside go to cells behind the raster, each to another: in a single one a GPU would queue them all.
    pixels = images * height * width
    outside = pixels + torch.arange(inside.shape[1], device=points.device)
    index = torch.where(inside, (image * height + row) * width + column, outside)
    raster = points.new_full((pixels + len(outside),), torch.inf)
    raster = raster.scatter_reduce(0, index.flatten(), depth.flatten(), "amin")[:pixels]
    return torch.where(raster.isinf(), 0.0, raster).view(images, 1, height, width)


def _padded(points: Tensor, sample: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """(B, most points of a sample, 3) the points by sample, filled up with zeros; (B, ...) bool, which are points."""
    # Samples are ascending: their borders are searched for, where counting would queue all points at a few counters.
    ends = torch.searchsorted(sample, torch.arange(batch_size, device=sample.device), right=True)
    counts = ends.diff(prepend=ends.new_zeros(1))
    slot = torch.arange(len(points), device=points.device) - (ends - counts)[sample]
    most = int(counts.max()) if len(points) else 0
    padded = points.new_zeros(batch_size, most, points.shape[1])
    padded[sample, slot] = points
    return padded, torch.arange(most, device=points.device) < counts[:, None]


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Autocast switched off. The meta device, on which operations are only counted, has none."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = False
) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
