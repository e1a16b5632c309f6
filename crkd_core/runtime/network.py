"""The network as a GPU runs it: weights in half precision, fused convolutions, geometry apart, fixed shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crkd_core.config import Recipe
from crkd_core.models.detector import CameraBranch, FusionDetector
from crkd_core.models.folding import folded, fused
from crkd_core.models.necks import SecondFPN
from crkd_core.models.peak_head import PeakHead
from crkd_core.models.view_transform import LiftSplat
from crkd_core.ops.bev_pool import PoolPlan
from crkd_core.types import NetworkInput


class InferenceNetwork(nn.Module):
    """Camera and radar branches, fusion, decoder and head for inference on CUDA.

    Four steps that CUDA graphs can hold: ``plan``, needed only when the geometry changes, ``image_features`` and
    ``radar_map``, which do not wait for each other, and ``boxes``, which end in a table of fixed size.
    """

    def __init__(self, model: FusionDetector, *, dtype: torch.dtype, fuse: bool = True, compiled: bool = False) -> None:
        """Take over a trained model; it is not changed.

        Args:
            model: a student or baseline, see ``unsupported``.
            dtype: of weights and maps; sums over cells, suppression and box geometry are float32 or float64.
            fuse: convolutions with their ReLU in one cuDNN kernel; only CUDA can.
            compiled: the image branch through torch.compile, which needs a C compiler and takes half a minute the first
                time; see ``pays_to_compile``.
        """
        super().__init__()
        self.dtype = dtype
        self.model = folded(model)
        self.head = PeakHead(self.model.head, self.model.grid, model.recipe.model.head)
        if fuse:
            self.model, self.head = fused(self.model), fused(self.head)
        self.model.head = None  # type: ignore[assignment]  # the head is self.head
        self._to(dtype)
        self._image_branch = torch.compile(self._features, dynamic=False) if compiled else self._features

    def _to(self, dtype: torch.dtype) -> None:
        """All weights, but not the constants of the geometry, nor the radar's point network, which autocast serves."""
        parts = [self.model.fuser, self.model.decoder]
        if self.model.camera is not None:
            parts += [self.model.camera.backbone, self.model.camera.neck, _splat(self.model.camera).depthnet]
        if self.model.radar is not None and self.model.radar.calibration is not None:
            parts.append(self.model.radar.calibration)
        parts += [self.head.shared, self.head.heat_first, self.head.heat_last]
        for part in parts:
            part.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name in ("box_first", "box_first_bias", "box_last", "box_last_bias"):
            getattr(self.head, name).data = getattr(self.head, name).data.to(dtype)

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

    def image_features(self, images: Tensor) -> Tensor:
        """(M, 3, H, W) of the network's type, normalised, -> (M, D + C, fH, fW): depth logits and context."""
        features: Tensor = self._image_branch(images)
        return features

    def radar_map(self, inputs: NetworkInput) -> Tensor:
        """(B, C, nx, ny); C is 0 without a radar branch."""
        with torch.autocast(
            inputs.radar.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False
        ):
            return self.model.other(inputs)[0].to(self.dtype)

    def boxes(self, image_features: Tensor | None, plan: PoolPlan | None, other: Tensor) -> Tensor:
        """The rest: (B, tasks, boxes, fields) float32, see ``PeakHead.forward``.

        Args:
            image_features: see there; None without cameras.
            plan: see there.
            other: the radar map.
        """
        shared, heat = self.maps(image_features, plan, other)
        score, label, row, column = self.head.peaks(heat)
        codes = self.head.codes(shared, row, column)
        return self.head.results(score, label, self.head.boxes(codes, row, column))

    def maps(self, image_features: Tensor | None, plan: PoolPlan | None, other: Tensor) -> tuple[Tensor, Tensor]:
        """The head's shared map and its heat map logits, see ``PeakHead.maps``; arguments as in ``boxes``."""
        camera = self.camera_map(image_features, plan, other)
        return self.head.maps(self.model.decoder(self.model.fuser(camera, other)[0]))

    def camera_map(self, image_features: Tensor | None, plan: PoolPlan | None, other: Tensor) -> Tensor:
        """(B, C, nx, ny); C is 0 without cameras."""
        if image_features is None or plan is None:
            return other[:, :0]
        assert self.model.camera is not None
        return _splat(self.model.camera).splat(image_features, plan).to(self.dtype)

    def forward(self, inputs: NetworkInput) -> Tensor:
        """All of it, one step after the other."""
        features = self.image_features(inputs.images.to(self.dtype)) if self.model.camera is not None else None
        return self.boxes(features, self.plan(inputs), self.radar_map(inputs))

    def _features(self, images: Tensor) -> Tensor:
        camera = self.model.camera
        assert camera is not None
        maps = camera.backbone(images)
        features = camera.neck(maps if isinstance(camera.neck, SecondFPN) else maps[-3:])
        return _splat(camera).per_pixel(features)


def pays_to_compile(recipe: Recipe) -> bool:
    """Whether compilation makes the image branch much faster: cuDNN already fuses what a ResNet does."""
    return recipe.model.camera is not None and recipe.model.camera.backbone == "swin_t"


def unsupported(model: FusionDetector) -> str | None:
    """Why a model cannot run as an ``InferenceNetwork``; None if it can."""
    if model.lidar is not None:
        return "a teacher: its sparse convolutions have shapes that depend on the cloud"
    return None


def _splat(camera: CameraBranch) -> LiftSplat:
    assert isinstance(camera.view_transform, LiftSplat)
    return camera.view_transform
