"""The detector of CRKD, every variant of which is a recipe: camera, radar or both; camera + LiDAR for a teacher."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crkd_core.config import CameraConfig, Recipe, RecipeError
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.bev_decoder import BevDecoder
from crkd_core.models.center_head import CenterHead, JoinedMaps, TaskMaps, joined_maps
from crkd_core.models.decode import Decoded, decode, decode_peaks, find_peaks
from crkd_core.models.fusers import build_fuser
from crkd_core.models.lidar_encoder import LidarEncoder
from crkd_core.models.necks import GeneralizedLSSFPN, SecondFPN
from crkd_core.models.radar_encoder import RadarEncoder
from crkd_core.models.resnet import ResNet
from crkd_core.models.swin import SwinTiny
from crkd_core.models.view_transform import DepthLiftSplat, LiftSplat, depth_raster, full_precision
from crkd_core.types import NetworkInput


@dataclass(frozen=True)
class FusionOutput:
    """What the network computes; all maps are (B, C, nx, ny), rows x, columns y; C is 0 where the recipe has no branch.

    Attributes:
        tasks: raw head maps, one entry for each of ``center_head.TASKS``.
        camera_gated: camera map as it entered the fusion (gated, if the fuser gates).
        fused: fused map, after its ReLU.
        other: radar map, after the calibration block where there is one, or LiDAR map; before the gate.
        radar_activation: (B, 1, nx, ny), output of the radar activation head; None without a calibration block.
    """

    tasks: tuple[TaskMaps, ...]
    camera_gated: Tensor
    fused: Tensor
    other: Tensor
    radar_activation: Tensor | None

    @functools.cached_property
    def joined(self) -> JoinedMaps:
        """The maps of all tasks beside each other, joined once for all losses."""
        return joined_maps(self.tasks)


class CameraBranch(nn.Module):
    """Images to a BEV map: backbone, neck, view transform."""

    def __init__(self, config: CameraConfig, image_size: tuple[int, int], grid: BevGrid) -> None:
        super().__init__()
        self.image_size = height, width = image_size
        self.channels = config.channels
        self.grid = grid
        self.backbone = _backbone(config)
        self.neck = _neck(config, self.backbone.out_channels)
        kind = LiftSplat if config.view_transform == "lss" else DepthLiftSplat
        self.view_transform = kind(
            self.neck.out_channels,
            config.channels,
            image_size=(height, width),
            feature_size=(height // 8, width // 8),
            depth=config.depth,
            grid=grid,
        )

    def forward(self, inputs: NetworkInput) -> Tensor:
        """(B, channels, nx, ny) float32; zero for a sample without images."""
        if len(inputs.images) == 0:
            return inputs.images.new_zeros(inputs.batch_size, self.channels, *self.grid.shape)
        images = inputs.images.contiguous(memory_format=torch.channels_last)
        maps = self.backbone(images)
        features = self.neck(maps if isinstance(self.neck, SecondFPN) else maps[-3:])
        geometry = {
            "intrinsics": inputs.intrinsics,
            "T_bev_from_cam": inputs.T_bev_from_cam,
            "image_augment": inputs.image_augment,
            "bev_augment": inputs.bev_augment,
        }
        extra: tuple[Tensor, ...] = ()
        if isinstance(self.view_transform, DepthLiftSplat):
            extra = (self.depth_map(inputs, **geometry),)
        bev: Tensor = self.view_transform(features, *extra, inputs.image_sample, **geometry)
        return bev

    def depth_map(self, inputs: NetworkInput, **geometry: Tensor) -> Tensor:
        """(M, 1, H, W) float32: LiDAR depths in the images, see ``view_transform.depth_raster``."""
        with full_precision(inputs.images.device):
            return depth_raster(
                inputs.lidar,
                inputs.lidar_sample,
                image_size=self.image_size,
                image_sample=inputs.image_sample,
                **geometry,
            )


class FusionDetector(nn.Module):
    """Camera branch, radar or LiDAR branch, fusion, BEV decoder, head. A branch the recipe does not have is None.

    Attributes:
        recipe: what it is composed of.
        grid: the cells of its maps.
    """

    def __init__(self, recipe: Recipe) -> None:
        """A detector with fresh weights.

        Raises:
            RecipeError: a combination of sizes or parts that cannot be built.
            MissingSpconvError: a recipe with a LiDAR branch where spconv is not installed.
        """
        super().__init__()
        self.recipe = recipe
        model = recipe.model
        self.grid = BevGrid.from_config(recipe.bev)
        self.camera = CameraBranch(model.camera, recipe.image.size, self.grid) if model.camera is not None else None
        self.radar = RadarEncoder(model.radar, self.grid) if model.radar is not None else None
        self.lidar = LidarEncoder(model.lidar, self.grid) if model.lidar is not None else None
        other = self.radar if self.radar is not None else self.lidar
        self.fuser = build_fuser(
            model.fuser,
            camera_channels=0 if self.camera is None else self.camera.channels,
            other_channels=0 if other is None else other.out_channels,
        )
        self.decoder = BevDecoder(model.fuser.channels, model.decoder)
        self.head = CenterHead(model.decoder.out_channels, model.head)
        for part in self.children():
            if part is not self.lidar:  # its kernels have five axes, of which spconv fixes the order
                part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: NetworkInput) -> FusionOutput:
        """Raw maps of a batch; a sample may lack all images, all radar or LiDAR points, or both.

        Args:
            inputs: on the model's device.
        """
        other, activation = self.other(inputs)
        fused, camera_gated, _ = self.fuser(self.camera_map(inputs), other)
        tasks = self.head(self.decoder(fused))
        return FusionOutput(tasks, camera_gated, fused, other, activation)

    def camera_map(self, inputs: NetworkInput) -> Tensor:
        """The camera map (B, C, nx, ny); C is 0 without a camera branch."""
        if self.camera is None:
            return self._no_map(inputs)
        camera: Tensor = self.camera(inputs)
        return camera

    def other(self, inputs: NetworkInput) -> tuple[Tensor, Tensor | None]:
        """The map that is fused with the camera's, and the radar activation (None without a calibration block)."""
        if self.lidar is not None:
            return self.lidar(inputs.lidar, inputs.lidar_sample, inputs.batch_size), None
        if self.radar is None:
            return self._no_map(inputs), None
        encoded: tuple[Tensor, Tensor | None] = self.radar(inputs.radar, inputs.radar_sample, inputs.batch_size)
        return encoded

    def _no_map(self, inputs: NetworkInput) -> Tensor:
        return inputs.bev_augment.new_zeros(inputs.batch_size, 0, *self.grid.shape)

    @torch.no_grad()
    def detect(self, inputs: NetworkInput) -> list[Decoded]:
        """Boxes of each sample: what ``decode(self(inputs))`` gives (up to rounding), by less work on a CPU.

        There the box maps are computed at the peaks of the heat maps only; a GPU has them all before it could wait for
        the peaks.
        """
        if inputs.bev_augment.device.type != "cpu":
            return self.decode(self(inputs))
        fused = self.fuser(self.camera_map(inputs), self.other(inputs)[0])[0]
        shared, heatmaps = self.head.heatmaps(self.decoder(fused))
        peaks = [find_peaks(heatmap, self.recipe.model.head) for heatmap in heatmaps]
        codes = [self.head.codes_at(t, shared, p.sample, p.row, p.column) for t, p in enumerate(peaks)]
        return decode_peaks(peaks, codes, self.grid, self.recipe.model.head, batch_size=inputs.batch_size)

    def decode(self, output: FusionOutput) -> list[Decoded]:
        """Boxes of each sample, after non-maximum suppression, see ``decode.decode``."""
        return decode(output.tasks, self.grid, self.recipe.model.head)


def _backbone(config: CameraConfig) -> ResNet | SwinTiny:
    if config.backbone == "swin_t":
        return SwinTiny()
    return ResNet(50 if config.backbone == "resnet50" else 18, config.backbone_width)


def _neck(config: CameraConfig, channels: tuple[int, ...]) -> SecondFPN | GeneralizedLSSFPN:
    if config.neck == "generalized_lss_fpn":
        return GeneralizedLSSFPN(channels[1:], config.neck_channels)
    if config.backbone == "swin_t":
        raise RecipeError(
            "model.camera.neck: swin_t has no map at stride 4, which second_fpn needs; set neck: generalized_lss_fpn"
        )
    return SecondFPN(channels, config.neck_channels)
