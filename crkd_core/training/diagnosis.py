"""Names the usual mistakes of convention behind poor figures: each has a signature that vanishes once it is undone.

For every candidate mistake the found boxes are corrected and compared again; a correction that removes most of a large
error is reported. Nothing here changes the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY
from crkd_core.training.ground_truth import SampleTruth
from crkd_core.training.submission import CLASS_RANGE, Results
from crkd_core.types import DETECTION_CLASSES, Boxes3D, FloatArray, wrapped

MATCH_DISTANCE = 2.0
"""Greatest distance of a match, m; the metric's for its true-positive errors."""
MIN_PAIRS = 10
"""Fewer matches say nothing about a convention."""
MOVING = 1.0
"""Speed from which a box tells about velocities, m/s."""
DECISIVE = 0.5
"""A correction is named when it leaves at most this share of the error; a class, when it goes wrong more often."""
STANDING = 0.25
"""A moving box that is given less than this share of its speed is taken for a standing one."""


@dataclass(frozen=True)
class Matched:
    """Matches within 2 m, and what is needed to tell why there are few.

    Attributes:
        truth: (M) matched ground truth, world frame.
        found: (M) the prediction of each.
        labels: (M,) int64.
        ego_yaws: (M,) heading of the vehicle in the world, rad.
        centers: per sample, world xy of true and of found boxes, and the vehicle's pose.
    """

    truth: Boxes3D
    found: Boxes3D
    labels: NDArray[np.int64]
    ego_yaws: FloatArray
    centers: tuple[tuple[FloatArray, FloatArray, FloatArray], ...]


def matched(
    truth: Mapping[str, Sequence[Any]], found: Mapping[str, Sequence[Any]], samples: Mapping[str, SampleTruth]
) -> Matched:
    """Match predictions to ground truth of their class, best score first, each to the nearest free box within 2 m.

    Args:
        truth: token -> devkit ``DetectionBox`` objects.
        found: likewise, with scores.
        samples: token -> vehicle pose.
    """
    pairs: list[tuple[Any, Any, float]] = []
    centers = []
    for token, sample in samples.items():
        true_boxes, found_boxes = list(truth.get(token, ())), list(found.get(token, ()))
        T = sample.T_world_from_base
        yaw = float(np.arctan2(T[1, 0], T[0, 0]))
        pairs += [(a, b, yaw) for a, b in _pairs(true_boxes, found_boxes)]
        centers.append((_xy(true_boxes), _xy(found_boxes), T))
    return Matched(
        truth=_boxes([a for a, _, _ in pairs]),
        found=_boxes([b for _, b, _ in pairs]),
        labels=np.array([DETECTION_CLASSES.index(a.detection_name) for a, _, _ in pairs], dtype=np.int64),
        ego_yaws=np.array([yaw for _, _, yaw in pairs]),
        centers=tuple(centers),
    )


def match_errors(results: Results, truth: Mapping[str, SampleTruth]) -> dict[str, tuple[float, ...]]:
    """Errors of all matches of the ten classes, whatever their range: the metric's, before it averages.

    Returns:
        ``distance`` of the centres in the plane (m), ``scale`` (1 - IoU of sizes), ``heading`` (rad, 0 to pi) and
        ``velocity`` (m/s; only where both are known) -> a value for every match; empty without any.
    """
    a = matched(_true_by_sample(truth), _found_by_sample(results), truth)
    if not len(a.truth):
        return {}
    sizes = np.minimum(a.truth.sizes, a.found.sizes).prod(axis=1)
    union = a.truth.sizes.prod(axis=1) + a.found.sizes.prod(axis=1) - sizes
    speeds = np.linalg.norm(a.found.velocities - a.truth.velocities, axis=1)
    errors = {
        "distance": np.linalg.norm((a.found.centers - a.truth.centers)[:, :2], axis=1),
        "scale": 1 - sizes / union,
        "heading": np.abs(wrapped(a.found.yaws - a.truth.yaws)),
        "velocity": speeds[np.isfinite(speeds)],
    }
    return {name: tuple(np.round(values, 6).tolist()) for name, values in errors.items()}


