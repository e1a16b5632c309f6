"""Training batches, read ahead by processes of their own.

A sample is addressed by its global position (step x batch), so a run that is resumed at step s reads exactly what it
would have read: see ``crkd_core.data.dataset``.
"""

from __future__ import annotations

import signal

import cv2
import torch
from torch.utils.data import DataLoader

from crkd_core.config import Recipe
from crkd_core.data.dataset import TrainingBatch, TrainingSet, collate_training
from crkd_core.data.sampling import StepSampler
from crkd_core.training.options import TrainingOptions, samples_per_step
from crkd_core.training.processes import processes

READ_AHEAD = 4
"""Batches that each loading process reads ahead."""


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
