import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crkd_core.training.metrics import ClassMetrics, Metrics, finite_or_none, present_summary, summary

shares = st.floats(0, 1)
errors = st.one_of(st.none(), st.floats(0, 10))


def class_metrics(truths: int = 5, ap: float = 0.5, **others: float | None) -> ClassMetrics:
    values = {"trans_err": 0.4, "scale_err": 0.2, "orient_err": 0.1, "vel_err": 0.3, "attr_err": 0.0, **others}
    return ClassMetrics(truths=truths, predictions=7, ap=ap, ap_by_distance={"0.5": ap, "4.0": ap}, **values)


def test_nds_weighs_mean_ap_as_much_as_the_five_errors_together():
    found = summary([class_metrics(ap=0.6)])
    assert pytest.approx((5 * 0.6 + 0.6 + 0.8 + 0.9 + 0.7 + 1.0) / 10) == found.NDS


def test_an_error_above_one_costs_no_more_than_one():
    assert summary([class_metrics(vel_err=7.0)]).NDS == summary([class_metrics(vel_err=1.0)]).NDS


def test_errors_a_class_does_not_define_are_left_out_of_the_means():
    cone = class_metrics(orient_err=None, vel_err=None, attr_err=None)
    found = summary([class_metrics(vel_err=0.3), cone])
    assert found.mAVE == 0.3
    assert summary([cone]).mAVE is None


def test_present_means_leave_out_classes_without_ground_truth():
    classes = {"car": class_metrics(ap=0.8), "bus": class_metrics(truths=0, ap=0.0, trans_err=1.0)}
    found, names = present_summary(classes)
    assert names == ("car",)
    assert found is not None
    assert found.mAP == 0.8


def test_no_ground_truth_at_all_has_no_present_means():
    assert present_summary({"car": class_metrics(truths=0)}) == (None, ())


@given(st.lists(st.tuples(shares, errors, errors), min_size=1, max_size=10))
def test_scores_stay_between_zero_and_one(rows: list[tuple[float, float | None, float | None]]):
    found = summary([class_metrics(ap=ap, vel_err=v, attr_err=a) for ap, v, a in rows])
    assert 0 <= found.mAP <= 1
    assert 0 <= found.NDS <= 1


@given(ap=shares, error=errors)
def test_json_keeps_every_digit(ap: float, error: float | None):
    one = class_metrics(ap=ap, vel_err=error)
    metrics = Metrics(
        samples=3,
        official=summary([one]),
        present=None,
        present_classes=(),
        classes={"car": one},
        hints=("a", "b"),
    )
    assert Metrics.from_json(metrics.to_json()) == metrics


def test_saved_metrics_are_read_back(tmp_path: Path):
    one = class_metrics()
    metrics = Metrics(
        samples=1, official=summary([one]), present=summary([one]), present_classes=("car",), classes={"car": one}
    )
    metrics.save(tmp_path / "metrics.json")
    assert Metrics.from_json((tmp_path / "metrics.json").read_bytes()) == metrics


def test_undefined_figures_become_none():
    assert finite_or_none(math.nan) is None
    assert finite_or_none(0.25) == 0.25
