"""Numbers that losses are divided by, over all processes of a distributed run.

Each process divides by the mean of all of them, and gradients are averaged over the processes: together that is the sum
of the losses by the sum of the counts, the same as one process with the whole batch. The original's are per process
(quirk Q19).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """Processes that train together; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def mean_count(count: Tensor, *, least: float = 0.0, plus: float = 0.0) -> Tensor:
    """max(sum over processes of ``count``, least) + plus, divided by the number of processes.

    Args:
        count: of this process, any shape and type; each number for itself.
        least: lower bound of the sum.
        plus: added to it.

    Returns:
        float32 without gradient; may share the memory of ``count``.
    """
    processes = process_count()
    mean = count.detach().to(torch.float32, copy=processes > 1)
    if processes > 1:
        dist.all_reduce(mean)
        mean /= processes
    if least > 0:
        mean = mean.clamp(min=least / processes)
    return mean + plus / processes if plus else mean


@torch.no_grad()
def greatest(value: Tensor) -> Tensor:
    """The greatest ``value`` of any process, of each number in it."""
    value = value.detach().clone()
    if process_count() > 1:
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value
