"""What is published about a frame."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from micro import micro_frame

from crkd_core.data.errors import DataError
from crkd_core.data.images import decoded
from crkd_core.runtime.assembler import AssembledFrame, FrameState
from crkd_core.types import Boxes3D, Detections, SensorFrame
from crkd_ros.answers import OUTPUT_TYPES, answer, output_messages, report_message, report_of
from crkd_ros.conversions import ConversionError
from crkd_ros.parameters import from_values
from rosbag_tools.typestore import bag_messages


def detect(frame: SensorFrame) -> Detections:
    """Two boxes; decodes every image, as the detector does."""
    for name, camera in frame.cameras.items():
        decoded(camera, name)
    boxes = Boxes3D(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(2), np.zeros((2, 2)))
    return Detections(boxes, np.array([0.9, 0.3]), np.array([0, 8]), "base_link", frame.stamp)


def assembled(frame: SensorFrame) -> AssembledFrame:
    return AssembledFrame(frame.stamp, FrameState.NOMINAL, (), frame)


def damaged_frame() -> SensorFrame:
    """One camera's JPEG ends in the middle."""
    frame = micro_frame(0).frame
    jpeg = cv2.imencode(".jpg", np.zeros((72, 96, 3), np.uint8))[1].tobytes()
    cut = replace(frame.cameras["CAM_FRONT_LEFT"], image=jpeg[: len(jpeg) // 2])
    return replace(frame, cameras={**frame.cameras, "CAM_FRONT_LEFT": cut})


def test_frame_is_detected_and_its_manifest_reported():
    frame = micro_frame(0).frame
    found = answer(detect, assembled(frame), frame_id="base_link")
    assert len(found.detections) == found.report.detections == 2
    assert found.report.manifest == frame.manifest
    assert found.report.state == "NOMINAL"


def test_stale_frame_gives_an_empty_stamped_result_without_running_the_detector():
    stale = AssembledFrame(77, FrameState.STALE, ("pose: unknown",), None)
    found = answer(pytest.fail, stale, frame_id="base_link")
    assert (len(found.detections), found.detections.stamp, found.detections.frame_id) == (0, 77, "base_link")
    assert (found.report.state, found.report.reasons) == ("STALE", ("pose: unknown",))


@pytest.mark.parametrize(
    ("values", "scores"),
    [
        ({}, [0.9, 0.3]),
        ({"score_threshold": 0.5}, [0.9]),
        ({"class_threshold.car": 0.95}, [0.3]),
        ({"score_threshold": 0.5, "class_threshold.pedestrian": 0.2}, [0.9]),
        ({"classes": ["pedestrian", "bus"]}, [0.3]),
    ],
)
def test_only_wanted_classes_with_enough_score_are_left(values: dict[str, object], scores: list[float]):
    least = from_values(values).min_scores()
    found = answer(detect, assembled(micro_frame(0).frame), frame_id="base_link", min_scores=least)
    assert found.detections.scores.tolist() == scores
    assert found.report.detections == len(scores)


def test_objects_keep_their_numbers_in_detections_and_markers():
    tracker = from_values({"tracker.enabled": True}).tracker()
    frames = [replace(micro_frame(0).frame, stamp=stamp) for stamp in (10, 20)]
    first, second = (answer(detect, assembled(frame), frame_id="base_link", tracker=tracker) for frame in frames)
    assert first.ids == second.ids == (1, 2)
    made = dict(output_messages(bag_messages(), second, wanted=OUTPUT_TYPES))
    assert [detection.id for detection in made["detections_topic"].detections] == ["1", "2"]
    assert {marker.id for marker in made["markers_topic"].markers if marker.ns == "boxes"} == {1, 2}


def test_without_a_tracker_no_object_has_a_number():
    assert from_values({}).tracker() is None
    found = answer(detect, assembled(micro_frame(0).frame), frame_id="base_link")
    made = dict(output_messages(bag_messages(), found, wanted=OUTPUT_TYPES))
    assert [detection.id for detection in made["detections_topic"].detections] == ["", ""]


@pytest.mark.parametrize("wanted", OUTPUT_TYPES)
def test_only_the_messages_that_are_wanted_are_made(wanted: str, monkeypatch: pytest.MonkeyPatch):
    made: list[str] = []
    makers = ("report_message", "marker_array", "velocity_cloud", "detection_array")
    for name in makers:
        monkeypatch.setattr(f"crkd_ros.answers.{name}", lambda *_, name=name, **__: made.append(name))
    found = answer(detect, assembled(micro_frame(0).frame), frame_id="base_link")
    assert [key for key, _ in output_messages(bag_messages(), found, wanted={wanted})] == [wanted]
    assert len(made) == 1
    assert list(output_messages(bag_messages(), found, wanted=())) == []
    assert len(made) == 1


def test_damaged_image_is_left_out_and_the_frame_degraded():
    found = answer(detect, assembled(damaged_frame()), frame_id="base_link")
    assert found.report.state == "DEGRADED"
    assert len(found.report.reasons) == 1
    assert found.report.reasons[0].startswith("CAM_FRONT_LEFT: ")
    assert "CAM_FRONT_LEFT" not in found.report.sensors
    assert len(found.detections) == 2


def test_strictly_a_damaged_image_is_an_error_that_names_frame_and_camera():
    frame = damaged_frame()
    with pytest.raises(DataError, match=f"frame at {frame.stamp} ns: CAM_FRONT_LEFT"):
        answer(detect, assembled(frame), frame_id="base_link", strict=True)


def test_report_survives_its_message():
    report = answer(detect, assembled(micro_frame(0).frame), frame_id="base_link").report
    assert report_of(report_message(bag_messages(), report)) == report


def test_pose_changes_show_in_the_report():
    frame = micro_frame(0).frame
    moved = np.eye(4)
    moved[0, 3] = 1e-6
    a = answer(detect, assembled(frame), frame_id="base_link").report
    b = answer(detect, assembled(replace(frame, T_world_from_base=moved)), frame_id="base_link").report
    assert a.manifest == b.manifest
    assert a.poses != b.poses


def test_report_of_something_else_is_refused():
    with pytest.raises(ConversionError, match="manifest: "):
        report_of(bag_messages().String(data='{"colour": "red"}'))


def test_detections_follow_what_they_were_made_of_and_do_not_wait_for_markers():
    found = answer(detect, assembled(micro_frame(0).frame), frame_id="base_link")
    order = [key for key, _ in output_messages(bag_messages(), found, wanted=OUTPUT_TYPES)]
    assert order == ["manifest_topic", "velocities_topic", "detections_topic", "markers_topic"]
