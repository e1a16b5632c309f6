import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from truths import changed, drive, entries, perfect, truth_box

from crkd_core.training.evaluation import EvaluationError, evaluate
from crkd_core.training.ground_truth import load_devkit, tokens_of_split, truth_from_nuscenes
from crkd_core.training.metrics import TP_ERRORS
from crkd_core.training.submission import SubmissionError, read_submission

pytest.importorskip("nuscenes")

TRUTH = drive()


def test_ground_truth_as_result_is_perfect():
    metrics = evaluate(entries(perfect(TRUTH)), TRUTH)
    assert metrics.present is not None
    assert metrics.present.mAP == pytest.approx(1.0)
    assert pytest.approx(1.0, abs=1e-6) == metrics.present.NDS
    assert metrics.present_classes == ("car",)
    assert metrics.official.mAP == pytest.approx(0.1)
    assert metrics.hints == ()
    assert metrics.samples == len(TRUTH)


def test_only_the_chosen_samples_count():
    results = entries(perfect(TRUTH))
    results["sample1"] = []
    with_it = evaluate(results, TRUTH, ["sample0", "sample1"])
    without_it = evaluate(results, TRUTH, ["sample0"])
    assert with_it.classes["car"].truths == 2 * without_it.classes["car"].truths
    assert without_it.classes["car"].ap == pytest.approx(1.0)
    assert with_it.classes["car"].ap < 0.6


def test_no_prediction_at_all_scores_zero():
    metrics = evaluate({token: [] for token in TRUTH}, TRUTH)
    assert metrics.official.mAP == 0.0
    assert metrics.classes["car"].predictions == 0


def test_a_drive_without_ground_truth_has_no_present_means():
    empty = {token: replace(sample, boxes=()) for token, sample in TRUTH.items()}
    metrics = evaluate(entries(perfect(TRUTH)), empty)
    assert metrics.present is None
    assert metrics.official.mAP == 0.0


def test_boxes_beyond_class_range_or_without_points_do_not_count():
    sample = replace(TRUTH["sample0"], T_world_from_base=np.eye(4))
    boxes = (truth_box("car", (49.0, 0.0)), truth_box("car", (51.0, 0.0)), truth_box("car", (0.0, 9.0), num_points=0))
    truth = {"sample0": replace(sample, boxes=boxes)}
    assert evaluate(entries(perfect(truth)), truth).classes["car"].truths == 1


def test_bicycles_in_a_rack_count_neither_as_truth_nor_as_mistake():
    rack = truth_box("static_object.bicycle_rack", (10.0, 0.0), size=(3.0, 6.0, 2.0))
    boxes = (truth_box("bicycle", (10.5, 0.5)), truth_box("bicycle", (20.0, 0.0)), rack)
    sample = replace(TRUTH["sample0"], T_world_from_base=np.eye(4), boxes=boxes)
    metrics = evaluate(entries(perfect({"sample0": sample})), {"sample0": sample})
    assert metrics.classes["bicycle"].truths == 1
    assert metrics.classes["bicycle"].predictions == 1


def test_cones_have_no_heading_velocity_or_attribute_error():
    sample = replace(TRUTH["sample0"], T_world_from_base=np.eye(4), boxes=(truth_box("traffic_cone", (10.0, 0.0)),))
    metrics = evaluate(entries(perfect({"sample0": sample})), {"sample0": sample})
    cone = metrics.classes["traffic_cone"]
    assert (cone.orient_err, cone.vel_err, cone.attr_err) == (None, None, None)
    assert metrics.present is not None
    assert metrics.present.mAOE is None
    assert pytest.approx(1.0) == metrics.present.NDS


def test_a_metre_of_offset_is_the_translation_error():
    offset = np.array([1.0, 0.0, 0.0])
    moved = {token: changed(found, centers=found.boxes.centers + offset) for token, found in perfect(TRUTH).items()}
    figures = evaluate(entries(moved), TRUTH).classes["car"]
    assert figures.trans_err == pytest.approx(1.0)
    assert figures.ap_by_distance["0.5"] == 0.0
    assert figures.ap_by_distance["2.0"] == pytest.approx(1.0)


