"""Several processes that train as one."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from micro import micro_crkd, micro_frame, micro_recipe
from ranks import distilled, environment, free_port
from torch import multiprocessing, nn
from torch.distributed import HashStore, TCPStore

from crkd_core.cli import UserError
from crkd_core.data.dataset import TrainingSet
from crkd_core.models.detector import FusionDetector
from crkd_core.models.radar_encoder import WeightedBatchNorm
from crkd_core.training import processes as module
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions
from crkd_core.training.processes import Processes, number_of_start, own_device, processes, synchronise_norms


@pytest.mark.timeout(300)
def test_two_processes_equal_one_at_the_same_samples_per_step(tmp_path: Path) -> None:
    pytest.importorskip("spconv")
    assert_two_equal_one(tmp_path, shared_statistics=False)


@pytest.mark.gpu
@pytest.mark.timeout(300)
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs")
def test_two_gpus_that_share_statistics_equal_one_at_the_same_samples_per_step(tmp_path: Path) -> None:
    pytest.importorskip("spconv")
    assert_two_equal_one(tmp_path, shared_statistics=True)


def assert_two_equal_one(tmp_path: Path, *, shared_statistics: bool) -> None:
    """Equal gradients, step by step."""
    for world_size in (1, 2):
        out = tmp_path / str(world_size)
        out.mkdir()
        arguments = (world_size, free_port(), out, shared_statistics)
        multiprocessing.spawn(distilled, arguments, nprocs=world_size, daemon=True)  # ends with the test run
    one, two = (torch.load(tmp_path / name / "gradients.pt", weights_only=True) for name in ("1", "2"))
    assert (len(one), len(two)) == (3, 3)
    for step, (a, b) in enumerate(zip(one, two, strict=True)):
        assert a.keys() == b.keys()
        assert any(name.startswith("adapters") for name in a)
        # Of a bias before a norm that uses the batch the gradient is zero, what one sees of it is rounding.
        rounding = 1e-6 * max(float(gradient.norm()) for gradient in a.values())
        for name, gradient in a.items():
            error, size = float((b[name] - gradient).norm()), float(gradient.norm())
            assert error < 1e-3 * size + rounding, f"step {step}: {name}: {error} of {size}"


def test_a_single_process_shares_its_statistics_with_nobody(tmp_path: Path) -> None:
    recipe = micro_recipe(steps=1, sync_batch_norm=True)
    samples = TrainingSet([micro_frame(0), micro_frame(1)], recipe)
    model = train(recipe, samples, TrainingOptions(out=tmp_path, workers=0, progress=False))
    assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in model.modules())


def test_what_torchrun_says_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment(0, 1, 1):
        monkeypatch.delenv(name, raising=False)
    assert processes() == Processes()
    for name, value in {**environment(5, 8, 1), "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    found = processes()
    assert found == Processes(rank=5, world_size=8, local_size=4, local_rank=5)
    assert (found.machines, found.first) == (2, False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="8 processes, 3 of them on this machine"):
        processes()


def test_each_start_of_the_processes_has_a_number_of_its_own_whatever_the_one_before_left() -> None:
    """Processes come in any order; of the second start only one came before all were killed; the fourth is smaller."""
    store = HashStore()
    draw = random.Random(3)

    def come(rank: int, world_size: int) -> int:
        time.sleep(draw.uniform(0, 0.1))
        return number_of_start(store, Processes(rank=rank, world_size=world_size))

    def start(world_size: int) -> set[int]:
        with ThreadPoolExecutor(world_size) as pool:
            return set(pool.map(come, range(world_size), [world_size] * world_size))

    first = start(4)
    store.set("place 2", str(store.add("drawn", 1)))
    third, fourth, fifth = start(4), start(3), start(4)
    assert [len(found) for found in (first, third, fourth, fifth)] == [1, 1, 1, 1]
    assert len(first | third | fourth | fifth) == 4


def test_a_process_does_not_take_the_dead_for_the_living(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=0.2))
    store = HashStore()
    store.set("place 1", str(store.add("drawn", 1)))
    with pytest.raises(UserError, match=r"process 0 of 2 has waited .* for the others"):
        number_of_start(store, Processes(rank=0, world_size=2))


def test_on_the_very_first_start_too_a_process_says_that_the_others_do_not_come(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=0.2))
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=60))
    with pytest.raises(UserError, match=r"process 1 of 2 has waited 0:00:00\.2.* for the others to start"):
        number_of_start(store, Processes(rank=1, world_size=2))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_meets_nobody_says_where_it_has_looked(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """Without torchrun the first process keeps the store, and waits for the second; the second does not find it."""
    port = free_port()
    for name, value in environment(rank, 2, port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=1))
    message = rf"process {rank} of 2 cannot meet the others at 127\.0\.0\.1:{port} within 0:00:01: "
    with pytest.raises(UserError, match=message):
        module.connect()


def test_every_norm_of_a_student_can_be_synchronised() -> None:
    model = FusionDetector(micro_crkd())
    names = list(model.state_dict())
    synchronise_norms(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(n, nn.SyncBatchNorm) or (isinstance(n, WeightedBatchNorm) and n.synchronised) for n in norms)
    assert len(norms) > 20
    assert list(model.state_dict()) == names


def test_a_machine_needs_a_gpu_for_each_process_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device() == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes on a machine with 1 GPU; expected one GPU for each"):
        own_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert own_device() == "cpu"


def test_norms_of_several_processes_without_gpus_are_not_synchronised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in environment(0, 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"train\.sync_batch_norm: processes without GPUs"):
        synchronise_norms(nn.Sequential(nn.BatchNorm2d(4)))
