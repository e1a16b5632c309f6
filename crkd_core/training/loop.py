"""The training loop: steps counted, exactly resumable, of one process or many."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision, Precision

from crkd_core.config import Recipe
from crkd_core.data.dataset import TrainingSet
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.detector import FusionDetector
from crkd_core.models.pretrained import load_pretrained
from crkd_core.training.callbacks import (
    AveragedWeights,
    Evaluate,
    EvaluationOnTheWay,
    ResumeState,
    StopOnSignal,
    TrainingError,
)
from crkd_core.training.damage import DamagedSamples, lost_process
from crkd_core.training.detection_training import DetectionTraining
from crkd_core.training.loading import training_loader
from crkd_core.training.options import TrainingOptions, autocast_dtype, samples_per_step
from crkd_core.training.processes import gathered, own_device, processes, synchronise_norms
from crkd_core.training.resume import RESUME_FILE, entries, steps_to_go_on_from

logger = logging.getLogger(__name__)

EMA_EVERY = 10
"""Steps between two updates of the averaged weights."""


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
        UserError: see ``processes.own_device``.
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
    own = _callbacks(recipe, options, len(samples), averages, stop, evaluate)
    trainer = _trainer(recipe, options, [*own, *callbacks])
    with _known_warnings_hidden():
        try:
            trainer.fit(module, loader, ckpt_path=last if options.resume else None, weights_only=True)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            step = trainer.global_step
            position = step * samples_per_step(recipe.train)
            raise TrainingError(lost_process(error, loader, step=step, position=position)) from None
    if stop.signal:
        if processes().first:
            name = signal.Signals(stop.signal).name
            logger.warning("%s: stopped after %d steps; --resume goes on from there", name, trainer.global_step)
        raise SystemExit(128 + stop.signal)
    if averages is not None:
        averages.take_over(trainer, module)
    return module.model.cpu().eval()


def _trainer(recipe: Recipe, options: TrainingOptions, callbacks: list[Callback]) -> lightning.Trainer:
    """Lightning's loop over the steps that are left, for the processes and devices that there are."""
    group, device = processes(), own_device().partition(":")[0]
    return lightning.Trainer(
        devices=group.local_size,
        num_nodes=group.machines,
        accelerator=device,
        strategy="ddp" if group.world_size > 1 else "auto",
        accumulate_grad_batches=recipe.train.accumulate,
        max_steps=min(recipe.train.steps, options.stop_after or recipe.train.steps),
        max_epochs=-1,
        max_time=timedelta(minutes=options.max_minutes) if options.max_minutes else None,
        plugins=_precision(options.precision, device),
        gradient_clip_val=recipe.train.gradient_clip,
        callbacks=callbacks,
        logger=_loggers(options),
        default_root_dir=options.out,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,  # ResumeState does it
        log_every_n_steps=options.log_every,
        enable_progress_bar=options.progress,
    )


@contextmanager
def _known_warnings_hidden() -> Iterator[None]:
    """While it trains, Lightning does not say what is known here and as it should be."""
    with warnings.catch_warnings():
        # The sampler goes on where the run stopped, which Lightning cannot see.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
        # A first step of float16 that overflows is left out; the schedule counts it all the same.
        warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler.step\(\)` before")
        # Lightning 2.6 asks PyTorch 2.13 in a way that it will forget.
        warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
        yield


def _begin(model: FusionDetector, start: Mapping[str, torch.Tensor] | None, pretrained: Path | None) -> None:
    """Weights of a run that begins: those of ``start``, then those of a pretrained camera backbone."""
    if start is not None:
        start_from(model, start)
    if pretrained is not None:
        if model.camera is None:
            raise TrainingError(f"recipe {model.recipe.name}: has no camera branch that {pretrained} could start")
        report = load_pretrained(model.camera.backbone, pretrained)
        logger.info("%s: %d entries loaded, %d not needed", pretrained, report.loaded, len(report.dropped))


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


def first_step(recipe: Recipe, options: TrainingOptions) -> int:
    """Where all processes begin, or go on.

    Raises:
        TrainingError: there is nothing to resume, it is another run, or they would not go on together.
    """
    done = steps_to_go_on_from(options.out, entries(recipe, options)) if options.resume else 0
    steps = sorted(set(gathered({processes().rank: done}).values()))
    if len(steps) > 1:
        raise TrainingError(
            f"resume: {options.out / RESUME_FILE} is at step {done} here, processes elsewhere begin at steps "
            f"{', '.join(map(str, steps))}; all machines must share the folder --out"
        )
    return done


def _precision(name: str, device: str) -> Precision:
    """What layers compute in. By name, Lightning would take bfloat16 for float16 where there is no GPU."""
    if autocast_dtype(name) == torch.float32:
        return Precision()
    return MixedPrecision(name, device)  # type: ignore[arg-type]  # one of two literals


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
