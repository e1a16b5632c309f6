"""The official metric by parts: drives of one condition, or objects of one band of distance."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from tqdm import tqdm

from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth
from crkd_core.training.metrics import Metrics
from crkd_core.training.submission import ResultEntry, Results

Grouping = Literal["condition", "range"]
GROUPINGS: tuple[Grouping, ...] = ("condition", "range")

CONDITIONS = ("night", "dusk", "low sun", "rain", "fog")
"""Looked for, as whole words, in the description of a scene; a drive may have several."""
PLAIN_DAY = "plain day"
"""The condition of a drive whose description names none of ``CONDITIONS``."""
BANDS = ((0.0, 20.0), (20.0, 35.0), (35.0, 50.0))
"""Distances of an object's centre from the vehicle in the plane, m: from the first to below the second."""


def conditions_of(description: str) -> tuple[str, ...]:
    """The conditions that the description of a scene names, as nuScenes and SynthScenes word it."""
    found = tuple(word for word in CONDITIONS if re.search(rf"\b{word}\b", description, re.IGNORECASE))
    return found or (PLAIN_DAY,)


def evaluate_groups(
    results: Results, ground_truth: Mapping[str, SampleTruth], by: Collection[Grouping], *, progress: bool = False
) -> dict[str, Metrics]:
    """Score parts of a result, each as ``evaluate`` scores the whole.

    By condition, the samples are divided. By range, ground truth and predictions of every sample are: an object found
    on the other side of a border between two bands is missed in one and wrong in the other, so that the bands together
    score a little less than the whole. A class that a group has no ground truth of is absent from ``Metrics.present``.

    Args:
        results: sample token -> result entries that ``evaluate`` accepts.
        ground_truth: the samples to score.
        by: what to divide by.
        progress: show a progress bar.

    Returns:
        Name of the group -> its evaluation; conditions that no sample has are left out.

    Raises:
        MissingExtraError: nuscenes-devkit is not installed.
    """
    parts = list(_parts(results, ground_truth, by))
    return {
        name: evaluate(some_results, some_truth)
        for name, some_results, some_truth in tqdm(parts, desc="groups", disable=not progress)
    }


def _parts(
    results: Results, ground_truth: Mapping[str, SampleTruth], by: Collection[Grouping]
) -> Iterator[tuple[str, Results, dict[str, SampleTruth]]]:
    if "condition" in by:
        for condition in (PLAIN_DAY, *CONDITIONS):
            chosen = {t: s for t, s in ground_truth.items() if condition in conditions_of(s.description)}
            if chosen:
                yield condition, results, chosen
    if "range" in by:
        for band in BANDS:
            # In the order of the results, which decides between equal scores.
            entries = {t: _entries_within(results[t], ground_truth[t], band) for t in results if t in ground_truth}
            yield f"{band[0]:g}-{band[1]:g} m", entries, {t: _within(s, band) for t, s in ground_truth.items()}


def _within(sample: SampleTruth, band: tuple[float, float]) -> SampleTruth:
    """The sample with the objects in the band; bicycle racks, in which the metric ignores bicycles, stay."""
    boxes = [b for b in sample.boxes if b.category not in CLASS_OF_CATEGORY or _is_in(b.translation, sample, band)]
    return replace(sample, boxes=tuple(boxes))


def _entries_within(entries: list[ResultEntry], sample: SampleTruth, band: tuple[float, float]) -> list[ResultEntry]:
    return [entry for entry in entries if _is_in(entry["translation"], sample, band)]


def _is_in(translation: Collection[float], sample: SampleTruth, band: tuple[float, float]) -> bool:
    x, y, _ = translation
    vehicle_x, vehicle_y, _ = sample.T_world_from_base[:3, 3]
    return bool(band[0] <= np.hypot(x - vehicle_x, y - vehicle_y) < band[1])
