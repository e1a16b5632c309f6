import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import KEY_FRAMES, MS, START, car_seen, write_detections, write_drive

from crkd_core.cli import UserError
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import load_devkit, tokens_of_scenes, truth_from_nuscenes
from crkd_core.types import Boxes3D, Detections
from crkd_ros import topics
from crkd_ros.answers import FrameReport
from rosbag_tools.bag_evaluation import evaluate_bag, key_frame_results, latencies, moved_to, report_text
from rosbag_tools.bags import new_bag, open_bag
from rosbag_tools.evaluate_bag import score
from rosbag_tools.nuscenes_to_rosbag import convert
from rosbag_tools.recorded import RecordedDetections, RecordingError, annotations_in, truth_of, vehicle_poses

pytest.importorskip("nuscenes")


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path / "drive.mcap")


def answers(offset_ms: int = 0, *, skip: int = 0) -> list[Detections]:
    return [car_seen(stamp + offset_ms * MS) for stamp in KEY_FRAMES[skip:]]


def figures(args: list[str], out: Path) -> dict[str, object]:
    assert score([*args, "--no-progress", "--out", str(out)]) == 0
    content: dict[str, object] = json.loads(out.read_text())
    return content


def test_detections_at_the_key_frames_are_perfect(drive: Path, tmp_path: Path):
    found = write_detections(tmp_path / "found.mcap", answers())
    content = figures([str(found), "--input", str(drive)], tmp_path / "metrics.json")
    present = content["metrics"]["present"]
    assert present["mAP"] == pytest.approx(1.0)
    assert present["NDS"] == pytest.approx(1.0, abs=1e-4)
    assert [k["offset_ms"] for k in content["key_frames"]] == [0.0] * 4
    assert content["states"] == {"DEGRADED": 1, "NOMINAL": 3}
    assert content["latency_ms"]["network"] == [11.5, pytest.approx(12.85), 13.0]


@pytest.mark.parametrize("offset_ms", [-55, 40])
def test_detections_between_key_frames_are_moved_to_them(drive: Path, tmp_path: Path, offset_ms: int):
    found = write_detections(tmp_path / "found.mcap", answers(offset_ms))
    content = figures([str(found), "--input", str(drive)], tmp_path / "metrics.json")
    present = content["metrics"]["present"]
    assert present["mAP"] == pytest.approx(1.0)
    # Uncorrected, the car would be off by 12 m/s x 55 ms = 0.66 m, and by the vehicle's own way.
    assert present["mATE"] < 0.01
    assert present["mAOE"] < 0.01
    assert present["mAVE"] < 0.05


def test_moving_takes_the_boxes_along_and_turns_them_with_the_vehicle(drive: Path):
    with open_bag(drive) as bag:
        poses = vehicle_poses(bag)
    moved = moved_to(car_seen(START + 440 * MS), START + 500 * MS, poses)
    expected = car_seen(START + 500 * MS)
    assert moved is not None
    assert moved.stamp == expected.stamp
    np.testing.assert_allclose(moved.boxes.centers, expected.boxes.centers, atol=1e-3)
    np.testing.assert_allclose(moved.boxes.yaws, expected.boxes.yaws, atol=1e-4)
    np.testing.assert_allclose(moved.boxes.velocities, expected.boxes.velocities, atol=1e-2)


