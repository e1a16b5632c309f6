"""Precision over recall: what the metric averages, and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from truths import drive, entries, perfect

from crkd_core.training.curves import ClassCurves, curves_picture
from crkd_core.training.evaluation import evaluate_with_curves

pytest.importorskip("nuscenes")

TRUTH = drive()


def test_average_precision_is_the_area_of_the_curve_above_a_tenth():
    results = entries(perfect(TRUTH))
    results["sample0"] = []  # a quarter is missed
    for i, entry in enumerate(results["sample1"]):
        if i % 2:  # and some boxes are where nothing is
            entry["translation"] = [t + 5.0 for t in entry["translation"]]
    metrics, curves = evaluate_with_curves(results, TRUTH)
    for distance, precision in curves["car"].precision.items():
        assert 50 < len(precision) < 76
        padded = np.pad(precision, (0, 101 - len(precision)))
        area = np.clip(padded[11:] - 0.1, 0, None).mean() / 0.9
        assert metrics.classes["car"].ap_by_distance[distance] == pytest.approx(area, abs=1e-9)
    assert curves["bus"].precision["0.5"] == ()


def test_curves_are_drawn_into_a_png(tmp_path: Path):
    curves = {name: ClassCurves({"0.5": (1.0, 0.4), "4.0": (1.0, 0.9, 0.3)}) for name in "abcdef"}
    curves_picture(curves, tmp_path / "curves.png", title="six classes")
    curves_picture({}, tmp_path / "none.png", title="none")
    six, none = Image.open(tmp_path / "curves.png"), Image.open(tmp_path / "none.png")
    assert six.height > none.height > 100
    assert np.asarray(six.convert("L")).std() > 5
