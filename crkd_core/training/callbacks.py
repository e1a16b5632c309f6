"""What happens beside the steps of a training: averaged weights, evaluations on the way, resume states, a NaN guard.

Each looks between two steps, which may be of several batches.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from crkd_core.cli import UserError
from crkd_core.models.detector import FusionDetector
from crkd_core.training.processes import largest


class TrainingError(UserError):
    """Training cannot start or go on."""


RAMP = 10
"""An average reaches back over one in so many of its updates, roughly, until its decay is the one asked for."""


class AveragedWeights(WeightAveraging):
    """The moving average of the weights, which takes their place when asked to, not of itself when training ends.

    It forgets faster at first: after 700 steps, a constant decay of 0.998 would leave a quarter of the weights that the
    run began with. Updated before the other callbacks see a step: a resume state holds the average of its own step.
    """

    def __init__(self, *, decay: float, every: int) -> None:
        """An average of weights and buffers.

        Args:
            decay: of one update, in the long run, see ``decay_after``.
            every: steps between two updates; the first is after the first step.
        """
        super().__init__(multi_avg_fn=functools.partial(update_average, decay=decay), use_buffers=True)
        self._every = every

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:  # noqa: ARG002
        """Whether the step with this index, from 0, is to be averaged."""
        return step_idx is not None and step_idx % self._every == 0

    @contextmanager
    def in_place(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> Iterator[None]:
        """The module has the averaged weights, then its own again."""
        self.on_validation_epoch_start(trainer, module)
        try:
            yield
        finally:
            self.on_validation_epoch_end(trainer, module)

    def on_train_end(self, _trainer: lightning.Trainer, _module: lightning.LightningModule) -> None:
        """The resume state wants the module's own weights."""

    def take_over(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Give the module the averaged weights for good."""
        super().on_train_end(trainer, module)


def decay_after(updates: int, decay: float) -> float:
    """What an average keeps of itself after so many updates: less at first, while it holds what a run began with."""
    return min(decay, (1 + updates) / (RAMP + updates))


@torch.no_grad()
def update_average(averaged: list[Tensor], current: list[Tensor], updates: Tensor, *, decay: float) -> None:
    """Updates tensors of one type; whole numbers, such as counters, are taken over.

    Args:
        averaged: what is updated.
        current: of the same shapes.
        updates: how many there have been.
        decay: in the long run.
    """
    if averaged[0].is_floating_point():
        torch._foreach_lerp_(averaged, current, 1 - decay_after(int(updates), decay))
    else:
        torch._foreach_copy_(averaged, current)


def ends_step(trainer: lightning.Trainer, batch_index: int) -> bool:
    """Whether a batch is the last one of a step."""
    return (batch_index + 1) % trainer.accumulate_grad_batches == 0


Evaluate = Callable[[FusionDetector, int], None]
"""What is done with the (averaged) model at a step; every process calls it."""


class EvaluationOnTheWay(Callback):
    """Calls an evaluation every so many steps, with the averaged weights if there are any. Leaves no trace.

    A run that stops before an evaluation, or dies in it, begins with it when it goes on.
    """

    def __init__(self, evaluate: Evaluate, *, every: int, averages: AveragedWeights | None) -> None:
        self._evaluate = evaluate
        self._every = every
        self._averages = averages
        self._done = 0

    def state_dict(self) -> dict[str, int]:
        """The step that was evaluated last."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take it over."""
        self._done = state_dict["done"]

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Evaluate what a run has left undone that is going on."""
        self._evaluate_if_due(trainer, module)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, _outputs: Any, _batch: Any, batch_index: int
    ) -> None:
        """Evaluate when the step number is a multiple of ``every``.

        Raises:
            TrainingError: there is nothing to evaluate, since a loss or a weight is not finite.
        """
        if ends_step(trainer, batch_index) and not trainer.should_stop:
            self._evaluate_if_due(trainer, module)

    def _evaluate_if_due(self, trainer: lightning.Trainer, module: Any) -> None:
        step = trainer.global_step
        if step % self._every or step == self._done:
            return
        module.check_finite()
        with self._averages.in_place(trainer, module) if self._averages is not None else nullcontext():
            self._evaluate(module.model, step)
        self._done = step


class ResumeState(Callback):
    """Writes the resume state every so many steps and at the end; a killed run leaves the last whole one."""

    def __init__(self, path: Path, *, every: int) -> None:
        self._path = path
        self._every = every

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        _outputs: Any,
        _batch: Any,
        batch_index: int,
    ) -> None:
        """Write it when the step number is a multiple of ``every``."""
        if trainer.global_step % self._every == 0 and ends_step(trainer, batch_index):
            self.on_train_end(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, _module: lightning.LightningModule) -> None:
        """Write it; no process goes on before it is in its place, for they all read it."""
        partial = self._path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            partial.replace(self._path)
        trainer.strategy.barrier("resume state")


class StopOnSignal(Callback):
    """Ends a run in order when a process is told to stop: after the step in hand, all processes after the same one.

    SIGTERM is what torchrun, SLURM and containers send some time before they kill; they may send it twice. SIGINT is
    Ctrl-C; the second one ends the process at once.

    Attributes:
        signal: which one ended the run; 0: none.
    """

    def __init__(self) -> None:
        self.signal = 0

    def on_train_start(self, trainer: lightning.Trainer, _module: lightning.LightningModule) -> None:
        """Take the place of Lightning's handler, which saves nothing and exits with 0; it gives the old ones back.

        Raises:
            SystemExit: told already; there is nothing to save.
        """
        if trainer.received_sigterm:
            raise SystemExit(128 + signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():  # no other may
            signal.signal(signal.SIGTERM, self._note)
            signal.signal(signal.SIGINT, self._note)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, _module: Any, _outputs: Any, _batch: Any, batch_index: int
    ) -> None:
        """Stop between two steps if any process is told to."""
        if ends_step(trainer, batch_index):
            told = largest(self.signal)
            if told:
                self.signal = told
                trainer.should_stop = True

    def _note(self, number: int, _frame: Any) -> None:
        if number == self.signal == signal.SIGINT:
            raise SystemExit(128 + number)
        self.signal = number


class LossWatch:
    """Notices a loss that is not finite while the GPU goes on: each step reads the losses of the one before."""

    def __init__(self) -> None:
        self._last: tuple[torch.Tensor, torch.cuda.Event | None, list[str], int, tuple[str, ...]] | None = None

    def check(self, losses: dict[str, torch.Tensor], *, step: int, tokens: tuple[str, ...]) -> None:
        """Read the last losses and remember these.

        Raises:
            TrainingError: see ``read``.
        """
        self.read()
        values, copied = torch.stack([loss.detach() for loss in losses.values()]), None
        if values.is_cuda:
            host = torch.empty(len(values), pin_memory=True)
            values, copied = host.copy_(values, non_blocking=True), torch.cuda.Event()
            copied.record()
        self._last = values, copied, list(losses), step, tokens

    def read(self) -> None:
        """Look at the last losses.

        Raises:
            TrainingError: one is not finite; names it, its step and its samples.
        """
        if self._last is None:
            return
        values, copied, names, step, tokens = self._last
        self._last = None
        if copied is not None:
            copied.synchronize()
        bad = [name for name, value in zip(names, values.tolist(), strict=True) if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"step {step}: {', '.join(bad)} not finite on samples {', '.join(tokens)}; lower the learning rate or "
                "use bf16"
            )
