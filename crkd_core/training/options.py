"""Where and how a run trains, which is no part of the recipe, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from crkd_core.config import TrainConfig
from crkd_core.training.processes import processes


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


def autocast_dtype(precision: str) -> torch.dtype:
    """What autocast computes in, by Lightning's name of the precision; float32: there is none."""
    return {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}[precision]


def samples_per_step(config: TrainConfig) -> int:
    """Samples of one step, of all processes together."""
    return config.batch_size * config.accumulate * processes().world_size
