"""A detector computed as the released CRKD code computes it, for the other benchmarks to compare with.

Written from the description of what that code does, with the weights of a model of this package: PIL resizes the
images; every image feature is multiplied out along its ray into a table of all points, which are sorted by cell in
every frame; radar pillars are padded to their full number of slots; batch norm is not folded; each branch of the head
runs over the whole map; nothing is compiled or captured.
"""

from __future__ import annotations

import contextlib
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from crkd_core.config import Recipe
from crkd_core.data.encode import CAMERA_ORDER, bev_from_camera
from crkd_core.data.images import normalized
from crkd_core.data.radar import ordered, radar_features, within_range
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import TaskHead, TaskMaps
from crkd_core.models.decode import Decoded, decode
from crkd_core.models.detector import FusionDetector
from crkd_core.models.radar_encoder import RadarEncoder
from crkd_core.models.view_transform import LiftSplat
from crkd_core.types import NetworkInput, SensorFrame


class ReferenceDetector:
    """The steps of the released code."""

    def __init__(self, model: FusionDetector, *, autocast: bool) -> None:
        """Take a student of cameras and radars.

        Args:
            model: on its device; its weights are used as they are, in float32.
            autocast: float16 outside of the view transform, as the released code runs.
        """
        assert model.camera is not None
        assert model.radar is not None
        assert model.recipe.model.camera is not None
        assert isinstance(model.camera.view_transform, LiftSplat)
        self.model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.camera, self.radar, self.lift = model.camera, model.radar, model.camera.view_transform
        self.device = model.camera.view_transform.depthnet.weight.device
        self.depths = model.recipe.model.camera.depth
        self.autocast = autocast

    def preprocess(self, frame: SensorFrame) -> NetworkInput:
        """Full frames to network input on the device."""
        recipe: Recipe = self.model.recipe
        height, width = recipe.image.size
        images, matrices = [], []
        cameras = [frame.cameras[name] for name in ordered(tuple(frame.cameras), CAMERA_ORDER)]
        for camera in cameras:
            assert not isinstance(camera.image, bytes)
            full = Image.fromarray(camera.image)
            scale = recipe.image.resized_width / full.width
            size = int(full.width * scale + 1e-6), int(full.height * scale + 1e-6)
            left, top = (size[0] - width) // 2, size[1] - height
            resized = full.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
            images.append(normalized(np.asarray(resized)))
            matrix = np.diag([scale, scale, 1.0])
            matrix[:2, 2] = [-left, -top]
            matrices.append(matrix)
        radar = radar_features(frame, sweeps=recipe.radar_sweeps)
        radar = radar[within_range(radar, recipe.bev.x_range, recipe.bev.y_range)]

        def tensor(values: object) -> Tensor:
            return torch.as_tensor(np.asarray(values, dtype=np.float32))

        return NetworkInput(
            images=tensor(np.stack(images)),
            image_sample=torch.zeros(len(images), dtype=torch.int64),
            intrinsics=tensor([camera.intrinsics for camera in cameras]),
            T_bev_from_cam=tensor([bev_from_camera(frame, camera) for camera in cameras]),
            image_augment=tensor(matrices),
            bev_augment=torch.eye(4)[None],
            radar=tensor(radar),
            radar_sample=torch.zeros(len(radar), dtype=torch.int64),
        ).to(self.device)

    def network(self, inputs: NetworkInput) -> Decoded:
        """Network input to boxes."""
        return decode(self.maps(inputs), self.model.grid, self.model.recipe.model.head)[0]

    @torch.inference_mode()
    def maps(self, inputs: NetworkInput) -> tuple[TaskMaps, ...]:
        """Network input to the raw maps of the head."""
        half = torch.autocast(self.device.type, torch.float16) if self.autocast else contextlib.nullcontext()
        with half:
            maps = self.camera.backbone(inputs.images)
            features = self.camera.neck(maps if len(maps) == 4 else maps[-3:])
            with torch.autocast(self.device.type, enabled=False):
                camera = self.lifted(features.float(), inputs)
                table, cells = padded_pillars(self.radar, inputs.radar)
            radar = scattered(self.radar, table, cells)
            if self.radar.calibration is not None:
                radar = self.radar.calibration(radar)
            shared = self.model.head.shared(self.model.decoder(self.model.fuser(camera, radar)[0]))
            return tuple(cast("TaskHead", task).one_by_one(shared) for task in self.model.head.tasks)

    def lifted(self, features: Tensor, inputs: NetworkInput) -> Tensor:
        """(1, C, nx, ny): all products of depth and context, sorted by cell, then summed."""
        lift, grid = self.lift, self.lift.grid
        per_pixel = lift.depthnet(features)
        context = per_pixel[:, -lift.channels :]
        depth = per_pixel[:, : -lift.channels].softmax(1)
        volume = (depth[:, None] * context[:, :, None]).permute(0, 2, 3, 4, 1)  # (M, D, H, W, C), materialised
        cells = self.cells(depth.shape, inputs)
        table = volume.reshape(-1, volume.shape[-1])
        kept = cells >= 0
        table, cells = table[kept], cells[kept]
        order = cells.argsort()
        pooled = table.new_zeros(grid.cells, table.shape[1]).index_add_(0, cells[order], table[order])
        bev: Tensor = pooled.view(1, *grid.shape, -1).permute(0, 3, 1, 2).contiguous()
        return bev

    def cells(self, shape: torch.Size, inputs: NetworkInput) -> Tensor:
        """(M * D * H * W,) the cell of every point of every ray, truncated toward zero; -1 outside."""
        recipe, grid, device = self.model.recipe, self.lift.grid, inputs.images.device
        _, _, rows, columns = shape
        height, width = recipe.image.size
        v, u = torch.meshgrid(
            torch.linspace(0, height - 1, rows, device=device),
            torch.linspace(0, width - 1, columns, device=device),
            indexing="ij",
        )
        augment = inputs.image_augment[:, None, None, None]
        depth = torch.arange(*self.depths, device=device)[:, None, None]
        pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1)
        full = (augment.inverse() @ pixels[None, None, ..., None])[..., 0]
        rays = inputs.T_bev_from_cam[:, :3, :3] @ inputs.intrinsics.inverse()
        points = (rays[:, None, None, None] @ (full * depth[..., None])[..., None])[..., 0]
        points = points + inputs.T_bev_from_cam[:, None, None, None, :3, 3]
        lower, size = points.new_tensor([*grid.lower, -10.0]), points.new_tensor([*grid.cell, 20.0])
        index = ((points - lower) / size).long()
        inside = ((points - lower) / size > -1) & (index < torch.tensor([*grid.shape, 1], device=device))
        flat = index[..., 0] * grid.shape[1] + index[..., 1]
        return torch.where(inside.all(-1), flat, -1).flatten()