def test_key_frames_without_detections_count_as_empty_and_are_listed(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = write_detections(tmp_path / "found.mcap", answers(skip=1))
    content = figures([str(found), "--input", str(drive)], tmp_path / "metrics.json")
    assert [k["offset_ms"] for k in content["key_frames"]] == [None, 0.0, 0.0, 0.0]
    assert content["metrics"]["present"]["mAP"] < 0.8
    printed = capsys.readouterr().out
    assert "key frames: 3 of 4 scored" in printed
    assert "counted as empty: sample0 (at 0.0 s): no detections within 60 ms" in printed


def test_the_nearest_of_several_detections_is_taken(drive: Path):
    with open_bag(drive) as bag:
        truth = {a.sample_token: truth_of(a) for a in annotations_in(bag)}
        poses = vehicle_poses(bag)
    times = [(stamp, offset) for stamp in KEY_FRAMES for offset in (-50, -10, 30)]
    near = [replace(car_seen(s + d * MS), scores=np.array([0.5 + d / 1000])) for s, d in times]
    results, matches = key_frame_results(truth, near, poses)
    assert {m.offset_ms for m in matches} == {-10.0}
    assert all(entries[0]["detection_score"] == pytest.approx(0.49) for entries in results.values())


def test_boxes_out_of_range_are_not_submitted(drive: Path):
    far = Boxes3D(np.array([[60.0, 0, 0.8], [10.0, 0, 0.8]]), np.ones((2, 3)), np.zeros(2), np.zeros((2, 2)))
    found = Detections(far, np.ones(2), np.zeros(2, dtype=np.int64), topics.BASE_FRAME, START)
    with open_bag(drive) as bag:
        truth = {a.sample_token: truth_of(a) for a in annotations_in(bag)[:1]}
        results, _ = key_frame_results(truth, [found], vehicle_poses(bag))
    assert len(results["sample0"]) == 1


def test_missing_velocities_are_said(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = write_detections(tmp_path / "found.mcap", answers(), velocities=False)
    content = figures([str(found), "--input", str(drive)], tmp_path / "metrics.json")
    assert content["metrics"]["present"]["mAVE"] == pytest.approx(12.0, abs=0.01)
    assert "answers without recorded velocities (taken as 0): 4 of 4" in capsys.readouterr().out


def test_ceiling_is_printed_beside(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = write_detections(tmp_path / "found.mcap", answers())
    args = [str(found), "--input", str(drive), "--ceiling", "student_tiny"]
    content = figures(args, tmp_path / "metrics.json")
    assert content["ceiling"]["present"]["mAP"] == pytest.approx(1.0)
    assert "ceiling of the 1" in capsys.readouterr().out


def test_one_bag_may_hold_everything(tmp_path: Path):
    drive, found = write_drive(tmp_path / "drive.mcap"), write_detections(tmp_path / "found.mcap", answers())
    with open_bag(drive) as a, open_bag(found) as b, new_bag(tmp_path / "both.mcap") as both:
        for bag in (a, b):
            for name, topic in bag.topics.items():
                both.add_topic(name, topic.type)
        for bag in (a, b):
            for topic, stamp, data in bag.raw_messages():
                both.write_raw(topic, stamp, data)
    content = figures([str(tmp_path / "both.mcap")], tmp_path / "metrics.json")
    assert content["metrics"]["present"]["mAP"] == pytest.approx(1.0)


def refused(args: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        score([*args, "--no-progress"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_of_the_user_are_one_line(drive: Path, tmp_path: Path):
    found = str(write_detections(tmp_path / "found.mcap", answers()))
    other = str(write_detections(tmp_path / "other.mcap", answers(offset_ms=100_000)))
    blind = str(write_drive(tmp_path / "blind.mcap", without=[topics.ANNOTATIONS]))
    lost = str(write_drive(tmp_path / "lost.mcap", without=[topics.TF, topics.ODOMETRY]))
    assert "no such file" in refused([str(tmp_path / "nothing.mcap")])
    assert "no message on /detections" in refused([str(drive)])
    assert "no message on /annotations" in refused([found, "--input", blind])
    assert "no pose of 'base_link'" in refused([found, "--input", lost])
    assert "Are they of the same drive?" in refused([other, "--input", str(drive)])
    assert "--dataroot and --scene belong together" in refused([found, "--dataroot", str(tmp_path)])
    assert "cannot be written" in refused([found, "--input", str(drive), "--out", str(drive / "metrics.json")])
    assert "expected 0 or more" in refused([found, "--tolerance-ms", "-1"])
    assert "expected a number, got 'nan'" in refused([found, "--tolerance-ms", "nan"])
    assert "name the bag that was played by --input" in refused([found])
    assert "expected vision_msgs/msg/Detection3DArray, got" in refused([found, "--topic", topics.DETECTION_VELOCITIES])
    assert "'virtual_lidar' is not on /tf_static" in refused(
        [found, "--input", str(drive), "--ceiling", "student_tiny", "--bev-frame", "virtual_lidar"]
    )


def test_no_key_frame_is_an_error(drive: Path):
    with open_bag(drive) as bag, pytest.raises(RecordingError, match="no key frame"):
        evaluate_bag(RecordedDetections((), 0, ()), {}, vehicle_poses(bag))


def test_stages_that_only_some_reports_have_are_summarised_over_those():
    def report(**timings: float) -> FrameReport:
        return FrameReport(
            stamp=0, state="NOMINAL", reasons=(), sensors={}, calibration="", poses="", detections=0, timings_ms=timings
        )

    found = latencies([report(network=1.0), report(network=3.0, decode=5.0), report()])
    assert found == {"network": (2.0, pytest.approx(2.9), 3.0), "decode": (5.0, 5.0, 5.0)}


def test_report_of_a_perfect_run_names_matches(drive: Path):
    with open_bag(drive) as bag:
        truth = {a.sample_token: truth_of(a) for a in annotations_in(bag)}
        evaluation = evaluate_bag(RecordedDetections(tuple(answers(10)), 4, ()), truth, vehicle_poses(bag))
    text = report_text(evaluation)
    assert "key frames: 4 of 4 scored with detections 10 ms away in the median, 10 ms at most" in text
    assert evaluation.unmatched == []


@pytest.mark.nuscenes
def test_ground_truth_of_a_bag_gives_the_figures_of_its_nuscenes_root(
    nuscenes_root: Path, nuscenes_results_dir: Path, tmp_path: Path
):
    scene = "scene-0916"
    args = ["--dataroot", str(nuscenes_root), "--version", "v1.0-mini", "--scene", scene]
    assert convert([*args, "--out", str(tmp_path / "drive.mcap")]) == 0
    results = json.loads((nuscenes_results_dir / "cc_3dt_scene0916_only.json").read_text())["results"]
    with open_bag(tmp_path / "drive.mcap") as bag:
        from_bag = {a.sample_token: truth_of(a) for a in annotations_in(bag)}
    devkit = load_devkit(nuscenes_root, "v1.0-mini")
    tokens = [token for token in tokens_of_scenes(devkit, [scene]) if token in from_bag]
    assert len(tokens) == len(from_bag) > 0
    assert evaluate(results, from_bag) == evaluate(results, truth_from_nuscenes(devkit, tokens))


def test_report_is_one_page_that_needs_nothing_else(drive: Path, tmp_path: Path):
    found = write_detections(tmp_path / "found.mcap", answers(10))
    page = tmp_path / "report.html"
    assert score([str(found), "--input", str(drive), "--no-progress", "--html", str(page), "--by", "range"]) == 0
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") == 4
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "<td>car</td><td>4</td><td>4</td><td>1.000</td>" in text
    assert "0-20 m" in text
    assert "distance of the centres, m: 4 matches, median 0.00" in text
    assert "<td>network</td><td>11.5</td>" in text
    assert text.count("<table>") == 3


def test_errors_of_matches_are_told(drive: Path, tmp_path: Path):
    moved = [replace(a, boxes=replace(a.boxes, centers=a.boxes.centers + np.array([0.3, 0.4, 0.0]))) for a in answers()]
    content = figures(
        [str(write_detections(tmp_path / "found.mcap", moved)), "--input", str(drive)], tmp_path / "metrics.json"
    )
    assert content["errors"]["distance"] == pytest.approx([0.5] * 4, abs=1e-5)
    assert content["errors"]["heading"] == pytest.approx([0.0] * 4, abs=1e-5)