def test_a_sample_without_entry_is_named():
    results = entries(perfect(TRUTH))
    del results["sample2"]
    with pytest.raises(SubmissionError, match=r"1 of 4 samples have no entry .*sample2"):
        evaluate(results, TRUTH)


def test_a_sample_without_ground_truth_is_named():
    with pytest.raises(EvaluationError, match=r"no ground truth .*sample9"):
        evaluate({"sample9": []}, TRUTH, ["sample9"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("detection_name", "tram"),
        ("size", [0.0, 4.0, 1.5]),
        ("translation", [math.nan, 0.0, 0.0]),
        ("rotation", [1.0, 0.0]),
        ("attribute_name", "vehicle.flying"),
        ("sample_token", "sample1"),
    ],
)
def test_a_malformed_entry_is_named(field: str, value: object):
    results = entries(perfect(TRUTH))
    results["sample0"][2][field] = value
    with pytest.raises(EvaluationError, match="sample sample0: box 2"):
        evaluate(results, TRUTH)


@pytest.mark.nuscenes
def test_a_whole_scene_equals_the_reference_figures(nuscenes_root: Path, nuscenes_results_dir: Path):
    devkit = load_devkit(nuscenes_root, "v1.0-mini")
    _, results = read_submission(nuscenes_results_dir / "cc_3dt_scene0916_only.json")
    truth = truth_from_nuscenes(devkit, tokens_of_split(devkit, "mini_val"))
    metrics = evaluate(results, truth)
    reference = json.loads((nuscenes_results_dir / "devkit_reference_metrics_scene0916.json").read_text())
    assert metrics.official.mAP == pytest.approx(reference["mean_ap"], abs=1e-6)
    assert pytest.approx(reference["nd_score"], abs=1e-6) == metrics.official.NDS
    assert metrics.official.errors == pytest.approx([reference["tp_errors"][e] for e in TP_ERRORS], abs=1e-6)
    for name, figures in metrics.classes.items():
        assert figures.ap_by_distance == pytest.approx(reference["label_aps"][name], abs=1e-6)
        for error in TP_ERRORS:
            expected = reference["label_tp_errors"][name][error]
            assert figures.error(error) == (None if math.isnan(expected) else pytest.approx(expected, abs=1e-6))


@pytest.mark.nuscenes
def test_a_subset_of_real_samples_equals_the_devkits_own_functions(nuscenes_root: Path, nuscenes_results_dir: Path):
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import (
        add_center_dist,
        filter_eval_boxes,
        load_gt_of_sample_tokens,
        load_prediction_of_sample_tokens,
    )
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.data_classes import DetectionBox

    devkit = load_devkit(nuscenes_root, "v1.0-mini")
    path = nuscenes_results_dir / "cc_3dt_scene0916_only.json"
    tokens = tokens_of_split(devkit, "mini_val")[3:9]
    config = config_factory("detection_cvpr_2019")
    found, _ = load_prediction_of_sample_tokens(str(path), 500, DetectionBox, sample_tokens=tokens)
    true = load_gt_of_sample_tokens(devkit, tokens, DetectionBox)
    found = filter_eval_boxes(devkit, add_center_dist(devkit, found), config.class_range)
    true = filter_eval_boxes(devkit, add_center_dist(devkit, true), config.class_range)
    metrics = evaluate(read_submission(path)[1], truth_from_nuscenes(devkit, tokens))
    assert metrics.present_classes
    for name in metrics.present_classes:
        data = accumulate(true, found, name, config.dist_fcn_callable, 2.0)
        assert metrics.classes[name].ap_by_distance["2.0"] == calc_ap(data, 0.1, 0.1)
        assert metrics.classes[name].vel_err == calc_tp(data, 0.1, "vel_err")
