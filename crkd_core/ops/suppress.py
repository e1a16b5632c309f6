"""Greedy suppression with fixed shapes, for groups of boxes at once and without a word between GPU and host."""

from __future__ import annotations

import torch
from torch import Tensor

from crkd_core.ops.nms import nms_circle, nms_rotated


@torch.library.custom_op("crkd::suppress", mutates_args=())
def suppress(
    boxes: Tensor,  # [G, K, 5]
    valid: Tensor,  # [G, K]
    squared_distance: Tensor,  # [G]
    iou_threshold: float,
    max_kept: int,
) -> Tensor:
    """Within each group keep boxes in their order, dropping those too near a kept one.

    Args:
        boxes: (G, K, 5) float32: x, y, w, l, r as in ``nms.nms_rotated``, each group by falling score.
        valid: (G, K) bool; the others are not there.
        squared_distance: (G,) float32. Above 0: centres at most this many SQUARED metres apart are too near. 0: boxes
            whose rotated IoU exceeds ``iou_threshold`` are.
        iou_threshold: see there.
        max_kept: boxes kept per group.

    Returns:
        (G, max_kept) int64 positions within the group, ascending, then -1. On CUDA two Triton kernels compute it,
        elsewhere the functions of ``nms``; both in float64.
    """
    if boxes.device.type == "cuda":
        from crkd_core.ops.kernels.suppress import launch_suppress

        return launch_suppress(boxes, valid, squared_distance, iou_threshold, max_kept)
    return suppress_reference(boxes, valid, squared_distance, iou_threshold, max_kept)


@suppress.register_fake
def _(boxes: Tensor, valid: Tensor, squared_distance: Tensor, iou_threshold: float, max_kept: int) -> Tensor:
    return boxes.new_empty((boxes.shape[0], max_kept), dtype=torch.int64)


def suppress_reference(
    boxes: Tensor, valid: Tensor, squared_distance: Tensor, iou_threshold: float, max_kept: int
) -> Tensor:
    """What ``suppress`` computes, group by group (same arguments)."""
    kept = torch.full((len(boxes), max_kept), -1, dtype=torch.int64, device=boxes.device)
    for group, radius in enumerate(squared_distance.tolist()):
        there = valid[group].nonzero()[:, 0]
        falling = -torch.arange(len(there), dtype=torch.float64, device=boxes.device)
        some = boxes[group, there]
        if radius > 0:
            found = nms_circle(some[:, :2], falling, radius, max_kept=max_kept)
        else:
            found = nms_rotated(some, falling, iou_threshold, max_kept=max_kept)
        kept[group, : len(found)] = there[found]
    return kept
