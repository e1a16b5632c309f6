"""Detections as nuScenes result entries, and the submission file of the official server."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.cli import UserError
from crkd_core.config import Recipe
from crkd_core.types import DETECTION_CLASSES, Detections

ResultEntry = dict[str, Any]
"""One box of a nuScenes result file."""
Results = Mapping[str, list[ResultEntry]]
"""Sample token -> its boxes."""

CLASS_RANGE: dict[str, float] = {
    "car": 50.0,
    "truck": 50.0,
    "construction_vehicle": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "barrier": 30.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "pedestrian": 40.0,
    "traffic_cone": 30.0,
}
"""Greatest distance from the vehicle at which the metric counts a class, m."""
MAX_BOXES_PER_SAMPLE = 500
MOVING_SPEED = 0.2
"""A faster box gets the moving attribute of its class, m/s."""

_ATTRIBUTES: dict[str, tuple[str, str]] = {  # class -> (moving, still)
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "barrier": ("", ""),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "traffic_cone": ("", ""),
}


class SubmissionError(UserError):
    """Results that the benchmark would not accept."""


def write_results(path: Path, results: Results, recipe: Recipe) -> None:
    """What a detector of this recipe has found, as ``write_submission``; nothing if that is no box at all."""
    if any(results.values()):  # the official format wants at least one
        write_submission(path, results, tokens=list(results), **used_sensors(recipe))


def used_sensors(recipe: Recipe) -> dict[str, bool]:
    """The result file's flags of what a detector of this recipe reads."""
    return {
        "use_camera": recipe.model.camera is not None,
        "use_radar": recipe.model.radar is not None,
        "use_lidar": recipe.model.lidar is not None,
    }


def attribute_of(class_name: str, speed: float) -> str:
    """The attribute a box gets from its class and speed (m/s); "" for classes without attributes."""
    moving, still = _ATTRIBUTES[class_name]
    return moving if speed > MOVING_SPEED else still


def within_class_range(detections: Detections) -> NDArray[np.bool_]:
    """(N,) mask of the boxes in class range; ``detections`` in ``base_link``. The metric drops the others itself."""
    limits = np.array([CLASS_RANGE[name] for name in DETECTION_CLASSES])[detections.labels]
    return np.asarray(np.linalg.norm(detections.boxes.centers[:, :2], axis=1) <= limits)


def results_entry(detections: Detections, sample_token: str) -> list[ResultEntry]:
    """Detections of one sample as result entries.

    Args:
        detections: in the WORLD frame (nuScenes ``global``); an unknown velocity (NaN) is written as 0.
        sample_token: the sample they belong to.
    """
    translations, sizes, rotations, velocities = detections.boxes.to_nuscenes()
    velocities = np.nan_to_num(velocities)
    speeds = np.linalg.norm(velocities, axis=1)
    return [
        {
            "sample_token": sample_token,
            "translation": translations[i].tolist(),
            "size": sizes[i].tolist(),
            "rotation": rotations[i].tolist(),
            "velocity": velocities[i].tolist(),
            "detection_name": name,
            "detection_score": float(detections.scores[i]),
            "attribute_name": attribute_of(name, float(speeds[i])),
        }
        for i, name in enumerate(detections.class_names)
    ]


def write_submission(
    path: Path,
    results: Results,
    *,
    tokens: Collection[str],
    use_camera: bool,
    use_radar: bool,
    use_lidar: bool,
    use_map: bool = False,
    use_external: bool = False,
) -> None:
    """Write a result file for the official server or the devkit; it appears under its name when it is whole.

    Args:
        path: JSON file to write.
        results: an entry, if only an empty one, for every sample of the split.
        tokens: the sample tokens of the split.
        use_camera: what the detector used at test time; likewise the other flags.
        use_radar: see ``use_camera``.
        use_lidar: see ``use_camera``.
        use_map: see ``use_camera``.
        use_external: whether external data were used for training.

    Raises:
        SubmissionError: samples missing or foreign, more than 500 boxes in one, or no box at all.
    """
    check_samples(results, tokens, exact=True)
    if not any(results.values()):
        raise SubmissionError(f"{path}: not one box in {len(results)} samples; the metric needs at least one")
    meta = {
        "use_camera": use_camera,
        "use_lidar": use_lidar,
        "use_radar": use_radar,
        "use_map": use_map,
        "use_external": use_external,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"meta": meta, "results": dict(results)})


def write_json(path: Path, content: object, *, indent: int | None = None) -> None:
    """Write a JSON file; it appears under its name when it is whole."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=indent) + "\n")
    partial.replace(path)


def read_submission(path: Path) -> tuple[dict[str, bool], dict[str, list[ResultEntry]]]:
    """The meta flags and the results of a nuScenes result file.

    Raises:
        SubmissionError: no such file, not JSON, or without ``meta`` and ``results``.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise SubmissionError(f"{path}: no such result file") from None
    except ValueError as error:
        raise SubmissionError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise SubmissionError(f"{path}: expected an object with 'meta' and 'results' (sample token -> boxes)")
    return content.get("meta", {}), content["results"]


def check_samples(results: Results, tokens: Collection[str], *, exact: bool) -> None:
    """Make sure that every sample has an entry of at most 500 boxes (and, if ``exact``, that there is no other sample).

    Raises:
        SubmissionError: otherwise.
    """
    missing = [token for token in tokens if token not in results]
    if missing:
        raise SubmissionError(
            f"results: {len(missing)} of {len(tokens)} samples have no entry (first: {missing[0]}); "
            "give a sample without detections an empty list"
        )
    foreign = results.keys() - set(tokens)
    if exact and foreign:
        raise SubmissionError(f"results: {len(foreign)} samples are not of the split (one: {min(foreign)})")
    for token in tokens:
        if len(results[token]) > MAX_BOXES_PER_SAMPLE:
            raise SubmissionError(
                f"results: sample {token}: expected at most {MAX_BOXES_PER_SAMPLE} boxes, got {len(results[token])}"
            )
