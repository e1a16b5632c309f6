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
from crkd_ros.answers import answer, report_message, report_of
from crkd_ros.conversions import ConversionError
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


def test_score_threshold_applies():
    found = answer(detect, assembled(micro_frame(0).frame), frame_id="base_link", score_threshold=0.5)
    assert found.detections.scores.tolist() == [0.9]


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
