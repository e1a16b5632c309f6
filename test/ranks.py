"""Processes that train together, as torchrun starts them.

On one machine they use its GPUs where there is one for each: two on one GPU can wait for each other for ever.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from micro import micro_crkd, micro_frame, micro_frame_with_lidar, micro_recipe, micro_teacher
from torch import nn

from crkd_core.data.dataset import TrainingSample, TrainingSet
from crkd_core.data.errors import DataError
from crkd_core.data.sampling import Position
from crkd_core.distillation.distiller import Distiller
from crkd_core.models.detector import FusionDetector
from crkd_core.training.detection_training import DetectionTraining
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions

FRAMES = 8


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def gpus_for(processes: int) -> dict[str, str]:
    """An environment that hides the GPUs of this machine where they are fewer than processes."""
    return {"CUDA_VISIBLE_DEVICES": ""} if torch.cuda.device_count() < processes else {}


def on_one_machine(processes: int = 2, *, restarts: int = 0) -> tuple[list[str], dict[str, str]]:
    """torchrun up to the name of the script, and what it adds to the environment."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--max-restarts={restarts}"]
    return [*launcher, f"--nproc-per-node={processes}"], gpus_for(processes)


def on_each_of_two_machines(*, restarts: int = 0) -> tuple[list[str], dict[str, str]]:
    """The same, to be started on two machines, which may both be this one; a process on each, without GPUs."""
    meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *meet]
    return [*launcher, f"--max-restarts={restarts}"], {"CUDA_VISIBLE_DEVICES": ""}


def distilled(rank: int, world_size: int, port: int, out: Path, shared_statistics: bool) -> None:
    """The gradients of three steps of distillation on four samples each, however many processes share them.

    Gradients, not weights: Adam would make a whole step of the rounding noise in a gradient that is zero. The weights
    stay where they are.

    Args:
        rank: of this process.
        world_size: number of processes.
        port: where they meet.
        out: for ``gradients.pt``.
        shared_statistics: batch norms see the samples of all processes, which takes as many GPUs; else fixed ones.
    """
    os.environ.update(environment(rank, world_size, port) | gpus_for(2))  # one is compared with two
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    gradients: list[dict[str, torch.Tensor]] = []

    def keep(module: DetectionTraining, _optimizer: object) -> None:
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})

    def fix_statistics(module: DetectionTraining) -> None:
        """Statistics over processes need a GPU: with fixed ones, everything else must agree."""
        for norm in module.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                norm.eval()

    if not shared_statistics:
        DetectionTraining.on_train_start = fix_statistics  # type: ignore[method-assign]
    DetectionTraining.on_before_optimizer_step = keep  # type: ignore[method-assign]
    how = {"steps": 3, "batch_size": 4 // world_size, "learning_rate": 1e-12, "sync_batch_norm": shared_statistics}
    recipe, teacher = micro_crkd(**how), micro_teacher()
    torch.manual_seed(5)
    distiller = Distiller(FusionDetector(teacher), recipe)
    frames = [micro_frame_with_lidar(seed) for seed in range(FRAMES)]
    samples = TrainingSet(frames, recipe, teacher=teacher.model.lidar)
    train(recipe, samples, TrainingOptions(out=out, workers=0, progress=False), distiller=distiller)
    if rank == 0:
        torch.save(gradients, out / "gradients.pt")


class Recorded(TrainingSet):
    """Five frames, and which of them were read."""

    def __init__(self, *, die_after: int | None, **train: Any) -> None:
        recipe = micro_recipe(**train)
        super().__init__([micro_frame(seed) for seed in range(5)], recipe)
        self.read: list[list[int]] = []
        self._die_after = die_after

    def __getitem__(self, position: Any) -> TrainingSample:
        if len(self.read) == self._die_after:
            raise DataError("unplugged")
        self.read.append([*Position(*position)])
        return super().__getitem__(position)


class StepsAfterBatches(Callback):
    """How many steps were done after each batch."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)


def read_by(
    options: TrainingOptions, *, die_after: int | None = None, **recipe: Any
) -> tuple[list[list[int]], list[int]]:
    """The positions that one start of a run reads, and the steps that it has done after each batch.

    Args:
        options: of the run, without loading processes.
        die_after: the start ends with an error after this many samples.
        recipe: values of its training.
    """
    samples, steps = Recorded(die_after=die_after, **recipe), StepsAfterBatches()
    with suppress(DataError) if die_after is not None else nullcontext():
        train(samples.recipe, samples, options, callbacks=[steps])
    return samples.read, steps.steps
