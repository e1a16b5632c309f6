"""Rotated IoU by cases one can do by hand and by sampling; greedy suppression against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from crkd_core.ops.nms import nms_circle, nms_rotated, rotated_iou

OCTAGON = 8 * (math.sqrt(2) - 1)
"""Area common to two squares of side 2, one of them turned by 45 degrees."""
UNIT = [0.0, 0.0, 2.0, 4.0, 0.0]
BY_HAND = {
    "identical": (UNIT, UNIT, 1.0),
    "half turn": (UNIT, [0.0, 0.0, 2.0, 4.0, math.pi], 1.0),
    "shifted along w": (UNIT, [1.0, 0.0, 2.0, 4.0, 0.0], 4 / 12),
    "shifted along l": (UNIT, [0.0, 2.0, 2.0, 4.0, 0.0], 4 / 12),
    "quarter turn": (UNIT, [0.0, 0.0, 2.0, 4.0, math.pi / 2], 4 / 12),
    "inside": (UNIT, [0.2, 0.3, 1.0, 1.0, 0.7], 1 / 8),
    "touching": (UNIT, [2.0, 0.0, 2.0, 4.0, 0.0], 0.0),
    "far": (UNIT, [50.0, 0.0, 2.0, 4.0, 1.0], 0.0),
    "eighth turn of a square": ([0, 0, 2, 2, 0.0], [0, 0, 2, 2, math.pi / 4], OCTAGON / (8 - OCTAGON)),
}


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (-49.3, 37.7)])
def test_iou_by_hand(name: str, shift: tuple[float, float]) -> None:
    a, b, expected = BY_HAND[name]
    move = np.array([*shift, 0, 0, 0])
    pair = np.array([a]) + move, np.array([b]) + move
    assert rotated_iou(*pair)[0] == pytest.approx(expected, abs=1e-6)
    assert rotated_iou(*pair[::-1])[0] == pytest.approx(expected, abs=1e-6)


def test_positive_r_turns_clockwise() -> None:
    """A long box at r = 0.6 covers a small one that lies clockwise of its axis, and not its mirror image."""
    long = np.array([[0.0, 0.0, 1.0, 20.0, 0.6]] * 2)
    ahead = 8.0 * np.array([math.sin(0.6), math.cos(0.6)])
    small = np.array([[*ahead, 0.5, 0.5, 0.0], [-ahead[0], ahead[1], 0.5, 0.5, 0.0]])
    iou = rotated_iou(long, small)
    assert iou[0] > 0
    assert iou[1] == 0


def test_iou_by_sampling() -> None:
    rng = np.random.default_rng(0)
    boxes = np.stack([*rng.uniform(-2, 2, (2, 40)), *rng.uniform(0.5, 5, (2, 40)), rng.uniform(-4, 4, 40)], axis=1)
    a, b = boxes[:20], boxes[20:]
    points = rng.uniform(-7, 7, (200_000, 2))
    for box_a, box_b, iou in zip(a, b, rotated_iou(a, b), strict=True):
        in_a, in_b = covers(box_a, points), covers(box_b, points)
        assert iou == pytest.approx((in_a & in_b).sum() / (in_a | in_b).sum(), abs=0.02)


def covers(box: np.ndarray, points: np.ndarray) -> np.ndarray:
    width, length, r = box[2:]
    dx, dy = points[:, 0] - box[0], points[:, 1] - box[1]
    along_w, along_l = dx * math.cos(r) - dy * math.sin(r), dx * math.sin(r) + dy * math.cos(r)
    return (np.abs(along_w) <= width / 2) & (np.abs(along_l) <= length / 2)


def random_boxes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([60.0, 60.0, 3.0, 8.0, 6.0])
    return torch.rand(n, 5, generator=generator) * scale + 0.1, torch.rand(n, generator=generator)


@pytest.mark.parametrize(("n", "max_kept"), [(0, 5), (1, 5), (60, 1000), (250, 1000), (250, 83)])
def test_rotated_suppression_equals_a_loop(n: int, max_kept: int) -> None:
    boxes, scores = random_boxes(n, seed=n)
    values, kept = boxes.double().numpy(), []
    iou = rotated_iou(values.repeat(n, axis=0), np.tile(values, (n, 1))).reshape(n, n)
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        if all(iou[i, j] <= 0.2 for j in kept):
            kept.append(i)
    assert nms_rotated(boxes, scores, 0.2, max_kept=max_kept).tolist() == kept[:max_kept]


@pytest.mark.parametrize(("n", "max_kept"), [(0, 5), (1, 5), (300, 1000), (300, 20)])
def test_circle_suppression_equals_a_loop(n: int, max_kept: int) -> None:
    boxes, scores = random_boxes(n, seed=n + 1)
    xy, kept = boxes[:, :2].double().numpy(), []
    for i in torch.argsort(scores, descending=True, stable=True).tolist():
        if all(((xy[i] - xy[j]) ** 2).sum() > 9.0 for j in kept):
            kept.append(i)
    assert nms_circle(boxes[:, :2], scores, 9.0, max_kept=max_kept).tolist() == kept[:max_kept]


def test_circle_threshold_is_squared_metres() -> None:
    centers = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.01]])
    assert nms_circle(centers, torch.tensor([0.9, 0.8, 0.7]), 4.0, max_kept=9).tolist() == [0, 2]


def test_the_same_box_of_two_classes_is_kept_once() -> None:
    boxes = torch.tensor([[12.3456, -31.7, 1.93, 4.61, 0.37]]).repeat(2, 1)
    assert nms_rotated(boxes, torch.tensor([0.4, 0.5]), 0.2, max_kept=9).tolist() == [1]
