"""The score of perfect head maps: ground truth encoded, decoded and suppressed as any output, all peaks equally sure.

What is lost on the way is the price of the encoding: boxes in one cell, boxes beyond the grid, and boxes that
non-maximum suppression takes for duplicates (close pedestrians above all). A result is to be read beside it. It is no
strict bound: which of two close boxes survives depends on their scores, and equal ones are not the luckiest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from tqdm import tqdm

from crkd_core.config import Recipe
from crkd_core.geometry.grid import BevGrid
from crkd_core.geometry.transforms import inverse
from crkd_core.models.center_head import TaskMaps
from crkd_core.models.center_targets import TaskTargets, center_targets
from crkd_core.models.decode import decode
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth
from crkd_core.training.metrics import Metrics
from crkd_core.training.submission import ResultEntry, results_entry
from crkd_core.types import Boxes3D, Detections, FloatArray

_LOGIT = 10.0
"""Of a certain peak; minus that elsewhere."""


def ceiling(
    ground_truth: Mapping[str, SampleTruth],
    recipe: Recipe,
    T_base_from_bev: FloatArray,
    tokens: Collection[str] | None = None,
    *,
    progress: bool = False,
) -> Metrics:
    """The official metric of perfect head maps.

    Args:
        ground_truth: sample token -> annotations.
        recipe: its grid, head and suppression.
        T_base_from_bev: (4, 4) mounting of the BEV frame.
        tokens: the samples to score; None: all.
        progress: show a progress bar.

    Raises:
        MissingExtraError: nuscenes-devkit is not installed.
    """
    chosen = list(ground_truth) if tokens is None else list(tokens)
    results: dict[str, list[ResultEntry]] = {}
    for token in tqdm(chosen, desc="ceiling", disable=not progress):
        found = encoded_and_decoded(ground_truth[token], recipe, T_base_from_bev)
        results[token] = results_entry(found, token)
    return evaluate(results, ground_truth, chosen)


def encoded_and_decoded(sample: SampleTruth, recipe: Recipe, T_base_from_bev: FloatArray) -> Detections:
    """What encoding, decoding and suppression leave of a sample's boxes with a point inside; world frame."""
    truth = sample.detections()
    T_world_from_bev = sample.T_world_from_base @ T_base_from_bev
    boxes = torch.from_numpy(truth.boxes.transformed(inverse(T_world_from_bev)).to_mmdet3d())
    grid = BevGrid.from_config(recipe.bev)
    targets = center_targets([boxes.float()], [torch.from_numpy(truth.labels)], recipe)
    found = decode(tuple(_perfect_maps(task) for task in targets.tasks()), grid, recipe.model.head)[0]
    return Detections(
        boxes=Boxes3D.from_mmdet3d(found.boxes.numpy()).transformed(T_world_from_bev),
        scores=found.scores.numpy(),
        labels=found.labels.numpy(),
        frame_id="world",
        stamp=sample.stamp,
    )


def _perfect_maps(targets: TaskTargets) -> TaskMaps:
    """Raw maps that say exactly what the targets of one sample say: a peak in the centre cell, its code below it."""
    _, _, nx, ny = targets.heatmap.shape
    codes = torch.zeros(nx * ny, targets.codes.shape[-1])
    held = targets.mask[0]
    # An unknown velocity is NaN; a network would say something.
    codes[targets.cells[0, held]] = targets.codes[0, held].nan_to_num()
    maps = codes.T.reshape(1, -1, nx, ny)
    heatmap = torch.where(targets.heatmap == 1, _LOGIT, -_LOGIT)
    reg, height, dim, rot, vel = maps.split((2, 1, 3, 2, 2), dim=1)
    return TaskMaps(reg=reg, height=height, dim=dim, rot=rot, vel=vel, heatmap=heatmap)
