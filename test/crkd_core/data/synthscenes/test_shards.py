import argparse
from pathlib import Path

import pytest

from crkd_core.cli import UserError
from crkd_core.data.synthscenes.shards import Shard, parse_shard, shard_of_environment


def test_parts_are_disjoint_and_together_all():
    seeds = list(range(9000, 9011))
    parts = [Shard(rank, 4).part(seeds) for rank in range(4)]
    assert sorted(seed for part in parts for seed in part) == seeds
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_each_part_has_a_folder_of_its_own_and_a_whole_has_the_one_asked_for():
    assert len({Shard(rank, 3).folder(Path("d")) for rank in range(3)}) == 3
    assert Shard(0, 1).folder(Path("d")) == Path("d")


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, Shard(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Shard(2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(0, 8)),
        ({"SLURM_PROCID": "1"}, Shard(0, 1)),
    ],
)
def test_launchers_name_the_shard(environment: dict[str, str], shard: Shard):
    assert shard_of_environment(environment) == shard


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "1/0", ""])
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="expected I/N"):
        parse_shard(text)


def test_wrong_variables_of_a_launcher_are_named():
    with pytest.raises(UserError, match="RANK, WORLD_SIZE: expected a rank below"):
        shard_of_environment({"RANK": "4", "WORLD_SIZE": "4"})
