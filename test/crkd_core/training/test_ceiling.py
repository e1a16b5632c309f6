from dataclasses import replace

import numpy as np
import pytest
from truths import drive, truth_box

from crkd_core.config import load_recipe
from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.training.ceiling import ceiling, encoded_and_decoded
from crkd_core.types import wrapped

RECIPE = load_recipe("student_tiny")
T_BASE_FROM_BEV = transform(yaw_rotation(-np.pi / 2), (0.94, 0.0, 1.84))


def test_boxes_apart_survive_encoding_and_decoding_unchanged():
    sample = drive(samples=1)["sample0"]
    truth = sample.detections()
    found = encoded_and_decoded(sample, RECIPE, T_BASE_FROM_BEV)
    assert len(found) == len(truth)
    order = [int(np.argmin(np.linalg.norm(truth.boxes.centers - c, axis=1))) for c in found.boxes.centers]
    expected = truth.filtered(np.array(order))
    np.testing.assert_allclose(found.boxes.centers, expected.boxes.centers, atol=1e-3)
    np.testing.assert_allclose(found.boxes.sizes, expected.boxes.sizes, atol=1e-4)
    np.testing.assert_allclose(wrapped(found.boxes.yaws - expected.boxes.yaws), 0, atol=1e-4)
    np.testing.assert_allclose(found.boxes.velocities, expected.boxes.velocities, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_unknown_velocity_is_decoded_as_zero():
    sample = drive(samples=1)["sample0"]
    sample = replace(sample, T_world_from_base=np.eye(4), boxes=(truth_box(velocity=(np.nan, np.nan)),))
    found = encoded_and_decoded(sample, RECIPE, T_BASE_FROM_BEV)
    np.testing.assert_allclose(found.boxes.velocities, [[0.0, 0.0]], atol=1e-6)


def test_close_pedestrians_cost_what_suppression_takes():
    pytest.importorskip("nuscenes")
    size = (0.7, 0.7, 1.8)
    far = [truth_box("pedestrian", (10.0, 6.0 * i), size=size) for i in range(-4, 5)]
    close = [truth_box("pedestrian", (10.0 + 0.7 * i, 30.0), size=size) for i in range(4)]
    sample = replace(drive(samples=1)["sample0"], T_world_from_base=np.eye(4), boxes=tuple(far + close))
    apart = replace(sample, boxes=tuple(far))
    assert ceiling({"sample0": apart}, RECIPE, T_BASE_FROM_BEV).classes["pedestrian"].ap == pytest.approx(1.0)
    lost = ceiling({"sample0": sample}, RECIPE, T_BASE_FROM_BEV).classes["pedestrian"]
    assert lost.predictions < lost.truths
    assert lost.ap < 1.0


def test_a_drive_without_boxes_gives_an_empty_result():
    sample = replace(drive(samples=1)["sample0"], boxes=())
    assert len(encoded_and_decoded(sample, RECIPE, T_BASE_FROM_BEV)) == 0
