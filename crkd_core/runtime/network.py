"""The network as a GPU runs it: weights in half precision, fused convolutions, geometry apart, fixed shapes."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
from torch import Tensor, nn

from crkd_core.models.detector import CameraBranch, FusionDetector
from crkd_core.models.folding import ConvReLU, folded, fused
from crkd_core.models.necks import SecondFPN
from crkd_core.models.peak_head import PeakHead
from crkd_core.models.view_transform import LiftSplat
from crkd_core.ops.bev_pool import PoolPlan
from crkd_core.types import NetworkInput

Convolutions = Literal["plain", "fused", "compiled"]


class InferenceNetwork(nn.Module):
    """Camera and radar branches, fusion, decoder and head for inference on CUDA.

    Three steps that a CUDA graph can hold: ``plan``, needed only when the geometry changes, ``forward``, and nothing
    after it: boxes come out in a table of fixed size.
    """

    def __init__(self, model: FusionDetector, *, dtype: torch.dtype, convolutions: Convolutions = "fused") -> None:
        """Take over a trained model; it is not changed.

        Args:
            model: a student or baseline, see ``supported``.
            dtype: of weights and maps; sums over cells, suppression and box geometry are float32 or float64.
            convolutions: ``fused`` with their ReLU in cuDNN; ``compiled``: the trunks through torch.compile.
        """
        super().__init__()
        self.dtype = dtype
        self.model = folded(model)
        self.head = PeakHead(self.model.head, self.model.grid, model.recipe.model.head)
        if convolutions == "fused":
            self.model, self.head = fused(self.model), fused(self.head)
        self.model.head = None  # type: ignore[assignment]  # the head is self.head
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, ConvReLU)):
                module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name in ("box_first", "box_first_bias", "box_last", "box_last_bias"):
            getattr(self.head, name).data = getattr(self.head, name).data.to(dtype)
        self._image_maps, self._maps = self._trunk_of_images, self._trunk_of_cells
        if convolutions == "compiled":
            self._image_maps = torch.compile(self._trunk_of_images, dynamic=False)
            self._maps = torch.compile(self._trunk_of_cells, dynamic=False)

    def plan(self, inputs: NetworkInput) -> PoolPlan | None:
        """Where the image features go; None without cameras. Depends on the matrices of ``inputs`` only."""
        if self.model.camera is None:
            return None
        return _splat(self.model.camera).plan(
            inputs.image_sample,
            intrinsics=inputs.intrinsics,
            T_bev_from_cam=inputs.T_bev_from_cam,
            image_augment=inputs.image_augment,
            bev_augment=inputs.bev_augment,
        )

    def forward(self, inputs: NetworkInput, plan: PoolPlan | None) -> Tensor:
        """(B, tasks, boxes, fields) float32, see ``PeakHead.forward``."""
        with self._reduced(inputs):
            shared, heat = self.maps(inputs, plan)
            score, label, row, column = self.head.peaks(heat)
            codes = self.head.codes(shared, row, column)
        return self.head.results(score, label, self.head.boxes(codes, row, column))

    def maps(self, inputs: NetworkInput, plan: PoolPlan | None) -> tuple[Tensor, Tensor]:
        """The shared map and the heat map logits."""
        if self.model.camera is not None:
            assert plan is not None
            camera = _splat(self.model.camera).splat(self._image_maps(inputs.images), plan)
        else:
            camera = self.model.camera_map(inputs)
        other, _ = self.model.other(inputs)
        return self._maps(camera.to(self.dtype), other.to(self.dtype))

    def _trunk_of_images(self, images: Tensor) -> Tensor:
        camera = self.model.camera
        assert camera is not None
        maps = camera.backbone(images)
        features = camera.neck(maps if isinstance(camera.neck, SecondFPN) else maps[-3:])
        return _splat(camera).per_pixel(features)

    def _trunk_of_cells(self, camera: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.maps(self.model.decoder(self.model.fuser(camera, other)[0]))

    def _reduced(self, inputs: NetworkInput) -> contextlib.AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(inputs.bev_augment.device.type, dtype=self.dtype, cache_enabled=False)


def unsupported(model: FusionDetector) -> str | None:
    """Why a model cannot run as an ``InferenceNetwork``; None if it can."""
    if model.lidar is not None:
        return "a teacher: its sparse convolutions have shapes that depend on the cloud"
    return None


def _splat(camera: CameraBranch) -> LiftSplat:
    assert isinstance(camera.view_transform, LiftSplat)
    return camera.view_transform
