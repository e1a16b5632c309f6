import pytest
from truths import drive, entries, perfect

from crkd_core.training.evaluation import evaluate
from crkd_core.training.report import comparison_table, latency_table, metrics_table

pytest.importorskip("nuscenes")


def row(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(name + " ")]
    return line.removeprefix(name).split()


def test_table_shows_figures_of_classes_with_ground_truth_and_dashes_for_the_others():
    truth = drive()
    table = metrics_table(evaluate(entries(perfect(truth)), truth))
    assert row(table, "car") == ["48", "48", *["1.000"] * 5, "0.000", "0.000", "0.000", "0.000", "0.000"]
    assert row(table, "bus") == ["0", "0", *["-"] * 10]
    assert row(table, "the 1 with ground truth")[:2] == ["1.000", "1.000"]
    assert row(table, "all ten classes (official)")[0] == "0.100"


def test_columns_line_up():
    truth = drive()
    lines = metrics_table(evaluate(entries(perfect(truth)), truth)).splitlines()
    heads, rule = lines[0], lines[1]
    assert len(heads) == len(rule)
    assert {len(line) for line in lines[2:12]} == {len(rule)}


def test_ceiling_stands_beside_the_result():
    truth = drive()
    best = evaluate(entries(perfect(truth)), truth)
    metrics = evaluate({token: [] for token in truth}, truth)
    table = metrics_table(metrics, ceiling=best)
    assert row(table, "car")[2:4] == ["0.000", "1.000"]
    assert row(table, "ceiling of the 1")[0] == "1.000"


def test_hints_follow_the_table():
    truth = drive()
    found = {token: [{**e, "velocity": [0.0, 0.0]} for e in es] for token, es in entries(perfect(truth)).items()}
    assert metrics_table(evaluate(found, truth)).splitlines()[-1].startswith("hint: velocities are missing")


def test_latency_table_names_stages():
    assert row(latency_table({"network": (10.0, 20.04, 30.0)}), "network") == ["10.0", "20.0", "30.0"]


def test_two_runs_stand_side_by_side_with_their_difference():
    truth = drive()
    results = entries(perfect(truth))
    best = evaluate(results, truth)
    worse = evaluate({**results, "sample0": []}, truth)
    table = comparison_table(worse, best)
    ours, other, difference = row(table, "AP car")
    assert other == "1.000"
    assert float(ours) - 1 == pytest.approx(float(difference), abs=1e-3)
    assert float(difference) < -0.1
    assert "AP bus" not in table
    assert "not the same ground truth" not in table


def test_velocities_of_two_runs_are_compared_class_by_class():
    truth = drive()
    results = entries(perfect(truth))
    standing = {token: [{**e, "velocity": [0.0, 0.0]} for e in es] for token, es in results.items()}
    table = comparison_table(evaluate(standing, truth), evaluate(results, truth))
    ours, other, difference = row(table, "AVE car m/s")
    assert (float(other), difference) == (0.0, f"+{ours}")
    assert float(ours) > 0.1
    assert "AVE traffic_cone" not in table


def test_runs_on_other_ground_truth_are_told_apart():
    truth = drive()
    results = entries(perfect(truth))
    table = comparison_table(evaluate(results, truth), evaluate(results, truth, ["sample0", "sample1"]))
    assert "not the same ground truth: 4 and 2 samples" in table
    assert "not the same ground truth: 48 and 24 boxes" in table
