"""The head with fixed shapes gives the boxes of the head whose shapes depend on the peaks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crkd_core.config import HeadConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import CenterHead
from crkd_core.models.decode import decode
from crkd_core.models.folding import folded
from crkd_core.models.peak_head import PeakHead

GRID = BevGrid((-12.0, -9.0), (0.6, 0.6), (40, 30), (-5.0, 3.0))


def trained_looking_head(config: HeadConfig, channels: int) -> CenterHead:
    torch.manual_seed(3)
    head = CenterHead(channels, config).eval()
    for module in head.modules():  # zero-padding then differs from a convolution of zeros
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for task in head.tasks:
        nn.init.constant_(task["heatmap"][1].bias, -1.0)  # type: ignore[index]
    return head


@pytest.mark.parametrize("limits", [{}, {"max_boxes": 3000, "post_max_boxes": 7}, {"score_threshold": 0.9}])
@torch.inference_mode()
def test_boxes_are_those_of_decode(limits: dict[str, float]) -> None:
    config = HeadConfig(channels=8, **({"max_boxes": 120, "detection_range": 11.0} | limits))  # type: ignore[arg-type]
    head = trained_looking_head(config, channels=6)
    bev = torch.randn(2, 6, *GRID.shape)
    expected = decode(head(bev), GRID, config)
    found = PeakHead(folded(head), GRID, config)(bev)
    assert found.shape == (2, 6, config.post_max_boxes, 11)
    for sample, boxes in enumerate(expected):
        rows = found[sample].flatten(0, 1)
        rows = rows[rows[:, 9] > 0]
        assert len(rows) == len(boxes.scores)
        assert len(rows) > 20 or "score_threshold" in limits
        assert torch.equal(rows[:, 10].long(), boxes.labels)
        torch.testing.assert_close(rows[:, 9], boxes.scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(rows[:, :9], boxes.boxes, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_nothing_above_the_threshold_is_nothing() -> None:
    config = HeadConfig(channels=8, score_threshold=1.0)
    found = PeakHead(folded(trained_looking_head(config, channels=6)), GRID, config)(torch.randn(1, 6, *GRID.shape))
    assert not found.any()
