"""The key frames on which a detector is most wrong, drawn with ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from crkd_core.data.frames import NuScenesFrames
from crkd_core.drawing.sheet import Caption, SheetOptions, draw_sheet
from crkd_core.drawing.style import Image
from crkd_core.geometry.transforms import inverse
from crkd_core.training.diagnosis import Mistakes, mistakes
from crkd_core.training.ground_truth import SampleTruth
from crkd_core.training.submission import ResultEntry, Results
from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections

MIN_SCORE = 0.3
"""Weaker boxes are neither drawn nor counted as wrong."""


def worst_samples(
    results: Results, truth: Mapping[str, SampleTruth], *, count: int, min_score: float = MIN_SCORE
) -> dict[str, Mistakes]:
    """The samples with most boxes missed and wrong, the worst first: of each scene one, then more of them."""
    found = mistakes(results, truth, min_score=min_score)
    ranked = sorted(found, key=lambda token: -(found[token].missed + found[token].wrong))
    first_of_scene = {truth[token].scene: token for token in reversed(ranked)}.values()
    ordered = [token for token in ranked if token in first_of_scene]
    ordered += [token for token in ranked if token not in first_of_scene]
    return {token: found[token] for token in ordered[:count]}


def error_sheets(
    frames: NuScenesFrames,
    results: Results,
    truth: Mapping[str, SampleTruth],
    *,
    count: int,
    min_score: float = MIN_SCORE,
    width: int = 1280,
) -> Iterator[tuple[str, Image]]:
    """Caption and RGB picture of the ``worst_samples``.

    Args:
        frames: holds the samples.
        results: sample token -> result entries.
        truth: of the samples to choose from.
        count: how many.
        min_score: see ``MIN_SCORE``.
        width: of a picture, pixels.
    """
    place = {sample.token: i for i, sample in enumerate(frames.samples)}
    for token, wrong in worst_samples(results, truth, count=count, min_score=min_score).items():
        sample = truth[token]
        T_base_from_world = inverse(sample.T_world_from_base)
        words = f"{wrong.missed} missed, {wrong.wrong} wrong, {wrong.right} right at scores from {min_score:g}"
        caption = Caption(sample.scene or token, [words], footer=sample.description)
        picture = draw_sheet(
            frames[place[token]].frame,
            detections_of(results[token], stamp=sample.stamp).transformed(T_base_from_world, "base_link"),
            sample.detections().transformed(T_base_from_world, "base_link"),
            caption,
            SheetOptions(width=width, min_score=min_score),
        )
        yield f"{sample.scene} {token}: {words}", picture


def detections_of(entries: list[ResultEntry], *, stamp: int) -> Detections:
    """Result entries of one sample as detections in the world frame."""
    boxes = Boxes3D.empty()
    if entries:
        names = ("translation", "size", "rotation", "velocity")
        boxes = Boxes3D.from_nuscenes(*(np.array([entry[name] for entry in entries]) for name in names))
    return Detections(
        boxes,
        np.array([entry["detection_score"] for entry in entries]),
        np.array([DETECTION_CLASSES.index(entry["detection_name"]) for entry in entries], dtype=np.int64),
        frame_id="world",
        stamp=stamp,
    )
