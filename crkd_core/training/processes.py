"""A run of several processes, as torchrun (or SLURM through it) starts them; one process where nothing did."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from crkd_core.cli import UserError
from crkd_core.models.radar_encoder import WeightedBatchNorm

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True)
class Processes:
    """This process among those that train or evaluate together.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
        local_size: number of them on this machine.
        local_rank: of this process among them.
        restarts: how often torchrun has started this group anew after a failure.
    """

    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    local_rank: int = 0
    restarts: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def machines(self) -> int:
        """Number of machines."""
        return self.world_size // self.local_size


def processes() -> Processes:
    """What torchrun says in the environment.

    Raises:
        UserError: different numbers of processes per machine.
    """
    found = Processes(
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )
    if found.world_size % found.local_size:
        raise UserError(
            f"torchrun: {found.world_size} processes, {found.local_size} of them on this machine; expected as many on "
            "each: give every machine the same --nproc-per-node"
        )
    return found


def own_device() -> str:
    """The GPU of this process, ``cuda:N``; ``cpu`` where there is none."""
    return f"cuda:{processes().local_rank}" if torch.cuda.is_available() else "cpu"


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if processes().world_size > 1:
        dist.barrier(_talk())


def gathered(part: dict[K, V]) -> dict[K, V]:
    """The dictionaries of all processes as one, in every process."""
    group = processes()
    if group.world_size == 1:
        return part
    parts: list[dict[K, V]] = [{} for _ in range(group.world_size)]
    dist.all_gather_object(parts, part, group=_talk())
    return {key: value for one in parts for key, value in one.items()}


@cache
def _talk() -> dist.ProcessGroup:
    """For objects of the host, whatever gradients are exchanged with."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group


def synchronise_norms(module: nn.Module) -> None:
    """Let every batch norm of a model take its statistics over all processes; on GPUs only."""
    for name, child in module.named_children():
        if isinstance(child, WeightedBatchNorm):
            child.synchronised = True
        elif isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            synchronise_norms(child)
