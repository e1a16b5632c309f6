"""What a step of training computes: forward, targets, losses, optimiser; a Lightning module over plain torch parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch

from crkd_core.config import Recipe
from crkd_core.data.dataset import TrainingBatch
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.detector import FusionDetector
from crkd_core.training.callbacks import LossWatch, TrainingError
from crkd_core.training.options import TrainingOptions, autocast_dtype, samples_per_step
from crkd_core.training.resume import count_on, entries
from crkd_core.training.schedule import learning_rate_factor, optimizer


class DetectionTraining(lightning.LightningModule):
    """Forward, targets, losses and optimiser of a detector, which may learn from a teacher as well.

    Attributes:
        model: what is trained.
        adapters: trained beside it for relation distillation; not part of the detector.
    """

    def __init__(self, recipe: Recipe, options: TrainingOptions, *, distiller: Distiller | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.options = options
        self.model = FusionDetector(recipe)
        self.adapters = distiller.adapters() if distiller is not None else None
        self._distiller = distiller
        self._watch = LossWatch()
        self._freeze_unused()

    def on_fit_start(self) -> None:
        """The teacher is no part of this module, so it is moved by hand, if it is asked at all."""
        if self._distiller is not None and self._distiller.teaches:
            self._distiller.onto(self.device, autocast_dtype(self.options.precision))

    def on_train_batch_start(self, _batch: TrainingBatch, batch_index: int) -> None:
        """What a step draws at random depends on nothing that was drawn before: a resumed run draws the same."""
        seeds = np.random.SeedSequence([self.options.seed, batch_index, self.global_rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: TrainingBatch, _batch_index: int) -> torch.Tensor:
        """The summed loss of one batch.

        Raises:
            TrainingError: a loss of this or the last batch is not finite; names the loss, the step and the samples.
        """
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._watch.check(losses, step=self.global_step, tokens=batch.tokens)
        if (self.global_step + 1) % self.options.log_every == 0:  # when Lightning writes what was logged
            self._report(losses, total)
        return total

    def check_finite(self) -> None:
        """Before anything is saved or scored.

        Raises:
            TrainingError: a loss of the last batch is not finite, or, since gradients may be so where losses are not,
                a weight.
        """
        self._watch.read()
        weights = self.state_dict()
        finite = torch.stack([value.isfinite().all() for value in weights.values()]).tolist()
        bad = [name for name, good in zip(weights, finite, strict=True) if not good]
        if bad:
            raise TrainingError(
                f"after {self.global_step} steps: {len(bad)} of {len(weights)} weights not finite, such as {bad[0]}; "
                "lower the learning rate or use bf16"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A resume state is of weights to go on from, and says of which run.

        Raises:
            TrainingError: see ``check_finite``.
        """
        self.check_finite()
        checkpoint |= entries(self.recipe, self.options)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that goes on may divide its steps into other batches."""
        count_on(checkpoint, accumulate=self.recipe.train.accumulate)

    def losses(
        self, batch: TrainingBatch, *, begins: Callable[[str], object] = lambda _part: None
    ) -> dict[str, torch.Tensor]:
        """Every weighted loss of a batch, ``detection/...`` and ``distillation/...``; their plain sum is minimised.

        Args:
            batch: on the device.
            begins: told of each part of the work when it begins, for those who measure it.
        """
        begins("student")
        output = self.model(batch.inputs)
        begins("targets and detection losses")
        targets = center_targets(batch.boxes, batch.labels, self.recipe)
        detection = center_loss(output.joined, targets, self.recipe.model.head)
        losses = {f"detection/{name}": loss for name, loss in detection.items()}
        if self._distiller is not None and self._distiller.teaches:
            begins("teacher")
            taught = self._distiller.taught(batch.inputs)
            begins("distillation losses")
            distilled = self._distiller.losses(output, taught, batch.boxes, self.adapters)
            losses |= {f"distillation/{name}": loss for name, loss in distilled.items()}
        return losses

    def _report(self, losses: dict[str, torch.Tensor], total: torch.Tensor) -> None:
        self.log("loss", total.detach(), prog_bar=True)
        for name, value in summed(losses).items():
            self.log(name, value, prog_bar=name == "detection/heatmap")
        self.log("lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    def configure_optimizers(self) -> Any:
        """AdamW with a schedule by step."""
        samples = samples_per_step(self.recipe.train)
        adamw = optimizer(self.model, self.recipe.train, beside=self.adapters, samples=samples)
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: learning_rate_factor(step, self.recipe.train))
        return {"optimizer": adamw, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _freeze_unused(self) -> None:
        """The activation head of the radar branch learns by distillation only; idle parameters would stall DDP."""
        if self._distiller is not None and self._distiller.config.radar.weight > 0:
            return
        radar = self.model.radar
        if radar is not None and radar.activation_head is not None:
            radar.activation_head.requires_grad_(False)

    def transfer_batch_to_device(
        self,
        batch: TrainingBatch,
        device: torch.device,
        dataloader_idx: int,  # noqa: ARG002  Lightning passes it by this name
    ) -> TrainingBatch:
        """Batches are dataclasses of tensors with their own ``to``."""
        return batch.to(device, non_blocking=True)


def summed(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Losses by kind, those of the head's tasks added up: ``detection/heatmap/task0``, ... -> ``detection/heatmap``."""
    sums: dict[str, float] = {}
    for name, loss in losses.items():
        kind = name.rpartition("/task")[0] or name
        sums[kind] = sums.get(kind, 0.0) + float(loss.detach())
    return sums
