"""What a run says of samples that cannot be read and of loading processes that die."""

from __future__ import annotations

import logging
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from crkd_core.data.dataset import TrainingBatch
from crkd_core.data.errors import DataError
from crkd_core.data.sampling import StepSampler

logger = logging.getLogger(__name__)


class DamagedSamples(Callback):
    """Tells of skipped samples: of each by name when it is met first, of their number in the log and at the end.

    Too many of them end the run: a data set that is damaged as a whole should not be trained on in part.
    """

    def __init__(self, total: int, allowed: float) -> None:
        """Set the limit.

        Args:
            total: samples in the data set.
            allowed: part of them that may be damaged.
        """
        self._total = total
        self._allowed = allowed
        self._met: set[int] = set()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,  # noqa: ARG002  Lightning passes it by this name
        batch: TrainingBatch,
        *_: Any,
    ) -> None:
        """Look at one batch.

        Raises:
            DataError: more than the allowed part of the data set is damaged.
        """
        for skipped in batch.skipped:
            if skipped.index not in self._met:
                self._met.add(skipped.index)
                logger.warning("skipped: %s", skipped.reason)
        module.log("damaged_samples", float(len(self._met)))
        if len(self._met) > self._allowed * self._total:
            raise DataError(
                f"step {trainer.global_step}: {self._summary()}, more than samples.max_bad ({self._allowed:g}) allows; "
                f"the last: {batch.skipped[-1].reason}"
            )

    def on_train_end(self, *_: Any) -> None:
        """Say how many there were."""
        if self._met:
            logger.warning("%s; others took their places", self._summary())

    def _summary(self) -> str:
        return f"{len(self._met)} of {self._total} samples found damaged"


def lost_process(error: RuntimeError, loader: DataLoader[TrainingBatch], *, step: int, position: int) -> str:
    """What to say when a data loading process died: it leaves no word, but what it was about to read is known.

    Args:
        error: what torch says.
        loader: of batches in the order of a ``StepSampler``.
        step: of the run.
        position: of the step's first sample, of all processes.
    """
    sampler, batch = loader.sampler, loader.batch_size
    assert isinstance(sampler, StepSampler)
    assert batch is not None
    # Those of this step, and those that are read ahead: the step may have begun already.
    ahead = batch * (1 + loader.num_workers * (loader.prefetch_factor or 0))
    numbers = sorted({p.sample for p in sampler.following(position, ahead)})
    return (
        f"step {step}: a data loading process died ({' '.join(str(error).split())}); either memory ran out (use fewer "
        f"--workers), or it was on one of the samples number {', '.join(map(str, numbers))}; --resume goes on from the "
        "last saved step"
    )