@dataclass(frozen=True)
class Mistakes:
    """What is wrong in one sample.

    Attributes:
        missed: boxes of ground truth, with a return inside and in class range, that no prediction matches.
        wrong: predictions in class range that match nothing.
        right: matches.
    """

    missed: int
    wrong: int
    right: int


def mistakes(results: Results, truth: Mapping[str, SampleTruth], *, min_score: float) -> dict[str, Mistakes]:
    """Sample token -> what is wrong in it; predictions that score less than ``min_score`` do not count."""
    true, found, out = _true_by_sample(truth), _found_by_sample(results), {}
    for token, sample in truth.items():
        here = [box for box in true[token] if box.num_points > 0 and _in_range(box, sample)]
        there = [box for box in found[token] if box.detection_score >= min_score and _in_range(box, sample)]
        right = len(_pairs(here, there))
        out[token] = Mistakes(len(here) - right, len(there) - right, right)
    return out


def _true_by_sample(truth: Mapping[str, SampleTruth]) -> dict[str, list[Any]]:
    return {
        token: [
            SimpleNamespace(
                detection_name=CLASS_OF_CATEGORY[box.category],
                translation=box.translation,
                size=box.size,
                rotation=box.rotation,
                velocity=box.velocity,
                num_points=box.num_points,
            )
            for box in sample.boxes
            if box.category in CLASS_OF_CATEGORY
        ]
        for token, sample in truth.items()
    }


def _found_by_sample(results: Results) -> dict[str, list[Any]]:
    return {token: [SimpleNamespace(**entry) for entry in entries] for token, entries in results.items()}


def _in_range(box: Any, sample: SampleTruth) -> bool:
    x, y = np.array(box.translation[:2]) - sample.T_world_from_base[:2, 3]
    return bool(np.hypot(x, y) <= CLASS_RANGE[box.detection_name])


def diagnosis(matches: Matched) -> tuple[str, ...]:
    """One sentence for each mistake whose signature shows; empty when there is none, or too little to tell."""
    hints = _frame_hints(matches.centers)
    if len(matches.truth) >= MIN_PAIRS:
        hints += _center_hints(matches) + _size_hints(matches) + _yaw_hints(matches) + _velocity_hints(matches)
    return tuple(hints)


def _pairs(truth: list[Any], found: list[Any]) -> list[tuple[Any, Any]]:
    pairs = []
    free = dict(enumerate(truth))
    for box in sorted(found, key=lambda b: -b.detection_score):
        near = [
            (float(np.hypot(t.translation[0] - box.translation[0], t.translation[1] - box.translation[1])), i)
            for i, t in free.items()
            if t.detection_name == box.detection_name
        ]
        if near and min(near)[0] < MATCH_DISTANCE:
            pairs.append((free.pop(min(near)[1]), box))
    return pairs


def _xy(boxes: list[Any]) -> FloatArray:
    return np.array([b.translation[:2] for b in boxes], dtype=np.float64).reshape(-1, 2)


def _boxes(boxes: list[Any]) -> Boxes3D:
    if not boxes:
        return Boxes3D.empty()
    return Boxes3D.from_nuscenes(
        [b.translation for b in boxes],
        [b.size for b in boxes],
        [b.rotation for b in boxes],
        [b.velocity for b in boxes],
    )


def _turned(xy: FloatArray, yaw: float | FloatArray) -> FloatArray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([c * xy[:, 0] - s * xy[:, 1], s * xy[:, 0] + c * xy[:, 1]], axis=1)


# ------------------------------------------------------------------------------------------------- where the boxes are


_TURNS: dict[str, Callable[[FloatArray], FloatArray]] = {  # mistake -> its undoing in the vehicle's frame
    "are turned by 90 degrees about the vehicle (LIDAR_TOP, y forward, taken for base_link, x forward?)": (
        lambda local: _turned(local, -np.pi / 2)
    ),
    "are turned by -90 degrees about the vehicle (base_link, x forward, taken for LIDAR_TOP, y forward?)": (
        lambda local: _turned(local, np.pi / 2)
    ),
    "lie behind instead of ahead of the vehicle": lambda local: -local,
    "are mirrored left-right": lambda local: local * (1, -1),
    "have x and y exchanged (transposed BEV map?)": lambda local: local[:, ::-1],
}


