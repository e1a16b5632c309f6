"""Parts of a result score by themselves what they score alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from truths import changed, drive, entries, perfect, truth_box

from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth
from crkd_core.training.groups import BANDS, conditions_of, evaluate_groups
from crkd_core.training.report import groups_table

NAMES = ["0-20 m", "20-35 m", "35-50 m"]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Parked cars, train crossing, drainage", ("plain day",)),
        ("", ("plain day",)),
        ("Night, big street", ("night",)),
        ("After rain, peds", ("rain",)),
        ("Night, rain 8 mm/h", ("night", "rain")),
        ("Day, low sun", ("low sun",)),
        ("Dusk, fog, visibility 300 m", ("dusk", "fog")),
    ],
)
def test_conditions_are_whole_words_of_the_description(description: str, expected: tuple[str, ...]):
    assert conditions_of(description) == expected


def one_sample(*positions: tuple[float, float]) -> dict[str, SampleTruth]:
    pytest.importorskip("nuscenes")
    vehicle = np.eye(4)
    vehicle[:2, 3] = 100.0, -50.0
    boxes = tuple(truth_box("car", (100 + x, -50 + y)) for x, y in positions)
    return {"a": SampleTruth("a", 0, vehicle, boxes)}


def test_a_condition_is_scored_on_its_drives_alone():
    pytest.importorskip("nuscenes")
    truth = drive()
    words = {"sample0": "Night", "sample1": "Night, rain", "sample2": "Rain", "sample3": "clear"}
    truth = {token: replace(sample, description=words[token]) for token, sample in truth.items()}
    results = entries(perfect(truth))
    results["sample2"] = []
    groups = evaluate_groups(results, truth, ["condition"])
    assert list(groups) == ["plain day", "night", "rain"]
    assert [group.samples for group in groups.values()] == [1, 2, 2]
    assert groups["night"].classes["car"].ap == pytest.approx(1.0)
    assert groups["rain"] == evaluate(results, truth, ["sample1", "sample2"])


def test_a_band_holds_its_lower_border_and_not_its_upper():
    truth = one_sample((0, 19.9), (20, 0), (0, -34.9), (-35, 0), (30, 39.9), (0, 50))
    groups = evaluate_groups(entries(perfect(truth)), truth, ["range"])
    assert list(groups) == NAMES
    assert [group.classes["car"].truths for group in groups.values()] == [1, 2, 2]
    assert [group.classes["car"].predictions for group in groups.values()] == [1, 2, 2]
    assert [group.classes["car"].ap for group in groups.values()] == pytest.approx([1.0] * len(BANDS))


def test_a_miss_counts_in_its_band_and_a_box_across_the_border_in_both():
    truth = one_sample((10, 0), (0, 15), (25, 0), (40, 0))
    found = perfect(truth)["a"]
    centers = found.boxes.centers.copy()
    centers[2, 0] -= 6  # from 25 m to 19 m
    groups = evaluate_groups(entries({"a": changed(found, centers=centers)}), truth, ["range"])
    assert [group.classes["car"].predictions for group in groups.values()] == [3, 0, 1]
    near, middle, far = (group.classes["car"].ap for group in groups.values())
    assert near < 0.9
    assert (middle, far) == pytest.approx((0.0, 1.0))


def test_bicycle_racks_stay_whatever_their_distance():
    truth = one_sample()
    rack = truth_box("static_object.bicycle_rack", (119.0, -50.0), size=(3.0, 8.0, 2.0))
    bikes = tuple(truth_box("bicycle", (100.0 + x, -50.0)) for x in (10.0, 21.0))  # the second stands in the rack
    truth = {"a": replace(truth["a"], boxes=(rack, *bikes))}
    groups = evaluate_groups(entries(perfect(truth)), truth, ["range"])
    assert [group.classes["bicycle"].truths for group in groups.values()] == [1, 0, 0]
    assert [group.classes["bicycle"].predictions for group in groups.values()] == [1, 0, 0]


def test_the_table_shows_means_over_the_classes_that_are_there():
    truth = one_sample((10, 0), (12, 7))
    lines = groups_table(evaluate_groups(entries(perfect(truth)), truth, ["range"])).splitlines()
    # Without an attribute one of ten scores is 0.
    assert lines[2].removeprefix("0-20 m").split()[:5] == ["1", "1", "2", "1.000", "0.900"]
    assert lines[3].removeprefix("20-35 m").split() == ["1", "0", "0", *["-"] * 7]
