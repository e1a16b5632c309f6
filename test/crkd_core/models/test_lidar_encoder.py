"""The LiDAR branch: the original's numbers, its axes, gradients on a CPU, and life without spconv."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from crkd_core.config import LidarConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.official_keys import our_key, our_value

GRID = BevGrid((-2.4, -1.2), (0.6, 0.6), (8, 4), (-5.0, 3.0))
SMALL = LidarConfig(channels=(4, 4, 8, 8), out_channels=6)


@pytest.mark.golden
@torch.no_grad()
def test_sparse_encoder(load_golden: Callable[[str], Any]) -> None:
    pytest.importorskip("spconv")
    from crkd_core.models.lidar_encoder import SparseEncoder

    g = load_golden("sparse_encoder")
    channels = tuple(stage[0] for stage in g.meta["encoder_channels"])
    net = SparseEncoder(g["in.features"].shape[1], channels, g.meta["output_channels"]).eval()
    names = {key: our_key(f"encoders.lidar.backbone.{key}") for key in g.group("w.")}
    net.load_state_dict(
        {names[key].removeprefix("lidar.encoder."): our_value(value) for key, value in g.group("w.").items()}
    )
    volume = net(g["in.features"], g["in.coords"], tuple(g.meta["sparse_shape"]), 2)
    bev, expected = volume.permute(0, 1, 4, 2, 3).flatten(1, 2), g["out.bev"]
    assert bev.shape == expected.shape
    assert (bev - expected).abs().max() <= 1e-5 * expected.abs().max()


def encoder() -> Any:
    pytest.importorskip("spconv")
    from crkd_core.models.lidar_encoder import LidarEncoder

    torch.manual_seed(0)
    return LidarEncoder(SMALL, GRID)


def cloud(count: int) -> torch.Tensor:
    points = torch.rand(count, 5, generator=torch.Generator().manual_seed(0))
    return points * torch.tensor([4.8, 2.4, 8.0, 255.0, 0.5]) - torch.tensor([2.4, 1.2, 5.0, 0.0, 0.0])


def test_map_has_the_cells_of_the_grid_and_two_layers() -> None:
    net = encoder().eval()
    assert net.out_channels == 12
    with torch.no_grad():
        assert net(cloud(500), torch.zeros(500, dtype=torch.int64), 2).shape == (2, 12, 8, 4)


def test_rows_are_x_and_samples_stay_apart() -> None:
    net = encoder().eval()
    points = torch.tensor([[2.3, -1.1, 0.0, 9.0, 0.0]]).repeat(4, 1)
    with torch.no_grad():
        bev = net(points, torch.ones(4, dtype=torch.int64), 2)
    assert bev[0].abs().sum() == 0
    found = bev[1].abs().sum(0).nonzero()
    assert (found[:, 0] >= 6).all()
    assert (found[:, 1] <= 1).all()


@torch.no_grad()
def test_age_scale_is_that_of_ages_alone() -> None:
    net, sample = encoder().eval(), torch.zeros(500, dtype=torch.int64)
    net.config = msgspec.structs.replace(net.config, age_scale=8.0)
    scaled = net(cloud(500), sample, 1)
    net.config = msgspec.structs.replace(net.config, age_scale=1.0)
    older = cloud(500) * torch.tensor([1.0, 1.0, 1.0, 1.0, 8.0])
    assert torch.equal(scaled, net(older, sample, 1))
    assert not torch.allclose(scaled, net(cloud(500), sample, 1))


def test_no_point_gives_a_zero_map() -> None:
    bev = encoder()(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), 2)
    assert bev.shape == (2, 12, 8, 4)
    assert bev.abs().sum() == 0


def test_gradients_reach_every_weight_on_a_cpu() -> None:
    net = encoder().train()
    bev = net(cloud(2000), torch.zeros(2000, dtype=torch.int64), 1)
    (bev**2).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.encoder.input[0].weight.grad.abs().sum() > 0


def test_threads_do_not_change_the_sums() -> None:
    """spconv on several CPU threads lost some of the additions to a voxel."""
    net, points = encoder().eval(), cloud(20000)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            net.zero_grad()
            bev = net(points, torch.zeros(len(points), dtype=torch.int64), 1)
            (bev**2).mean().backward()
            assert torch.get_num_threads() == threads
            found.append([bev.detach(), *(p.grad.clone() for p in net.parameters())])
    finally:
        torch.set_num_threads(before)
    for more in found[1:]:
        for a, b in zip(found[0], more, strict=True):
            assert (a - b).abs().max() <= 1e-4 * a.abs().max()  # the values themselves are small


WITHOUT_SPCONV = """
import sys
sys.modules["spconv"] = None
sys.modules["spconv.pytorch"] = None
import torch
import crkd_core.models
from crkd_core.config import load_recipe
from crkd_core.models.detector import FusionDetector
from crkd_core.types import NetworkInput
none = torch.zeros(0, dtype=torch.int64)
inputs = NetworkInput(torch.zeros(0, 3, 128, 352), none, torch.zeros(0, 3, 3), torch.zeros(0, 4, 4),
                      torch.zeros(0, 3, 3), torch.eye(4)[None], torch.rand(9, 45), torch.zeros(9, dtype=torch.int64))
with torch.no_grad():
    print(FusionDetector(load_recipe("student_tiny")).eval()(inputs).fused.shape[0])
try:
    FusionDetector(load_recipe("teacher_r50"))
except crkd_core.cli.UserError as error:
    print(error)
"""


def test_a_student_runs_and_a_teacher_says_what_to_install_without_spconv() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_SPCONV], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, message = done.stdout.strip().split("\n")
    assert first == "1"
    for extra in ("'crkd_ros[teacher]'", "'crkd_ros[teacher-cu120]'", "'crkd_ros[teacher-cu126]'"):
        assert extra in message
