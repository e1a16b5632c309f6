import pytest
from truths import drive, entries, perfect

from crkd_core.training.evaluation import evaluate
from crkd_core.training.report import latency_table, metrics_table

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
