"""Learning rate and parameter groups."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest
import torch
from lightning.fabric.plugins.precision.amp import _optimizer_handles_unscaling
from torch import nn

from crkd_core.config import TrainConfig
from crkd_core.training.schedule import learning_rate_factor, optimizer

CONFIG = TrainConfig(steps=1000, batch_size=1, learning_rate=1.0, warmup_steps=100)


def test_warm_up_starts_at_its_ratio_and_grows_linearly() -> None:
    assert learning_rate_factor(0, CONFIG) == pytest.approx(1 / 3)
    without = TrainConfig(steps=1000, batch_size=1, warmup_steps=0)
    ratio = learning_rate_factor(50, CONFIG) / learning_rate_factor(50, without)
    assert ratio == pytest.approx(1 / 3 + 2 / 3 * 0.5)


def test_cosine_is_half_way_in_the_middle_and_ends_at_its_ratio() -> None:
    assert learning_rate_factor(500, CONFIG) == pytest.approx(1e-3 + 0.999 / 2)
    assert learning_rate_factor(1000, CONFIG) == pytest.approx(1e-3)
    assert learning_rate_factor(1500, CONFIG) == pytest.approx(1e-3)
    quarter = 1e-3 + 0.999 * 0.5 * (1 + math.cos(math.pi / 4))
    assert learning_rate_factor(250, CONFIG) == pytest.approx(quarter)


@pytest.mark.golden
@pytest.mark.parametrize("name", ["student_r50", "distill_r50", "distill_swint"])
def test_the_originals_schedule(golden_dir: Path, name: str) -> None:
    schedule = json.loads((golden_dir / "lr_schedule.json").read_text())[name]
    rows, epoch = schedule["rows_epoch_iter_lr"], schedule["iters_per_epoch"]
    peak = max(lr for _, _, lr in rows)
    config = TrainConfig(steps=20 * epoch, batch_size=1, learning_rate=peak, cosine_interval=epoch)
    for _, step, expected in rows:
        assert peak * learning_rate_factor(step, config) == pytest.approx(expected, rel=1e-6)


def test_only_relative_position_biases_are_free_of_weight_decay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(4))
            self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)

    groups = optimizer(Net(), CONFIG).param_groups
    decays = {group["weight_decay"]: [p.numel() for p in group["params"]] for group in groups}
    assert decays == {0.01: [3, 3], 0.0: [4]}


class BackboneAndHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.camera = nn.ModuleDict({"backbone": nn.Linear(2, 3), "neck": nn.Linear(3, 4)})


def test_the_camera_backbone_may_learn_more_slowly() -> None:
    slower = msgspec.structs.replace(CONFIG, camera_backbone_learning_rate_ratio=0.1)
    groups = optimizer(BackboneAndHead(), slower).param_groups
    assert {group["lr"]: [p.numel() for p in group["params"]] for group in groups} == {1.0: [12, 4], 0.1: [6, 3]}


def test_one_rate_makes_one_group() -> None:
    (group,) = optimizer(BackboneAndHead(), CONFIG).param_groups
    assert group["lr"] == 1.0


def test_gradients_of_scaled_losses_can_be_clipped() -> None:
    """Lightning refuses to clip for optimisers that undo the scaling themselves, which a fused one says it does."""
    model = nn.Linear(2, 1)
    adamw = optimizer(model, CONFIG)
    model(torch.ones(1, 2)).sum().backward()
    adamw.step()
    assert not _optimizer_handles_unscaling(adamw)
    resumed = optimizer(model, CONFIG)
    resumed.load_state_dict(adamw.state_dict())
    assert not _optimizer_handles_unscaling(resumed)
