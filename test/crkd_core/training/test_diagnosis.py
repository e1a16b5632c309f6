"""Every mistake of convention is made on purpose, and must be the one that is named."""

from collections.abc import Callable

import numpy as np
import pytest
from truths import changed, drive, entries, perfect

from crkd_core.geometry.transforms import inverse
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth
from crkd_core.types import Detections

pytest.importorskip("nuscenes")

TRUTH = drive(samples=5, cars=12)
Mistake = Callable[[Detections, SampleTruth], Detections]


def turned(xy: np.ndarray, yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return xy @ np.array([[c, s], [-s, c]])


def heading(sample: SampleTruth) -> float:
    return float(np.arctan2(sample.T_world_from_base[1, 0], sample.T_world_from_base[0, 0]))


def seen_from_vehicle(change: Callable[[np.ndarray], np.ndarray]) -> Mistake:
    """A mistake about the xy coordinates in the vehicle's frame."""

    def mistake(found: Detections, sample: SampleTruth) -> Detections:
        local = found.transformed(inverse(sample.T_world_from_base), "base_link")
        centers = local.boxes.centers.copy()
        centers[:, :2] = change(centers[:, :2])
        return changed(local, centers=centers).transformed(sample.T_world_from_base, "world")

    return mistake


MISTAKES: list[tuple[str, Mistake]] = [
    ("90 degrees too far counter-clockwise", lambda d, _: changed(d, yaws=d.boxes.yaws + np.pi / 2)),
    ("90 degrees too far clockwise", lambda d, _: changed(d, yaws=d.boxes.yaws - np.pi / 2)),
    ("flipped by 180 degrees", lambda d, _: changed(d, yaws=d.boxes.yaws + np.pi)),
    ("counted clockwise", lambda d, s: changed(d, yaws=2 * heading(s) - d.boxes.yaws)),
    ("headings are in the vehicle frame", lambda d, s: changed(d, yaws=d.boxes.yaws - heading(s))),
    ("width and length are exchanged", lambda d, _: changed(d, sizes=d.boxes.sizes[:, [1, 0, 2]])),
    ("sizes are in log metres", lambda d, _: changed(d, sizes=np.log(d.boxes.sizes))),
    ("sizes are half extents", lambda d, _: changed(d, sizes=d.boxes.sizes / 2)),
    ("velocities are missing", lambda d, _: changed(d, velocities=np.zeros((len(d), 2)))),
    ("velocities are reversed", lambda d, _: changed(d, velocities=-d.boxes.velocities)),
    (
        "velocities are in the vehicle frame",
        lambda d, s: changed(d, velocities=turned(d.boxes.velocities, -heading(s))),
    ),
    ("half a box height below", lambda d, _: changed(d, centers=d.boxes.centers - d.boxes.sizes * [0, 0, 0.5])),
    ("shifted by a constant (0.94, 0.00)", seen_from_vehicle(lambda xy: xy + np.array([0.94, 0.0]))),
    ("100 ms behind the truth", lambda d, _: changed(d, centers=d.boxes.moved(-0.1).centers)),
    ("turned by 90 degrees about the vehicle", seen_from_vehicle(lambda xy: turned(xy, np.pi / 2))),
    ("mirrored left-right", seen_from_vehicle(lambda xy: xy * [1, -1])),
    ("x and y exchanged", seen_from_vehicle(lambda xy: xy[:, ::-1])),
    (
        "centres are in the vehicle frame",
        lambda d, s: changed(d, centers=d.transformed(inverse(s.T_world_from_base), "base_link").boxes.centers),
    ),
]


@pytest.mark.parametrize(("words", "mistake"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_named(words: str, mistake: Mistake):
    found = {token: mistake(detections, TRUTH[token]) for token, detections in perfect(TRUTH).items()}
    hints = evaluate(entries(found), TRUTH).hints
    assert len(hints) == 1
    assert words in hints[0]


def test_ordinary_errors_are_no_mistake_of_convention():
    rng = np.random.default_rng(1)

    def noisy(d: Detections) -> Detections:
        n = len(d)
        return changed(
            d,
            centers=d.boxes.centers + rng.normal(0, 0.4, (n, 3)),
            yaws=d.boxes.yaws + rng.normal(0, 0.3, n),
            sizes=d.boxes.sizes * rng.normal(1, 0.1, (n, 3)),
            velocities=d.boxes.velocities + rng.normal(0, 0.8, (n, 2)),
        )

    found = {token: noisy(detections) for token, detections in perfect(TRUTH).items()}
    assert evaluate(entries(found), TRUTH).hints == ()


def test_classes_whose_motion_is_not_known_are_named():
    def half_known(d: Detections) -> Detections:
        slow = np.arange(len(d))[:, None] % 3 > 0
        return changed(d, velocities=np.where(slow, 0.2, 1.0) * d.boxes.velocities)

    found = {token: half_known(detections) for token, detections in perfect(TRUTH).items()}
    (hint,) = evaluate(entries(found), TRUTH).hints
    assert hint.startswith("moving objects are given less than 25% of their speed: 67% of car (")


def test_a_few_matches_say_nothing():
    truth = drive(samples=1, cars=5)
    found = {token: changed(d, yaws=d.boxes.yaws + np.pi) for token, d in perfect(truth).items()}
    assert evaluate(entries(found), truth).hints == ()


def test_heading_that_is_flipped_for_some_boxes_is_told_apart_from_a_convention():
    def some_flipped(d: Detections) -> Detections:
        return changed(d, yaws=d.boxes.yaws + np.pi * (np.arange(len(d)) % 2))

    found = {token: some_flipped(d) for token, d in perfect(TRUTH).items()}
    (hint,) = evaluate(entries(found), TRUTH).hints
    assert hint == "50% of the headings point backwards: front and rear are not told apart"
