from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections
from crkd_ros.conversions import ConversionError, Messages, detection_messages, detections_of, marker_array, stamp_of

STAMP = 1_538_984_233_547_259_000


@pytest.fixture
def detections() -> Detections:
    """A parked car ahead, a truck to the left driving away, a pedestrian of unknown velocity."""
    boxes = Boxes3D(
        centers=np.array([[10.0, 0.5, 0.8], [3.0, 12.0, 1.6], [-7.0, -2.0, 0.9]]),
        sizes=np.array([[4.5, 1.9, 1.6], [9.0, 2.5, 3.2], [0.6, 0.7, 1.75]]),
        yaws=np.array([0.25, np.pi / 2, -3.0]),
        velocities=np.array([[0.0, 0.0], [0.5, 8.0], [np.nan, np.nan]]),
    )
    labels = [DETECTION_CLASSES.index(name) for name in ("car", "truck", "pedestrian")]
    return Detections(boxes, np.array([0.9, 0.5, 0.123456789]), np.array(labels), "base_link", STAMP)


@pytest.fixture
def empty() -> Detections:
    return Detections(Boxes3D.empty(), np.zeros(0), np.zeros(0, dtype=np.int64), "base_link", STAMP)


def test_round_trip_keeps_everything(messages: Messages, sent: Callable[[Any], Any], detections: Detections) -> None:
    array, velocities = detection_messages(messages, detections)
    found = detections_of(sent(array), sent(velocities))
    np.testing.assert_allclose(found.boxes.centers, detections.boxes.centers, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.boxes.sizes, detections.boxes.sizes, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.boxes.yaws, detections.boxes.yaws, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.boxes.velocities, detections.boxes.velocities, atol=1e-6)
    np.testing.assert_array_equal(found.scores, detections.scores)
    assert found.class_names == ["car", "truck", "pedestrian"]
    assert (found.frame_id, found.stamp) == ("base_link", STAMP)


def test_no_detections_are_an_empty_stamped_array(
    messages: Messages, sent: Callable[[Any], Any], empty: Detections
) -> None:
    array, velocities = map(sent, detection_messages(messages, empty))
    assert (stamp_of(array.header.stamp), array.header.frame_id, len(array.detections)) == (STAMP, "base_link", 0)
    assert len(detections_of(array, velocities)) == 0
    assert len(marker_array(messages, empty).markers) == 1


def test_message_meets_the_conventions(messages: Messages, sent: Callable[[Any], Any], detections: Detections) -> None:
    array, _ = detection_messages(messages, detections)
    truck = sent(array).detections[1]
    assert (truck.bbox.size.x, truck.bbox.size.y, truck.bbox.size.z) == (9.0, 2.5, 3.2)  # length, width, height
    assert truck.bbox.center.position.z == 1.6  # geometric centre
    assert truck.bbox.center.orientation.z == pytest.approx(np.sqrt(0.5))  # a quarter turn to the left
    assert truck.results[0].hypothesis.class_id == "truck"
    assert stamp_of(truck.header.stamp) == STAMP


def test_without_velocities_they_are_unknown(
    messages: Messages, sent: Callable[[Any], Any], detections: Detections
) -> None:
    array, _ = detection_messages(messages, detections)
    assert np.isnan(detections_of(sent(array)).boxes.velocities).all()


def test_likeliest_hypothesis_counts(messages: Messages, sent: Callable[[Any], Any], detections: Detections) -> None:
    array, _ = detection_messages(messages, detections)
    other = messages.ObjectHypothesis(class_id="bus", score=0.95)
    array.detections[0].results.append(messages.ObjectHypothesisWithPose(hypothesis=other))
    found = detections_of(sent(array))
    assert (found.class_names[0], found.scores[0]) == ("bus", 0.95)


def test_velocities_of_another_frame_are_refused(messages: Messages, detections: Detections) -> None:
    array, velocities = detection_messages(messages, detections)
    velocities.header.stamp.nanosec += 1
    with pytest.raises(ConversionError, match="velocities at 1538984233547259001 ns"):
        detections_of(array, velocities)


def test_velocities_of_other_objects_are_refused(messages: Messages, detections: Detections) -> None:
    array, _ = detection_messages(messages, detections)
    _, fewer = detection_messages(messages, detections.filtered([0, 1]))
    with pytest.raises(ConversionError, match="velocities of 2 objects do not belong to 3 detections"):
        detections_of(array, fewer)
    _, reordered = detection_messages(messages, detections.filtered([1, 0, 2]))
    with pytest.raises(ConversionError, match="order of their classes"):
        detections_of(array, reordered)


def test_unknown_class_is_refused(messages: Messages, detections: Detections) -> None:
    array, _ = detection_messages(messages, detections)
    array.detections[2].results[0].hypothesis.class_id = "dragon"
    with pytest.raises(ConversionError, match="detection 2 has class_id 'dragon'; expected one of car, truck"):
        detections_of(array)


def test_detection_without_hypothesis_is_refused(messages: Messages, detections: Detections) -> None:
    array, _ = detection_messages(messages, detections)
    array.detections[1].results = []
    with pytest.raises(ConversionError, match="detection 1 has no hypothesis"):
        detections_of(array)


@pytest.mark.parametrize("spoil", ["position", "orientation"])
def test_detection_that_is_no_number_is_refused(messages: Messages, detections: Detections, spoil: str) -> None:
    array, _ = detection_messages(messages, detections)
    if spoil == "position":
        array.detections[1].bbox.center.position.x = float("nan")
    else:
        array.detections[1].bbox.center.orientation = messages.Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)
    with pytest.raises(ConversionError, match="detection 1 has a pose, size or score that is not a number"):
        detections_of(array)


def test_markers_replace_those_before(messages: Messages, sent: Callable[[Any], Any], detections: Detections) -> None:
    markers = sent(marker_array(messages, detections, lifetime=0.5)).markers
    assert markers[0].action == 3  # DELETEALL
    assert all(marker.action == 0 for marker in markers[1:])
    assert all(marker.lifetime.nanosec == 500_000_000 for marker in markers[1:])
    assert {(m.ns, m.id) for m in markers[1:]} == {
        *((ns, i) for ns in ("boxes", "captions") for i in range(3)),
        ("velocities", 1),  # not the parked car, nor the pedestrian of unknown velocity
    }


def test_velocity_arrow_points_where_the_object_is_in_a_second(
    messages: Messages, sent: Callable[[Any], Any], detections: Detections
) -> None:
    markers = sent(marker_array(messages, detections)).markers
    (arrow,) = [m for m in markers if m.ns == "velocities"]
    tail, head = arrow.points
    assert (head.x - tail.x, head.y - tail.y) == pytest.approx((0.5, 8.0))
    assert (tail.x, tail.y, tail.z) == (3.0, 12.0, 1.6)


def test_marker_boxes_are_as_large_as_the_objects(
    messages: Messages, sent: Callable[[Any], Any], detections: Detections
) -> None:
    box = next(m for m in sent(marker_array(messages, detections)).markers if m.ns == "boxes")
    assert (box.type, box.scale.x, box.scale.y, box.scale.z) == (1, 4.5, 1.9, 1.6)


def test_markers_take_one_color_if_asked(
    messages: Messages, sent: Callable[[Any], Any], detections: Detections
) -> None:
    markers = sent(marker_array(messages, detections, color=(0.0, 1.0, 0.5))).markers[1:]
    assert {(round(m.color.r, 3), round(m.color.g, 3), round(m.color.b, 3)) for m in markers} == {(0.0, 1.0, 0.5)}