def _frame_hints(centers: tuple[tuple[FloatArray, FloatArray, FloatArray], ...]) -> list[str]:
    """Hardly anything matches: does it in another frame?"""
    if min(sum(len(found) for _, found, _ in centers), sum(len(true) for true, _, _ in centers)) < MIN_PAIRS:
        return []
    shares = {
        words: _recall([(true, _world(undo(_local(found, T)), T)) for true, found, T in centers])
        for words, undo in _TURNS.items()
    }
    shares["are in the vehicle frame instead of the world frame"] = _recall(
        [(true, _world(found, T)) for true, found, T in centers]
    )
    now = _recall([(true, found) for true, found, _ in centers])
    words = max(shares, key=lambda k: shares[k])
    if shares[words] <= max(0.3, 3 * now):
        return []
    return [f"centres {words}: {now:.0%} of the ground truth has a box within 2 m, {shares[words]:.0%} once undone"]


def _recall(samples: list[tuple[FloatArray, FloatArray]]) -> float:
    """Share of true centres (first) that have a found centre (second) of any class within 2 m."""
    near = 0
    for true, found in samples:
        if len(true) and len(found):
            distances = np.asarray(cKDTree(found).query(true)[0])
            near += int(np.count_nonzero(distances < MATCH_DISTANCE))
    return near / sum(len(true) for true, _ in samples)


def _local(xy: FloatArray, T_world_from_base: FloatArray) -> FloatArray:
    local: FloatArray = (xy - T_world_from_base[:2, 3]) @ T_world_from_base[:2, :2]
    return local


def _world(xy: FloatArray, T_world_from_base: FloatArray) -> FloatArray:
    world: FloatArray = xy @ T_world_from_base[:2, :2].T + T_world_from_base[:2, 3]
    return world


def _center_hints(m: Matched) -> list[str]:
    hints = []
    offset = m.found.centers - m.truth.centers
    relative = np.median(offset[:, 2] / m.truth.sizes[:, 2])
    if abs(abs(relative) - 0.5) < 0.1:
        side = "below" if relative < 0 else "above"
        hints.append(
            f"centres lie half a box height {side} the truth (bottom centre taken for geometric centre?); "
            "the metric does not see z, a robot does"
        )
    local = np.median(_turned(offset[:, :2], -m.ego_yaws), axis=0).round(2) + 0.0  # no -0.00
    spread = np.median(np.abs(_turned(offset[:, :2], -m.ego_yaws) - local), axis=0)
    if np.linalg.norm(local) > 0.3 and np.linalg.norm(local) > 2 * np.linalg.norm(spread):
        hints.append(
            f"centres are shifted by a constant ({local[0]:.2f}, {local[1]:.2f}) m (forward, left) "
            "(a sensor's mounting offset left out?)"
        )
    speed = np.linalg.norm(np.nan_to_num(m.truth.velocities), axis=1)
    moving = speed > MOVING
    if moving.sum() >= MIN_PAIRS:
        along = (offset[moving, :2] * m.truth.velocities[moving]).sum(axis=1) / speed[moving] ** 2
        lag = float(np.median(along))
        if abs(lag) > 0.05 and np.median(np.abs(along - lag)) < 0.5 * abs(lag):
            word = "behind" if lag < 0 else "ahead of"
            hints.append(f"moving boxes are {abs(lag) * 1e3:.0f} ms {word} the truth (stamps or latency?)")
    return hints


# -------------------------------------------------------------------------------------------- size, heading, velocity


def _size_hints(m: Matched) -> list[str]:
    def error(sizes: FloatArray) -> float:
        intersection = np.minimum(sizes, m.truth.sizes).prod(axis=1)
        return float(np.mean(1 - intersection / (sizes.prod(axis=1) + m.truth.sizes.prod(axis=1) - intersection)))

    candidates = {
        "width and length are exchanged": m.found.sizes[:, [1, 0, 2]],
        "width and height are exchanged": m.found.sizes[:, [0, 2, 1]],
        "length and height are exchanged": m.found.sizes[:, [2, 1, 0]],
        "sizes are in log metres (exp left out)": np.exp(np.clip(m.found.sizes, -5, 5)),
        "sizes are half extents": 2 * m.found.sizes,
    }
    return _best("scale error", error(m.found.sizes), {k: error(v) for k, v in candidates.items()}, least=0.25)


