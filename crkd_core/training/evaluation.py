"""The official nuScenes detection metric, on any subset of samples.

Ground truth and predictions are restricted to the samples first; filtering, matching and every figure then come from
nuscenes-devkit's own functions with its configuration ``detection_cvpr_2019``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from crkd_core.cli import UserError
from crkd_core.training.curves import ClassCurves
from crkd_core.training.diagnosis import diagnosis, matched
from crkd_core.training.ground_truth import SampleTruth, require_devkit
from crkd_core.training.metrics import (
    TP_ERRORS,
    ClassMetrics,
    Metrics,
    Summary,
    finite_or_none,
    present_summary,
)
from crkd_core.training.submission import ResultEntry, Results, check_samples

logger = logging.getLogger(__name__)

_UNDEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}
"""Errors the metric leaves out of its means."""


class EvaluationError(UserError):
    """Results or ground truth that the metric cannot read."""


def evaluate(
    results: Results,
    ground_truth: Mapping[str, SampleTruth],
    tokens: Collection[str] | None = None,
    *,
    progress: bool = False,
) -> Metrics:
    """Score results on some samples with the official metric: the figures of ``evaluate_with_curves``."""
    return evaluate_with_curves(results, ground_truth, tokens, progress=progress)[0]


def evaluate_with_curves(
    results: Results,
    ground_truth: Mapping[str, SampleTruth],
    tokens: Collection[str] | None = None,
    *,
    progress: bool = False,
) -> tuple[Metrics, dict[str, ClassCurves]]:
    """Score results on some samples with the official metric.

    Args:
        results: sample token -> result entries (world frame); at least every evaluated sample, others are ignored.
        ground_truth: sample token -> annotations; at least every evaluated sample.
        tokens: the samples to score; None: all of ``ground_truth``.
        progress: show a progress bar.

    Returns:
        The figures; class -> precision over recall.

    Raises:
        MissingExtraError: nuscenes-devkit is not installed.
        SubmissionError: a sample without results entry, or with more than 500 boxes.
        EvaluationError: no sample, a sample without ground truth, or a malformed result entry.
    """
    require_devkit()
    from nuscenes.eval.common.config import config_factory

    chosen = list(ground_truth) if tokens is None else list(tokens)
    if not chosen:
        raise EvaluationError("evaluation: no sample to score")
    unknown = [token for token in chosen if token not in ground_truth]
    if unknown:
        raise EvaluationError(f"evaluation: {len(unknown)} samples have no ground truth (first: {unknown[0]})")
    check_samples(results, chosen, exact=False)
    truth = {token: ground_truth[token] for token in chosen}
    config = config_factory("detection_cvpr_2019")
    true_boxes = _filtered(_true_boxes(truth), truth, config)
    # The order of the results decides between equal scores, as in the devkit.
    ordered = [token for token in results if token in truth]
    found_boxes = _found_boxes(results, ordered, truth)
    # Boxes in a wrong frame are out of range: the diagnosis sees what the filter, which works in place, takes away.
    unfiltered = dict(found_boxes.boxes)
    found_boxes = _filtered(found_boxes, truth, config)
    figures, curves = _figures(true_boxes, found_boxes, config, progress=progress)
    hints = diagnosis(matched(true_boxes.boxes, unfiltered, truth))
    return _as_metrics(figures, true_boxes, found_boxes, samples=len(truth), hints=hints), curves


def _true_boxes(truth: Mapping[str, SampleTruth]) -> Any:
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.utils import category_to_detection_name

    boxes = EvalBoxes()
    for token, sample in truth.items():
        found = [
            DetectionBox(
                sample_token=token,
                translation=box.translation,
                size=box.size,
                rotation=box.rotation,
                velocity=box.velocity,
                ego_translation=_from_vehicle(box.translation, sample),
                num_pts=box.num_points,
                detection_name=name,
                detection_score=-1.0,
                attribute_name=box.attribute,
            )
            for box in sample.boxes
            if (name := category_to_detection_name(box.category)) is not None
        ]
        boxes.add_boxes(token, found)
    return boxes


def _found_boxes(results: Results, tokens: list[str], truth: Mapping[str, SampleTruth]) -> Any:
    from nuscenes.eval.common.data_classes import EvalBoxes

    boxes = EvalBoxes()
    for token in tokens:
        boxes.add_boxes(token, [_found_box(entry, truth[token], i) for i, entry in enumerate(results[token])])
    return boxes


def _found_box(entry: ResultEntry, sample: SampleTruth, index: int) -> Any:
    from nuscenes.eval.detection.data_classes import DetectionBox

    try:
        box = DetectionBox.deserialize(entry)
        sound = min(box.size) > 0 and bool(np.isfinite([*box.translation, *box.size, *box.rotation]).all())
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(f"results: sample {sample.token}: box {index}: {error!r}") from None
    if not sound:
        raise EvaluationError(
            f"results: sample {sample.token}: box {index}: expected finite numbers and a positive size, got {entry}"
        )
    if box.sample_token != sample.token:
        raise EvaluationError(
            f"results: sample {sample.token}: box {index}: sample_token: expected the same, got '{box.sample_token}'"
        )
    box.ego_translation = _from_vehicle(box.translation, sample)
    return box


def _from_vehicle(translation: tuple[float, float, float], sample: SampleTruth) -> tuple[float, ...]:
    return tuple(float(a - b) for a, b in zip(translation, sample.T_world_from_base[:3, 3], strict=True))


class _BicycleRacks:
    """The two look-ups that the devkit's box filter makes, answered from our ground truth instead of a data root."""

    def __init__(self, truth: Mapping[str, SampleTruth]) -> None:
        self._truth = truth

    def get(self, table: str, token: Any) -> dict[str, Any]:
        if table == "sample":
            return {"anns": [(token, i) for i in range(len(self._truth[token].boxes))]}
        assert table == "sample_annotation", f"the devkit's filter asked for table '{table}'"
        sample, index = token
        box = self._truth[sample].boxes[index]
        return {
            "category_name": box.category,
            "translation": box.translation,
            "size": box.size,
            "rotation": box.rotation,
        }