def padded_pillars(encoder: RadarEncoder, points: Tensor) -> tuple[Tensor, Tensor]:
    """(V, 20, 47) decorated points of each pillar, zeros in empty slots, and (V,) the cells of the pillars."""
    grid, slots = encoder.grid, encoder.config.max_points_per_pillar
    edge, lower = points.new_tensor(grid.cell), points.new_tensor(grid.lower)
    index = ((points[:, :2] - lower) / edge).floor()
    low, high = grid.z_range
    inside = ((index >= 0) & (index < index.new_tensor(grid.shape))).all(1)
    inside &= (points[:, 2] >= low) & (points[:, 2] < high)
    points, index = points[inside], index[inside]
    cells, pillar, count = (
        (index[:, 0] * grid.shape[1] + index[:, 1]).long().unique(return_inverse=True, return_counts=True)
    )
    order = pillar.argsort(stable=True)
    start = count.cumsum(0) - count
    slot = torch.arange(len(points), device=points.device) - start[pillar[order]]
    fits = slot < slots
    offset = points[:, :2] - (index + 0.5) * edge - lower
    sides = points.new_tensor([n * e for n, e in zip(grid.shape, grid.cell, strict=True)] + [high - low])
    normal = (points[:, :3] - torch.cat([lower, points.new_tensor([low])])) / sides
    rows = torch.cat([normal, points[:, 3:], offset], dim=1)
    table = points.new_zeros(len(cells), slots, rows.shape[1])
    table[pillar[order][fits], slot[fits]] = rows[order][fits]
    return table, cells


def scattered(encoder: RadarEncoder, table: Tensor, cells: Tensor) -> Tensor:
    """(1, C, nx, ny): the point network on every slot, its maximum, and the pillars in their cells."""
    grid: BevGrid = encoder.grid
    rows = table
    for layer in encoder.point_layers:
        linear, norm = layer.linear, layer.norm
        assert isinstance(linear, nn.Linear)
        assert isinstance(norm, nn.BatchNorm1d)
        flat = linear(rows).transpose(1, 2)
        normal = nn.functional.batch_norm(
            flat, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
        rows = normal.transpose(1, 2).relu()
    highest = rows.amax(1)
    bev = highest.new_zeros(grid.cells, highest.shape[1])
    bev[cells] = highest
    result: Tensor = bev.view(1, *grid.shape, -1).permute(0, 3, 1, 2).contiguous()
    return result