def _yaw_hints(m: Matched) -> list[str]:
    elongated = np.array([name not in ("traffic_cone", "barrier") for name in DETECTION_CLASSES])[m.labels]
    if elongated.sum() < MIN_PAIRS:
        return []

    def error(yaws: FloatArray) -> float:
        return float(np.mean(np.abs(wrapped(yaws - m.truth.yaws))[elongated]))

    yaws = m.found.yaws
    candidates = {
        "headings are 90 degrees too far counter-clockwise": yaws - np.pi / 2,
        "headings are 90 degrees too far clockwise": yaws + np.pi / 2,
        "headings are flipped by 180 degrees": yaws + np.pi,
        "headings are counted clockwise instead of counter-clockwise": 2 * m.ego_yaws - yaws,
        "headings are -(yaw + 90 degrees), the original code's rotation angle": (
            m.ego_yaws - (yaws - m.ego_yaws) - np.pi / 2
        ),
        "headings are in the vehicle frame instead of the world frame": yaws + m.ego_yaws,
        "the vehicle's heading is added to the boxes' twice": yaws - m.ego_yaws,
    }
    hints = _best("heading error", error(yaws), {k: error(v) for k, v in candidates.items()}, least=0.6)
    flipped = np.abs(wrapped(yaws - m.truth.yaws))[elongated] > 3 * np.pi / 4
    if not hints and flipped.mean() > 0.25:
        hints.append(f"{flipped.mean():.0%} of the headings point backwards: front and rear are not told apart")
    return hints


def _velocity_hints(m: Matched) -> list[str]:
    known = np.isfinite(m.truth.velocities).all(axis=1)
    moving = known & (np.linalg.norm(np.nan_to_num(m.truth.velocities), axis=1) > MOVING)
    if moving.sum() < MIN_PAIRS:
        return []
    true, found, ego = m.truth.velocities[moving], m.found.velocities[moving], m.ego_yaws[moving]
    found = np.nan_to_num(found)
    if np.linalg.norm(found, axis=1).max() < 0.05:
        speed = np.linalg.norm(true, axis=1).mean()
        return [f"velocities are missing (all zero, while matched ground truth moves at {speed:.1f} m/s on average)"]

    def error(velocities: FloatArray) -> float:
        return float(np.mean(np.linalg.norm(velocities - true, axis=1)))

    candidates = {
        "velocities are reversed": -found,
        "velocities are turned by 90 degrees": _turned(found, -np.pi / 2),
        "velocities are turned by -90 degrees": _turned(found, np.pi / 2),
        "velocities are in the vehicle frame instead of the world frame": _turned(found, ego),
        "velocities are in LIDAR_TOP (y forward) instead of the world frame": _turned(found, ego - np.pi / 2),
        "velocities are turned by the vehicle's heading twice": _turned(found, -ego),
        "velocities are metres per key-frame interval instead of m/s": 2 * found,
    }
    hints = _best("velocity error", error(found), {k: error(v) for k, v in candidates.items()}, least=0.5)
    return hints + _standing_hints(true, found, m.labels[moving])


def _standing_hints(true: FloatArray, found: FloatArray, labels: NDArray[np.int64]) -> list[str]:
    """Classes that are not known to move; the metric's mean over mostly standing objects hides it."""
    standing = np.linalg.norm(found, axis=1) < STANDING * np.linalg.norm(true, axis=1)
    shares = {
        name: standing[labels == label].mean()
        for label, name in enumerate(DETECTION_CLASSES)
        if (labels == label).sum() >= MIN_PAIRS
    }
    unknown = ", ".join(f"{share:.0%} of {name}" for name, share in shares.items() if share > DECISIVE)
    if not unknown:
        return []
    advice = "as a teacher it hands that on, see distillation.response.velocity_weight"
    return [f"moving objects are given less than {STANDING:.0%} of their speed: {unknown} ({advice})"]


def _best(figure: str, error: float, corrected: dict[str, float], *, least: float) -> list[str]:
    words = min(corrected, key=lambda k: corrected[k])
    if error < least or corrected[words] > DECISIVE * error:
        return []
    return [f"{words}: {figure} of the matches {error:.2f}, {corrected[words]:.2f} once undone"]
