"""A run of several processes, as torchrun (or SLURM through it) starts them; one process where nothing did."""

from __future__ import annotations

import atexit
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, which its annotations forget
from torch.distributed.rendezvous import rendezvous

from crkd_core.cli import UserError
from crkd_core.models.radar_encoder import WeightedBatchNorm

K = TypeVar("K")
V = TypeVar("V")

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others."""
BEGUN = "training has begun"
"""Key in the store of torchrun."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train or evaluate together.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
        local_size: number of them on this machine.
        local_rank: of this process among them.
    """

    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    local_rank: int = 0

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
    )
    if found.world_size % found.local_size:
        raise UserError(
            f"torchrun: {found.world_size} processes, {found.local_size} of them on this machine; expected as many on "
            "each: give every machine the same --nproc-per-node"
        )
    return found


def own_device() -> str:
    """The GPU of this process, ``cuda:N``; ``cpu`` where the machine has none.

    Raises:
        UserError: the machine has fewer GPUs than processes.
    """
    group, gpus = processes(), torch.cuda.device_count()
    if 0 < gpus < group.local_size:
        raise UserError(
            f"torchrun: {group.local_size} processes on a machine with {gpus} GPU{'s' * (gpus > 1)}; expected one GPU "
            "for each: --nproc-per-node gpu"
        )
    return f"cuda:{group.local_rank}" if torch.cuda.is_available() else "cpu"


def connect() -> None:
    """Let the processes of this run exchange gradients: over NCCL where there are GPUs, else over gloo.

    What those that were killed have written into the store, new ones would take for word of each other, and wait for
    the dead for ever (PyTorch 2.13; its issue 135712). So each start has keys of its own.

    Raises:
        UserError: the store is out of reach, or the others do not come.
    """
    group = processes()
    if group.world_size == 1 or dist.is_initialized():
        return
    start = number_of_start(PrefixStore("starts", _store()), group)
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"start {start}", _store()),
        rank=group.rank,
        world_size=group.world_size,
        timeout=PATIENCE,
    )
    if torch.cuda.is_available():
        atexit.register(dist.destroy_process_group)


@cache
def _store() -> Store:
    """The key-value store that one launch of torchrun offers to all the processes it ever starts.

    Raises:
        UserError: it is out of reach, or, where process 0 keeps it for want of torchrun, the others do not come.
    """
    group = processes()
    try:
        store: Store = next(rendezvous("env://", group.rank, group.world_size, timeout=PATIENCE))[0]
    except dist.DistError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"process {group.rank} of {group.world_size} cannot meet the others at {where} within {PATIENCE}: {reason}"
        ) from None
    return store


def number_of_start(store: Store, group: Processes) -> int:
    """A number for this start of the processes, which all of them find and no other start has.

    Each process draws a number and notes it in its place. When all have read the same numbers, these are the ones: as
    long as a place holds what a dead process left there, the one whose place it is has not read that.

    Args:
        store: used for nothing else; may hold what earlier starts left.
        group: this process among the others.

    Raises:
        UserError: the others do not come.
    """
    places = [f"place {rank}" for rank in range(group.world_size)]
    store.set(places[group.rank], str(store.add("drawn", 1)))
    until, read = time.monotonic() + PATIENCE.total_seconds(), ""
    while time.monotonic() < until:
        if store.check(places):  # multi_get would wait for them, as long as the store pleases
            numbers = b" ".join(store.multi_get(places)).decode()
            if numbers != read:
                store.add(numbers, 1)
                read = numbers
            if store.add(numbers, 0) == group.world_size:
                return max(map(int, numbers.split()))
        time.sleep(0.02)
    raise UserError(f"process {group.rank} of {group.world_size} has waited {PATIENCE} for the others to start")


def note_begun() -> None:
    """Leave word to the processes that torchrun starts after a failure: what they find in the folder is theirs."""
    if dist.is_torchelastic_launched():
        _store().set(BEGUN, "")


def has_begun() -> bool:
    """Whether a process of this launch of torchrun has called ``note_begun``, before a failure or just now."""
    return dist.is_torchelastic_launched() and bool(_store().check([BEGUN]))


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


def from_first(value: V) -> V:
    """What the first process has, in every process."""
    return gathered({processes().rank: value})[0]


def largest(number: int) -> int:
    """The largest of the numbers that the processes have, in every process; cheap enough for every step."""
    if processes().world_size == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_talk())
    return int(found)


@cache
def _talk() -> dist.ProcessGroup:
    """For objects of the host, whatever gradients are exchanged with."""
    connect()
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=PATIENCE)
    return group


def synchronise_norms(module: nn.Module) -> None:
    """Let every batch norm of a model take its statistics over all processes.

    Raises:
        UserError: several processes without GPUs.
    """
    if processes().world_size > 1 and not torch.cuda.is_available():
        raise UserError("train.sync_batch_norm: processes without GPUs cannot share statistics; set it to false")
    for name, child in module.named_children():
        if isinstance(child, WeightedBatchNorm):
            child.synchronised = True
        elif isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        else:
            synchronise_norms(child)
