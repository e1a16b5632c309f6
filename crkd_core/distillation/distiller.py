"""A frozen teacher beside a student: both see one batch, and the recipe's losses pull their maps together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crkd_core.config import DistillationConfig, Recipe, RecipeError
from crkd_core.distillation.features import feature_loss, object_mask
from crkd_core.distillation.radar import radar_loss
from crkd_core.distillation.relation import RelationAdapters, relation_loss, resized_maps
from crkd_core.distillation.response import response_loss
from crkd_core.models.detector import FusionDetector, FusionOutput
from crkd_core.models.folding import folded, fused
from crkd_core.types import NetworkInput

RELEASED_BATCH = 2
"""Samples per GPU the released weights of the losses are meant for."""


class Distiller:
    """A teacher that never learns, and what the student is to learn from it.

    Not an ``nn.Module``: the teacher is neither trained, averaged, saved nor distributed with the student.

    Attributes:
        teacher: a copy with folded batch norms, unless these are to use the batch; its parameters need no gradient.
        config: the losses.
    """

    def __init__(self, teacher: FusionDetector, student: Recipe) -> None:
        """Pair a teacher with a student.

        Args:
            teacher: a trained detector; used as it is, and frozen, where its norms are to use the batch, else copied.
            student: names the losses.

        Raises:
            RecipeError: no distillation in the student's recipe, or maps that cannot be compared.
        """
        if student.distillation is None:
            raise RecipeError(
                f"recipe '{student.name}': no distillation section; use a crkd_* recipe, or add 'distillation: {{}}'"
            )
        self.config: DistillationConfig = student.distillation
        check_pair(student, teacher.recipe)
        by_batch = self.config.teacher_statistics == "released"
        self.teacher = (teacher if by_batch else folded(teacher)).requires_grad_(requires_grad=False)
        self.teacher.train(by_batch)

    @property
    def teaches(self) -> bool:
        """Whether there is a need to ask the teacher."""
        return any_loss(self.config)

    def onto(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Move the teacher to the device on which it is asked.

        Where that is a GPU and the teacher's norms are folded, its convolutions take their ReLU with them, and weights
        that autocast would convert at every step are stored as it wants them.

        Args:
            device: of the batches.
            dtype: that autocast computes in; float32: there is none.
        """
        teacher = self.teacher.to(device)
        if torch.device(device).type != "cuda" or dtype == torch.float32 or teacher.training:
            return
        parts: list[nn.Module] = [fused(teacher.fuser), fused(teacher.decoder), teacher.head]
        if teacher.camera is not None:
            parts += [fused(teacher.camera.backbone), fused(teacher.camera.neck)]
        for part in parts:
            part.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if teacher.lidar is not None:
            teacher.lidar.encoder.half()  # autocast leaves it alone; of bfloat16 nothing is known in spconv
            for norm in teacher.lidar.encoder.modules():
                if isinstance(norm, nn.BatchNorm1d):
                    norm.float()  # a variance may be larger than half precision can hold

    def adapters(self) -> RelationAdapters | None:
        """Fresh adapters for the student's fused map, to be trained with it; None where RelD is off."""
        relation = self.config.relation
        channels = self.teacher.recipe.model.fuser.channels
        return RelationAdapters(channels, len(relation.scales)) if relation.weight > 0 else None

    @torch.no_grad()
    def taught(self, inputs: NetworkInput) -> FusionOutput:
        """What the teacher sees in a batch."""
        output: FusionOutput = self.teacher(inputs)
        return output

    def losses(
        self,
        student: FusionOutput,
        teacher: FusionOutput,
        boxes: Sequence[Tensor],
        adapters: RelationAdapters | None,
    ) -> dict[str, Tensor]:
        """The weighted losses; their plain sum is what distillation adds to the detection loss.

        Args:
            student: of the same batch.
            teacher: see ``taught``.
            boxes: per sample (n, 9), ``types.Boxes3D.to_mmdet3d``; masks for MSFD.
            adapters: see ``adapters``.

        Returns:
            Scalars, float32: ``radar``, ``camera_features``, ``fused_features``, ``relation``, ``response/...``; only
            those whose weight is not 0.
        """
        config, found = self.config, {}
        divisor = batch_divisor(config, len(boxes))
        if config.radar.weight > 0:
            assert student.radar_activation is not None
            found["radar"] = radar_loss(student.radar_activation, teacher.joined.heatmap, config.radar)
        # MSFD and RelD compare in float32: converted once for both.
        fused = student.fused.float(), teacher.fused.float()
        maps = {
            "camera_features": (config.features.camera_weight, student.camera_gated, teacher.camera_gated),
            "fused_features": (config.features.fused_weight, *fused),
        }
        if any(weight > 0 for weight, _, _ in maps.values()):
            mask = object_mask(boxes, self.teacher.grid, config.features)
            for name, (weight, s, t) in maps.items():
                if weight > 0:
                    found[name] = weight * feature_loss(s, t, mask, batch_divisor=divisor)
        if adapters is not None:
            # Autocast would convert small maps and weights so often that it takes longer than it saves.
            with torch.autocast(student.fused.device.type, enabled=False):
                ours, theirs = (resized_maps(one, config.relation.scales) for one in fused)
                found["relation"] = relation_loss(adapters(ours), theirs, config.relation, batch_divisor=divisor)
        if config.response.heatmap_weight > 0 or config.response.box_weight > 0:
            response = response_loss(student.joined, teacher.joined, config.response)
            found |= {f"response/{name}": loss for name, loss in response.items()}
        return found


def any_loss(config: DistillationConfig) -> bool:
    """Whether any loss has a weight."""
    features, response = config.features, config.response
    maps = max(features.camera_weight, features.fused_weight, config.relation.weight)
    return max(maps, config.radar.weight, response.heatmap_weight, response.box_weight) > 0


def batch_divisor(config: DistillationConfig, batch_size: int) -> float:
    """What MSFD and RelD are divided by: the original's batch of 2, so that their weights mean the same at any batch.

    The released code divides by the batch itself, although both are means already (quirk Q19).
    """
    return batch_size if config.batch_division == "released" else RELEASED_BATCH


def check_pair(student: Recipe, teacher: Recipe) -> None:
    """Whether a student can learn from a teacher.

    Raises:
        RecipeError: they do not see the same images and cells, or have maps of other sizes.
    """
    config = student.distillation
    assert config is not None
    ours, theirs = student.model, teacher.model
    if ours.camera is None or ours.radar is None or theirs.camera is None or theirs.lidar is None:
        raise RecipeError(
            f"distillation of '{student.name}' by '{teacher.name}': expected a student with cameras and radars and a "
            "teacher with cameras and LiDAR"
        )
    compared = {
        "image.size": (student.image.size, teacher.image.size),
        "bev": (student.bev, teacher.bev),
    }
    if config.features.camera_weight > 0:
        compared["model.camera.channels"] = (ours.camera.channels, theirs.camera.channels)
    if config.features.fused_weight > 0 or config.relation.weight > 0:
        compared["model.fuser.channels"] = (ours.fuser.channels, theirs.fuser.channels)
    for name, (found, expected) in compared.items():
        if found != expected:
            raise RecipeError(
                f"{name}: student '{student.name}' has {found}, teacher '{teacher.name}' {expected}; expected the "
                "same, for their maps are compared cell by cell"
            )
