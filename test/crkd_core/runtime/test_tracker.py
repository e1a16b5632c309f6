"""Objects keep their numbers from frame to frame."""

from __future__ import annotations

import numpy as np
import pytest

from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.runtime.tracker import MAX_DISTANCES, Tracker, TrackerConfig
from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections, FloatArray

SECOND = 1_000_000_000
CAR, MOTORCYCLE, PEDESTRIAN = (DETECTION_CLASSES.index(name) for name in ("car", "motorcycle", "pedestrian"))
HERE = np.eye(4)


def tracker(*, max_age: float = 0.5) -> Tracker:
    reach = np.array([MAX_DISTANCES[name] for name in DETECTION_CLASSES])
    return Tracker(TrackerConfig(reach, round(max_age * SECOND)))


def seen(
    seconds: float,
    *objects: tuple[float, float, float, float],
    labels: list[int] | None = None,
    scores: list[float] | None = None,
) -> Detections:
    """Detections of objects (x, y, vx, vy); cars unless said otherwise."""
    rows = np.array(objects, dtype=np.float64).reshape(-1, 4)
    n = len(rows)
    boxes = Boxes3D(np.column_stack([rows[:, :2], np.zeros(n)]), np.ones((n, 3)), np.zeros(n), rows[:, 2:])
    return Detections(
        boxes,
        np.array(scores if scores is not None else [0.5] * n),
        np.array(labels if labels is not None else [CAR] * n, dtype=np.int64),
        "base_link",
        round(seconds * SECOND),
    )


def test_objects_that_cross_keep_their_numbers_whatever_the_order_of_the_detections():
    follow, rng = tracker(), np.random.default_rng(0)
    for frame in range(40):
        t = frame / 12
        # Two cars on lanes 2 m apart pass each other at 30 m/s, and meet in frame 20.
        cars = [(20 * (t - 20 / 12), 0.0, 20.0, 0.0), (-10 * (t - 20 / 12), 2.0, -10.0, 0.0)]
        order = rng.permutation(2)
        ids = follow.update(seen(t, *(cars[i] for i in order)), HERE)
        assert [ids[list(order).index(i)] for i in range(2)] == [1, 2]


def test_a_detections_velocity_decides_which_of_two_objects_it_is():
    # They have changed places: the nearest object is the wrong one.
    follow = tracker()
    follow.update(seen(0.0, (0.0, 0.0, 0.0, 0.0), (2.5, 0.0, 0.0, 0.0)), HERE)
    assert follow.update(seen(0.1, (2.5, 0.0, 25.0, 0.0), (0.0, 0.0, -25.0, 0.0)), HERE) == (1, 2)
    assert follow.update(seen(0.2, (2.5, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)), HERE) == (1, 2)


def test_an_object_that_is_missed_moves_on_and_is_known_again_until_it_is_too_old():
    follow = tracker(max_age=0.5)
    assert follow.update(seen(0.0, (0.0, 0.0, 20.0, 0.0)), HERE) == (1,)
    for frame in range(1, 5):
        assert follow.update(seen(0.1 * frame), HERE) == ()
    assert follow.update(seen(0.5, (10.0, 0.0, 20.0, 0.0)), HERE) == (1,)
    assert follow.update(seen(1.01, (20.2, 0.0, 20.0, 0.0)), HERE) == (2,)


@pytest.mark.parametrize("name", DETECTION_CLASSES)
def test_how_far_an_object_may_be_from_where_it_is_expected_depends_on_its_class(name: str):
    label, reach = [DETECTION_CLASSES.index(name)], MAX_DISTANCES[name]
    for distance, expected in ((0.99 * reach, 1), (1.01 * reach, 2)):
        follow = tracker()
        follow.update(seen(0.0, (0.0, 0.0, 0.0, 0.0), labels=label), HERE)
        assert follow.update(seen(0.1, (distance, 0.0, 0.0, 0.0), labels=label), HERE) == (expected,)


def test_an_object_does_not_become_one_of_another_class():
    follow = tracker()
    follow.update(seen(0.0, (0.0, 0.0, 0.0, 0.0)), HERE)
    found = seen(0.1, (0.0, 0.0, 0.0, 0.0), (0.5, 0.0, 0.0, 0.0), labels=[MOTORCYCLE, CAR])
    assert follow.update(found, HERE) == (2, 1)


def test_the_surer_detection_chooses_first():
    follow = tracker()
    follow.update(seen(0.0, (0.0, 0.0, 0.0, 0.0)), HERE)
    found = seen(0.1, (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), scores=[0.3, 0.9])
    assert follow.update(found, HERE) == (2, 1)


def test_the_vehicles_own_motion_does_not_count():
    # A person stands still while the vehicle drives past at 20 m/s and turns: 1.7 m a frame in its own frame.
    follow = tracker()
    for frame in range(12):
        T = transform(yaw_rotation(0.1 * frame), [20 * frame / 12, 0.0, 0.0])
        x, y = (np.linalg.inv(T) @ [10.0, 3.0, 0.0, 1.0])[:2]
        assert follow.update(seen(frame / 12, (x, y, 0.0, 0.0), labels=[PEDESTRIAN]), T) == (1,)


def test_unknown_velocities_count_as_standing_still():
    follow, nan = tracker(), float("nan")
    for frame in range(3):
        assert follow.update(seen(0.1 * frame, (1.0, 2.0, nan, nan)), HERE) == (1,)


def test_when_time_jumps_back_everything_is_forgotten_and_no_number_is_used_again():
    follow = tracker()
    follow.update(seen(100.0, (0.0, 0.0, 0.0, 0.0), (9.0, 0.0, 0.0, 0.0)), HERE)
    assert follow.update(seen(99.9, (0.0, 0.0, 0.0, 0.0)), HERE) == (3,)
    assert follow.update(seen(100.0, (0.0, 0.0, 0.0, 0.0)), HERE) == (3,)


def test_what_is_held_is_bounded():
    follow, rng = tracker(max_age=0.5), np.random.default_rng(0)
    for frame in range(60):
        objects: list[FloatArray] = list(np.column_stack([rng.uniform(-1e4, 1e4, (50, 2)), np.zeros((50, 2))]))
        follow.update(seen(frame / 10, *(tuple(row) for row in objects)), HERE)
    assert 50 <= len(follow._objects.ids) <= 6 * 50
