"""The training loop: one Lightning module over plain torch parts, steps counted, exactly resumable.

A sample is addressed by its global position (step x batch), so a run that is resumed at step s reads exactly what it
would have read: see ``crkd_core.data.dataset``.
"""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from crkd_core.config import Recipe, TrainConfig
from crkd_core.data.dataset import TrainingBatch, TrainingSet, collate_training
from crkd_core.data.sampling import StepSampler
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.detector import FusionDetector
from crkd_core.models.pretrained import load_pretrained
from crkd_core.training.callbacks import (
    AveragedWeights,
    Evaluate,
    EvaluationOnTheWay,
    LossWatch,
    ResumeState,
    StopOnSignal,
    TrainingError,
)
from crkd_core.training.damage import DamagedSamples, lost_process
from crkd_core.training.processes import gathered, own_device, processes, synchronise_norms
from crkd_core.training.resume import RESUME_FILE, count_on, entries, steps_to_go_on_from
from crkd_core.training.schedule import learning_rate_factor, optimizer

logger = logging.getLogger(__name__)

EMA_EVERY = 10
"""Steps between two updates of the averaged weights."""
READ_AHEAD = 4
"""Batches that each loading process reads ahead."""


@dataclass(frozen=True)
class TrainingOptions:
    """Where and how to run; what to train is the recipe's.

    Attributes:
        out: folder for logs and the resume state.
        seed: of weights, order and augmentation.
        workers: data loading processes.
        precision: Lightning's name: ``32-true``, ``bf16-mixed``, ``16-mixed``.
        resume: go on from ``<out>/last.ckpt``.
        save_every: steps between two resume states.
        log_every: steps between two logged losses.
        stop_after: stop early at this step; None: at the recipe's last.
        max_minutes: stop early after this wall time; 0: no limit. A run that stops early can be resumed.
        progress: show a progress bar.
        pretrained: local file of ImageNet weights for the camera backbone, see ``models.pretrained``.
        evaluate_every: steps between two evaluations on the way; 0: none.
    """

    out: Path
    seed: int = 0
    workers: int = 2
    precision: str = "32-true"
    resume: bool = False
    save_every: int = 500
    log_every: int = 50
    stop_after: int | None = None
    max_minutes: float = 0.0
    progress: bool = True
    pretrained: Path | None = None
    evaluate_every: int = 0


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
        checkpoint |= _entries(self.recipe, self.options)

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


def train(
    recipe: Recipe,
    samples: TrainingSet,
    options: TrainingOptions,
    *,
    distiller: Distiller | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
    evaluate: Evaluate | None = None,
    callbacks: Sequence[Callback] = (),
) -> FusionDetector:
    """Train, or resume; returns the model on the CPU in eval mode (averaged weights if the recipe asks).

    Args:
        recipe: what to train and how.
        samples: with the LiDAR of the teacher, if there is one.
        options: where and how to run.
        distiller: a teacher to learn from as well.
        start: weights to start from, by their names in the detector; what is not among them starts fresh.
        evaluate: called every ``options.evaluate_every`` steps, see ``EvaluationOnTheWay``.
        callbacks: Lightning callbacks, called after our own.

    Raises:
        TrainingError: see ``first_step``; no sample, starting weights that do not fit, a loss that is not finite.
        PretrainedError: pretrained weights that do not fit.
        SystemExit: SIGTERM or SIGINT ended the run, see ``StopOnSignal``; the resume state is written. With the code a
            shell gives to processes that these end, 143 or 130.
    """
    if len(samples) == 0:
        raise TrainingError("training set: no sample; check the data root and split")
    lightning.seed_everything(options.seed, verbose=False)
    last = options.out / RESUME_FILE
    done = first_step(recipe, options)
    module = DetectionTraining(recipe, options, distiller=distiller)
    if not options.resume:
        _begin(module.model, start, options.pretrained)
    if recipe.train.sync_batch_norm and processes().world_size > 1:
        synchronise_norms(module.model)
    loader = training_loader(samples, recipe, options, start_step=done)
    averages, stop = _averages(recipe), StopOnSignal()
    group = processes()
    trainer = lightning.Trainer(
        devices=group.local_size,
        num_nodes=group.machines,
        accelerator="cpu" if own_device() == "cpu" else "cuda",
        strategy="ddp" if group.world_size > 1 else "auto",
        accumulate_grad_batches=recipe.train.accumulate,
        max_steps=min(recipe.train.steps, options.stop_after or recipe.train.steps),
        max_epochs=-1,
        max_time=timedelta(minutes=options.max_minutes) if options.max_minutes else None,
        precision=options.precision,  # type: ignore[arg-type]
        gradient_clip_val=recipe.train.gradient_clip,
        callbacks=[*_callbacks(recipe, options, len(samples), averages, stop, evaluate), *callbacks],
        logger=_loggers(options),
        default_root_dir=options.out,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,  # ResumeState does it
        log_every_n_steps=options.log_every,
        enable_progress_bar=options.progress,
    )
    with warnings.catch_warnings():
        # The sampler goes on where the run stopped, which Lightning cannot see.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        try:
            trainer.fit(module, loader, ckpt_path=last if options.resume else None, weights_only=True)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            step = trainer.global_step
            position = step * samples_per_step(recipe.train)
            raise TrainingError(lost_process(error, loader, step=step, position=position)) from None
    if stop.signal:
        if group.first:
            name = signal.Signals(stop.signal).name
            logger.warning("%s: stopped after %d steps; --resume goes on from there", name, trainer.global_step)
        raise SystemExit(128 + stop.signal)
    if averages is not None:
        averages.take_over(trainer, module)
    return module.model.cpu().eval()