def _filtered(boxes: Any, truth: Mapping[str, SampleTruth], config: Any) -> Any:
    from nuscenes.eval.common.loaders import filter_eval_boxes

    if not boxes.all:  # the devkit's filter wants at least one box
        return boxes
    return filter_eval_boxes(_BicycleRacks(truth), boxes, config.class_range)


def _figures(true_boxes: Any, found_boxes: Any, config: Any, *, progress: bool) -> tuple[Any, dict[str, ClassCurves]]:
    """The devkit's ``DetectionMetrics``, filled as its own ``DetectionEval`` does, and the curves it is made of."""
    from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
    from nuscenes.eval.detection.data_classes import DetectionMetrics

    figures = DetectionMetrics(config)
    precision: dict[str, dict[str, tuple[float, ...]]] = {name: {} for name in config.class_names}
    with tqdm(total=len(config.class_range) * len(config.dist_ths), desc="metric", disable=not progress) as bar:
        for name in config.class_names:
            for distance in config.dist_ths:
                data = accumulate(true_boxes, found_boxes, name, config.dist_fcn_callable, distance)
                reached = data.max_recall_ind + 1 if data.confidence.any() else 0
                precision[name][str(distance)] = tuple(data.precision[:reached].tolist())
                figures.add_label_ap(name, distance, calc_ap(data, config.min_recall, config.min_precision))
                bar.update()
                if distance != config.dist_th_tp:
                    continue
                for error in TP_ERRORS:
                    undefined = error in _UNDEFINED.get(name, ())
                    figures.add_label_tp(name, error, np.nan if undefined else calc_tp(data, config.min_recall, error))
    return figures, {name: ClassCurves(precision=by_distance) for name, by_distance in precision.items()}


def _as_metrics(figures: Any, true_boxes: Any, found_boxes: Any, *, samples: int, hints: tuple[str, ...]) -> Metrics:
    classes: dict[str, ClassMetrics] = {}
    for name, mean_ap in figures.mean_dist_aps.items():
        classes[name] = ClassMetrics(
            truths=sum(box.detection_name == name for box in true_boxes.all),
            predictions=sum(box.detection_name == name for box in found_boxes.all),
            ap=float(mean_ap),
            ap_by_distance={str(d): float(figures.get_label_ap(name, d)) for d in figures.cfg.dist_ths},
            **{error: finite_or_none(float(figures.get_label_tp(name, error))) for error in TP_ERRORS},
        )
    errors = {name: finite_or_none(value) for name, value in figures.tp_errors.items()}
    present, names = present_summary(classes)
    return Metrics(
        samples=samples,
        official=Summary(
            mAP=float(figures.mean_ap),
            NDS=float(figures.nd_score),
            mATE=errors["trans_err"],
            mASE=errors["scale_err"],
            mAOE=errors["orient_err"],
            mAVE=errors["vel_err"],
            mAAE=errors["attr_err"],
        ),
        present=present,
        present_classes=names,
        classes=classes,
        hints=hints,
    )
