"""Which seeds to simulate: as written on a command line, and the part of one of several processes or machines."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from crkd_core.cli import UserError

_VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))  # torchrun's, srun's


class Shard(NamedTuple):
    """Part ``rank`` (from 0) of ``of``."""

    rank: int
    of: int

    def part(self, seeds: Sequence[int]) -> list[int]:
        """Every ``of``-th seed from the ``rank``-th; the parts are disjoint and together all."""
        return list(seeds[self.rank :: self.of])

    def folder(self, out: Path) -> Path:
        """Where this part goes: a data set of its own below ``out``, or ``out`` itself if there is but one."""
        return out if self.of == 1 else out / f"shard-{self.rank}-of-{self.of}"


def parse_shard(text: str) -> Shard:
    """A shard written as I/N, for ``type=`` of an option.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with 0 <= I < N, such as 0/4, got '{text}'")
    return Shard(int(index), int(count))


def shard_of_environment(environment: Mapping[str, str]) -> Shard:
    """The shard that torchrun or srun gave this process; 0 of 1 without either.

    Raises:
        UserError: their variables do not name a shard.
    """
    for index, count in _VARIABLES:
        if index in environment and count in environment:
            try:
                return parse_shard(f"{environment[index]}/{environment[count]}")
            except argparse.ArgumentTypeError:
                raise UserError(
                    f"{index}, {count}: expected a rank below the number of processes, got '{environment[index]}' and "
                    f"'{environment[count]}'; unset them or name --shard"
                ) from None
    return Shard(0, 1)


def parse_seeds(words: list[str]) -> list[int]:
    """The seeds that words such as 7 and 0:400 name.

    Raises:
        UserError: words that name none.
    """
    try:
        ranges = [(word.partition(":")[0], word.partition(":")[2]) for word in words]
        seeds = [k for first, last in ranges for k in (range(int(first), int(last)) if last else [int(first)])]
    except ValueError:
        raise UserError(f"--seeds: expected numbers or ranges such as 0:400, got '{' '.join(words)}'") from None
    if not seeds:
        raise UserError(f"--seeds: expected at least one, got {' '.join(words)}")
    return seeds