def _begin(model: FusionDetector, start: Mapping[str, torch.Tensor] | None, pretrained: Path | None) -> None:
    """Weights of a run that begins: those of ``start``, then those of a pretrained camera backbone."""
    if start is not None:
        start_from(model, start)
    if pretrained is not None:
        if model.camera is None:
            raise TrainingError(f"recipe {model.recipe.name}: has no camera branch that {pretrained} could start")
        report = load_pretrained(model.camera.backbone, pretrained)
        logger.info("%s: %d entries loaded, %d not needed", pretrained, report.loaded, len(report.dropped))


def autocast_dtype(precision: str) -> torch.dtype:
    """What autocast computes in, by Lightning's name of the precision; float32 where there is none."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision, torch.float32)


def start_from(model: FusionDetector, start: Mapping[str, torch.Tensor]) -> None:
    """Take over what there is; what the model has besides (say, the calibration block) starts fresh."""
    expected = model.state_dict()
    wrong = [name for name, value in start.items() if name not in expected or expected[name].shape != value.shape]
    if wrong:
        raise TrainingError(
            f"starting weights: {len(wrong)} of {len(start)} do not fit recipe '{model.recipe.name}' (first: "
            f"{wrong[0]}); expected a checkpoint of the same sizes"
        )
    model.load_state_dict(start, strict=False)
    logger.info("starting weights: %d taken over, %d fresh", len(start), len(expected.keys() - start.keys()))


def summed(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Losses by kind, those of the head's tasks added up: ``detection/heatmap/task0``, ... -> ``detection/heatmap``."""
    sums: dict[str, float] = {}
    for name, loss in losses.items():
        kind = name.rpartition("/task")[0] or name
        sums[kind] = sums.get(kind, 0.0) + float(loss.detach())
    return sums


def first_step(recipe: Recipe, options: TrainingOptions) -> int:
    """Where all processes begin, or go on.

    Raises:
        TrainingError: there is nothing to resume, it is another run, or they would not go on together.
    """
    done = steps_to_go_on_from(options.out, _entries(recipe, options)) if options.resume else 0
    steps = sorted(set(gathered({processes().rank: done}).values()))
    if len(steps) > 1:
        raise TrainingError(
            f"resume: {options.out / RESUME_FILE} is at step {done} here, processes elsewhere begin at steps "
            f"{', '.join(map(str, steps))}; all machines must share the folder --out"
        )
    return done


def _entries(recipe: Recipe, options: TrainingOptions) -> dict[str, Any]:
    return entries(recipe, seed=options.seed, samples=samples_per_step(recipe.train))


def samples_per_step(config: TrainConfig) -> int:
    """Samples of one step, of all processes together."""
    return config.batch_size * config.accumulate * processes().world_size


def training_loader(
    samples: TrainingSet, recipe: Recipe, options: TrainingOptions, *, start_step: int
) -> DataLoader[TrainingBatch]:
    """Batches of this process from ``start_step`` to the recipe's last step."""
    group, step = processes(), samples_per_step(recipe.train)
    sampler = StepSampler(
        samples.order(options.seed),
        start=start_step * step,
        stop=recipe.train.steps * step,
        rank=group.rank,
        world_size=group.world_size,
    )
    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=recipe.train.batch_size,
        sampler=sampler,
        num_workers=options.workers,
        collate_fn=collate_training,
        worker_init_fn=_begin_loading,
        persistent_workers=options.workers > 0,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=READ_AHEAD if options.workers else None,
    )


def _begin_loading(_worker: int) -> None:
    """Set up a loading process.

    Processes share the work already; and signals may go to all of a run, but the step in hand still wants its samples.
    """
    cv2.setNumThreads(0)  # 1 would end the threads that OpenCV had before the fork, and wait for them
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _averages(recipe: Recipe) -> AveragedWeights | None:
    if recipe.train.ema_decay == 0:
        return None
    # Averaging every parameter at every step would cost a good part of a small model's step.
    return AveragedWeights(decay=recipe.train.ema_decay**EMA_EVERY, every=EMA_EVERY)


def _callbacks(
    recipe: Recipe,
    options: TrainingOptions,
    samples: int,
    averages: AveragedWeights | None,
    stop: StopOnSignal,
    evaluate: Evaluate | None,
) -> list[Callback]:
    callbacks: list[Callback] = [] if averages is None else [averages]
    # An evaluation takes long: the step is saved, or the run has stopped, before it begins.
    callbacks += [ResumeState(options.out / RESUME_FILE, every=options.save_every), stop]
    if evaluate is not None and options.evaluate_every > 0:
        callbacks.append(EvaluationOnTheWay(evaluate, every=options.evaluate_every, averages=averages))
    if recipe.samples.on_error == "skip":
        callbacks.append(DamagedSamples(samples, recipe.samples.max_bad))
    if options.progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    return callbacks


def _loggers(options: TrainingOptions) -> list[Logger]:
    return [CSVLogger(options.out, name="log"), TensorBoardLogger(options.out, name="tensorboard")]
