"""Which key frames are worst, and that they are drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from truths import drive, entries, perfect

from crkd_core.training.diagnosis import Mistakes, mistakes
from crkd_core.training.error_pictures import detections_of, worst_samples

TRUTH = drive()


def test_mistakes_are_counted_at_a_score():
    results = entries(perfect(TRUTH))
    right = len(results["sample0"])
    results["sample0"][0]["translation"] = [t + 5.0 for t in results["sample0"][0]["translation"]]
    results["sample0"][1]["detection_score"] = 0.1
    found = mistakes(results, TRUTH, min_score=0.3)
    assert found["sample0"] == Mistakes(missed=2, wrong=1, right=right - 2)
    assert found["sample1"].missed == found["sample1"].wrong == 0


def test_the_worst_of_every_scene_come_first():
    truth = {token: replace(sample, scene="ab"[i // 2]) for i, (token, sample) in enumerate(TRUTH.items())}
    results = entries(perfect(truth))
    for token, lost in (("sample0", 3), ("sample1", 2), ("sample3", 1)):
        results[token] = results[token][lost:]
    worst = worst_samples(results, truth, count=3)
    assert list(worst) == ["sample0", "sample3", "sample1"]
    assert [wrong.missed for wrong in worst.values()] == [3, 1, 2]


def test_entries_become_detections_again():
    found = perfect(TRUTH)["sample2"]
    again = detections_of(entries({"sample2": found})["sample2"], stamp=5)
    np.testing.assert_allclose(again.boxes.centers, found.boxes.centers, atol=1e-9)
    np.testing.assert_allclose(again.boxes.yaws, found.boxes.yaws, atol=1e-9)
    np.testing.assert_array_equal(again.labels, found.labels)
    assert (again.frame_id, again.stamp) == ("world", 5)
    assert len(detections_of([], stamp=5)) == 0
