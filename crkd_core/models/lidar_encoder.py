"""LiDAR branch of a teacher: voxels, mean of their points, sparse 3D convolutions, a BEV map. Needs spconv.

spconv is imported when the first encoder is built; everything else of this package works without it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from crkd_core.cli import UserError
from crkd_core.config import LidarConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.constants import constant
from crkd_core.ops.voxels import VoxelGrid, voxel_means

LIDAR_COLUMNS = 5
"""x, y, z, intensity, age."""

_DOWN_PADDING = ((1, 1, 1), (1, 1, 1), (1, 1, 0))
"""Of the convolutions that halve the grid after the first three stages."""


class MissingSpconvError(UserError):
    """A LiDAR branch was asked for where spconv is not installed."""


def voxel_grid(config: LidarConfig, grid: BevGrid) -> VoxelGrid:
    """The voxels under a BEV grid."""
    nx, ny = (
        round(count * cell / edge) for count, cell, edge in zip(grid.shape, grid.cell, config.voxel, strict=False)
    )
    layers = round((grid.z_range[1] - grid.z_range[0]) / config.voxel[2])
    return VoxelGrid((*grid.lower, grid.z_range[0]), config.voxel, (nx, ny, layers))


class LidarEncoder(nn.Module):
    """LiDAR points to a BEV map. Runs in the type of its weights, also under autocast.

    That is float32, but for the teacher of a distillation on a GPU (``distillation.Distiller.onto``), which rounds
    what enters the first layer to half precision as the original does.

    If torch's convolutions may use TF32 on a GPU, these may, too: factors are then rounded to 10 bits, coordinates in
    the first layer among them (1/32 m at 32 to 64 m, as in the original's half precision).

    Attributes:
        out_channels: channels of the map.
    """

    def __init__(self, config: LidarConfig, grid: BevGrid) -> None:
        """An encoder with fresh weights.

        Args:
            config: voxels and channels.
            grid: the cells of the map, eight voxels long and wide.

        Raises:
            MissingSpconvError: spconv is not installed.
        """
        super().__init__()
        self.config = config
        self.grid = grid
        self.voxels = voxel_grid(config, grid)
        # The volume has an empty layer on top, as in the original (41 for 8 m of 0.2 m).
        self.volume = (*self.voxels.shape[:2], self.voxels.shape[2] + 1)
        self.encoder = SparseEncoder(LIDAR_COLUMNS, config.channels, config.out_channels)
        self.out_channels = config.out_channels * SparseEncoder.layers_left(self.volume[2])

    def forward(self, points: Tensor, sample: Tensor, batch_size: int) -> Tensor:
        """Encode the LiDAR points of a batch.

        Args:
            points: (L, 5) float32, augmented BEV frame; L may be 0.
            sample: (L,) int64, ascending, sample of each point.
            batch_size: number of samples B.

        Returns:
            (B, out_channels, nx, ny) of the type of the weights, float32 without any voxel; rows x, columns y; channel
            ``c * D + d`` is channel c of layer d.
        """
        features, coordinates = voxel_means(
            points,
            sample,
            self.voxels,
            batch_size=batch_size,
            max_points=self.config.max_points_per_voxel,
            max_voxels=self.config.max_voxels[0 if self.training else 1],
        )
        threads = torch.get_num_threads()
        if len(features) == 0:
            return points.new_zeros(batch_size, self.out_channels, *self.grid.shape)
        with torch.autocast(points.device.type, enabled=False), _one_thread(points.device):
            if points.device.type == "cpu" and torch.is_grad_enabled():
                features = _restoring_threads(features, threads)
            scaled = features * constant([1.0, 1.0, 1.0, 1.0, self.config.age_scale], points.device)
            dtype = next(self.encoder.parameters()).dtype
            volume: Tensor = self.encoder(scaled.to(dtype), coordinates, self.volume, batch_size)
            if points.device.type == "cpu" and volume.requires_grad:
                volume.register_hook(lambda _: torch.set_num_threads(1))
        return volume.permute(0, 1, 4, 2, 3).flatten(1, 2)


class SparseEncoder(nn.Module):
    """Four stages of two residual blocks each, halving the grid after the first three, then along z only."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], out_channels: int) -> None:
        """An encoder with fresh weights.

        Args:
            in_channels: features of a voxel.
            channels: of the four stages.
            out_channels: of the volume.

        Raises:
            MissingSpconvError: spconv is not installed.
        """
        super().__init__()
        spconv = import_spconv()
        submanifold = spconv.SubMConv3d(in_channels, channels[0], 3, padding=1, bias=False, indice_key="stage0")
        self.input = _conv_norm_relu(submanifold, channels[0])
        self.stages = nn.ModuleList()
        for i, width in enumerate(channels):
            stage: list[nn.Module] = [SparseBasicBlock(width, f"stage{i}") for _ in range(2)]
            if i < len(_DOWN_PADDING):
                wider = channels[i + 1]
                down = spconv.SparseConv3d(width, wider, 3, 2, _DOWN_PADDING[i], bias=False, indice_key=f"down{i}")
                stage.append(_conv_norm_relu(down, wider))
            self.stages.append(nn.ModuleList(stage))
        last = spconv.SparseConv3d(channels[-1], out_channels, (1, 1, 3), (1, 1, 2), bias=False, indice_key="output")
        self.output = _conv_norm_relu(last, out_channels)

    def forward(self, features: Tensor, coordinates: Tensor, shape: tuple[int, int, int], batch_size: int) -> Tensor:
        """Encode a volume.

        Args:
            features: (V, in_channels) of the type of the weights.
            coordinates: (V, 4) int32, sample, ix, iy, iz.
            shape: number of voxels along x, y, z.
            batch_size: number of samples B.

        Returns:
            (B, out_channels, nx / 8, ny / 8, D).
        """
        x = import_spconv().SparseConvTensor(features, coordinates, list(shape), batch_size)
        x = _run(self.input, x)
        for stage in self.stages:
            for part in stage:  # type: ignore[attr-defined]  # a ModuleList
                x = part(x) if isinstance(part, SparseBasicBlock) else _run(part, x)
        x = _run(self.output, x)
        volume = x.features.new_zeros(batch_size, *x.spatial_shape, x.features.shape[1])
        filled: Tensor = volume.index_put(tuple(x.indices.long().unbind(1)), x.features)
        return filled.permute(0, 4, 1, 2, 3)

    @staticmethod
    def layers_left(layers: int) -> int:
        """Layers along z of the volume for ``layers`` layers of voxels."""
        for _, _, padding in _DOWN_PADDING:
            layers = (layers + 2 * padding - 3) // 2 + 1
        return (layers - 3) // 2 + 1


class SparseBasicBlock(nn.Module):
    """Two convolutions on the voxels there are, and a shortcut."""

    def __init__(self, channels: int, key: str) -> None:
        """A block of ``channels``; blocks of the same ``key`` have the same voxels and share their index tables."""
        super().__init__()
        spconv = import_spconv()
        self.conv1 = spconv.SubMConv3d(channels, channels, 3, padding=1, bias=False, indice_key=key)
        self.bn1 = _norm(channels)
        self.conv2 = spconv.SubMConv3d(channels, channels, 3, padding=1, bias=False, indice_key=key)
        self.bn2 = _norm(channels)

    def forward(self, x: Any) -> Any:
        """A sparse tensor -> one of the same voxels."""
        out = self.conv1(x)
        out = out.replace_feature(self.bn1(out.features).relu())
        out = self.conv2(out)
        return out.replace_feature((self.bn2(out.features) + x.features).relu())


@functools.cache
def import_spconv() -> Any:
    """The module ``spconv.pytorch``, set up when it is first asked for.

    Raises:
        MissingSpconvError: not installed.
    """
    try:
        import spconv.pytorch as spconv
        from spconv import constants
        from spconv.pytorch import ops
    except ImportError as error:
        raise MissingSpconvError(
            f"a LiDAR teacher needs spconv, which cannot be imported ({error}); install one of pip install "
            "'crkd_ros[teacher]' (no GPU), 'crkd_ros[teacher-cu126]' or 'crkd_ros[teacher-cu120]' (GPU, Python <= 3.11)"
        ) from None
    # As torch's own convolutions: without it they run on the slow cores of a GPU.
    constants.SPCONV_ALLOW_TF32 = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        # Its backward pass asks for the CUDA stream even where there is none.
        ops.get_current_stream = lambda: 0
    return spconv


@contextlib.contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, one thread: with more, spconv 2.3.8 adds to the same voxel from several threads and loses sums."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _restoring_threads(features: Tensor, threads: int) -> Tensor:
    """The same features, whose gradient, the last one of the encoder, brings back ``threads``.

    The backward pass adds up like the forward pass, see ``_one_thread``.
    """
    features = features.detach().requires_grad_()
    features.register_hook(lambda _: torch.set_num_threads(threads))
    return features


def _conv_norm_relu(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, _norm(channels), nn.ReLU())


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)


def _run(layers: Any, x: Any) -> Any:
    conv, norm, relu = layers
    x = conv(x)
    return x.replace_feature(relu(norm(x.features)))
