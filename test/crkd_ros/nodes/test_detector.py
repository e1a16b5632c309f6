"""The detector node on a real ROS graph, in its own process, against the offline path."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_drive import CAMERAS, START, write_checkpoint, write_drive

from crkd_core.types import Detections
from crkd_ros import topics
from crkd_ros.answers import FrameReport, make_detector, report_of
from crkd_ros.conversions import detections_of
from crkd_ros.parameters import load_parameters
from rosbag_tools.bag_detection import detect_bag
from rosbag_tools.bags import open_bag
from rosbag_tools.children import Child, Children, graph_environment

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]

MANIFEST = "/detections/manifest"
OUTPUTS = (topics.DETECTIONS, topics.DETECTION_VELOCITIES, MANIFEST)
START_TIME = 120.0
FRONT = topics.image_topic("cam_front")
FRONT_LEFT = topics.image_topic("cam_front_left")
RADAR = topics.points_topic("radar_front")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameter file of the small drive's rig, with a checkpoint."""
    folder = tmp_path_factory.mktemp("rig")
    checkpoint = write_checkpoint(folder / "micro")
    path = folder / "rig.yaml"
    path.write_text(
        f"detector: {{ros__parameters: {{cameras: [{', '.join(CAMERAS)}], radars: [radar_front], device: cpu, "
        f"checkpoint: {checkpoint}}}}}\n"
    )
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Children]:
    with Children(tmp_path / "logs", graph_environment()) as children:
        yield children


def start_node(graph: Children, rig: Path, *parameters: str) -> Child:
    words = [word for parameter in parameters for word in ("-p", parameter)]
    return graph.start_module("node", "crkd_ros.nodes.detector", ["--ros-args", "--params-file", str(rig), *words])


def start_recorder(graph: Children, out: Path, *names: str) -> Child:
    recorder = graph.start_module("recorder", "rosbag_tools.record_bag", [*names, "--out", str(out)])
    recorder.wait_for("recording all topics", timeout=START_TIME)
    return recorder


def results(bag: Path) -> dict[int, tuple[Detections, FrameReport]]:
    """Stamp -> detections and report."""
    by_topic: dict[str, dict[int, Any]] = {name: {} for name in OUTPUTS}
    with open_bag(bag) as opened:
        for m in opened.messages(OUTPUTS):
            stamp = report_of(m.message).stamp if m.topic == MANIFEST else detections_of_stamp(m.message)
            by_topic[m.topic][stamp] = m.message
    boxes, velocities, reports = (by_topic[name] for name in OUTPUTS)
    whole = boxes.keys() & velocities.keys() & reports.keys()
    # A recording may begin or end within an answer; between these every answer is whole.
    for stamp in (boxes.keys() | velocities.keys() | reports.keys()) - whole:
        assert not min(whole, default=stamp) < stamp < max(whole, default=stamp)
    return {s: (detections_of(boxes[s], velocities[s]), report_of(reports[s])) for s in sorted(whole)}


def objects(bag: Path) -> list[list[str]]:
    """The numbers of the objects in each frame."""
    with open_bag(bag) as opened:
        found = {
            detections_of_stamp(m.message): [box.id for box in m.message.detections]
            for m in opened.messages([topics.DETECTIONS])
        }
    return [ids for _, ids in sorted(found.items())]


def detections_of_stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def same_boxes_where_inputs_are_the_same(
    live: dict[int, tuple[Detections, FrameReport]], offline: dict[int, tuple[Detections, FrameReport]]
) -> int:
    """Compares the boxes of frames of equal manifest and poses; returns how many frames these are."""
    compared = 0
    for stamp, (expected, expected_report) in offline.items():
        if stamp not in live:
            continue
        found, report = live[stamp]
        if (report.manifest, report.poses) != (expected_report.manifest, expected_report.poses):
            continue
        assert found.labels.tolist() == expected.labels.tolist()
        np.testing.assert_allclose(found.boxes.centers, expected.boxes.centers, rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.boxes.velocities, expected.boxes.velocities, rtol=0, atol=1e-3)
        compared += 1
    return compared


def played(player: Child) -> list[float]:
    """Seconds of the recording, each time the player has drawn its bar."""
    return [float(seconds) for seconds in re.findall(r"\| (\d+\.\d)/\d", player.text())]


def jumps_back(seconds: list[float]) -> int:
    """How often a player has begun again."""
    return sum(after < before for before, after in pairwise(seconds))


def damaged(topic: str, number: int, message: Any) -> Any:
    """Two images and two clouds that cannot be used, of different kinds, and a lost image."""
    if (topic, number) == (FRONT, 5):
        message.data = np.zeros(7, dtype=np.uint8)  # no image at all, and it is the trigger
    elif (topic, number) == (FRONT_LEFT, 7):
        message.data = message.data[: len(message.data) // 2]  # breaks off: shows only when it is decoded
    elif topic == RADAR and number in (8, 9):
        message.data = message.data[:50]
    elif (topic, number) == (FRONT_LEFT, 11):
        return None
    return message


def test_lossless_replay_equals_offline_detection_even_with_damaged_messages(
    graph: Children, rig: Path, tmp_path: Path
):
    bag = write_drive(tmp_path / "drive.mcap", change=damaged)
    parameters = load_parameters(rig, {"tracker.enabled": True})
    summary = detect_bag(bag, tmp_path / "offline.mcap", make_detector(parameters), parameters, keep_going=True)
    assert summary.states["DEGRADED"] >= 3

    node = start_node(graph, rig, "drop_frames:=false", "replay_queue:=2", "tracker.enabled:=true")
    recorder = start_recorder(graph, tmp_path / "live.mcap", *OUTPUTS)
    player = graph.start_module("player", "rosbag_tools.play_bag", [str(bag), "--lossless"])
    player.wait(timeout=120.0, others=[node, recorder])
    time.sleep(0.5)
    assert recorder.stop() == 0
    assert node.stop() == 0

    live, offline = results(tmp_path / "live.mcap"), results(tmp_path / "offline.mcap")
    assert list(live) == list(offline)
    assert len(live) == 18
    assert same_boxes_where_inputs_are_the_same(live, offline) == 18
    numbers = objects(tmp_path / "offline.mcap")
    assert objects(tmp_path / "live.mcap") == numbers
    assert any(set(before) & set(after) for before, after in pairwise(numbers))
    for stamp, (_, expected_report) in offline.items():
        _, report = live[stamp]
        assert report.manifest == expected_report.manifest
        assert (report.state, report.poses) == (expected_report.state, expected_report.poses)
        assert set(report.timings_ms) >= {"assemble", "queue", "network", "total"}
    log = node.text()
    assert log.count(f"{RADAR}: message dropped (1 so far)") == 1
    assert log.count(f"{FRONT}: message dropped (1 so far)") == 1
    assert "Traceback" not in log


def test_looping_real_time_replay_with_simulated_clock_recovers_and_answers_nearly_all(
    graph: Children, rig: Path, tmp_path: Path
):
    bag = write_drive(tmp_path / "drive.mcap", seconds=3.0)
    node = start_node(graph, rig, "use_sim_time:=true")
    recorder = start_recorder(graph, tmp_path / "live.mcap", *OUTPUTS, "/diagnostics")
    player = graph.start_module("player", "rosbag_tools.play_bag", [str(bag), "--clock", "--loop", "--rate", "0.5"])
    # Two whole rounds, so that a frame that a busy machine lost has a second chance.
    while jumps_back(played(player)) < 2:
        for child in (node, recorder, player):
            child.check()
        time.sleep(0.1)
    assert player.stop() == 130  # by Ctrl-C: nothing less kind, for which it would have played on, was needed
    assert recorder.stop() == 0
    assert node.stop() == 0
    live = results(tmp_path / "live.mcap")
    expected = {START + 100_000_000 + round(i * 1e9 / 12) for i in range(36)}
    assert len(expected & live.keys()) >= 27  # `make load` judges real time
    nominal = [report for _, report in live.values() if report.state == "NOMINAL"]
    assert len(nominal) >= 24
    parameters = load_parameters(rig)
    detect_bag(bag, tmp_path / "offline.mcap", make_detector(parameters), parameters)
    assert same_boxes_where_inputs_are_the_same(live, results(tmp_path / "offline.mcap")) >= 24
    assert "time jumped back" in node.text()
    with open_bag(tmp_path / "live.mcap") as opened:
        answered = [report_of(m.message).stamp for m in opened.messages([MANIFEST])]
        statuses = [m.message.status[0] for m in opened.messages(["/diagnostics"])]
    again = next(i for i, (before, after) in enumerate(pairwise(answered), start=1) if after < before)
    assert len(answered[again:]) >= 12
    assert {"CAM_FRONT rate (Hz)", "RADAR_FRONT age (ms)", "latency mean (ms)"} <= {
        pair.key for status in statuses for pair in status.values
    }


def test_without_a_camera_the_node_says_stale_and_a_second_signal_does_no_harm(
    graph: Children, rig: Path, tmp_path: Path
):
    node = start_node(graph, rig, "stale_after_ms:=300")
    recorder = start_recorder(graph, tmp_path / "live.mcap", *OUTPUTS)
    time.sleep(5.0)
    assert recorder.stop() == 0
    live = results(tmp_path / "live.mcap")
    assert len(live) >= 2
    for found, report in live.values():
        assert len(found) == 0
        assert report.state == "STALE"
        assert report.reasons[0].startswith("no image from CAM_FRONT for ")
    for _ in range(2):
        os.kill(node._process.pid, signal.SIGINT)
    assert node.stop() == 0
    assert "Traceback" not in node.text()
    assert node.text().count("STALE: no image from CAM_FRONT for ") == 1  # a change of state is told once


@pytest.mark.parametrize(
    ("parameter", "complaint"),
    [
        ("checkpoint:=/nowhere", "checkpoint /nowhere: model.json not found"),
        ("recipe:=student_r50", "recipe: expected 'student_r50', got 'micro'"),
        ("dedline_ms:=100.0", "parameter dedline_ms: unknown; did you mean deadline_ms?"),
    ],
)
def test_mistake_ends_the_node_with_one_clear_line(graph: Children, rig: Path, parameter: str, complaint: str):
    node = start_node(graph, rig, parameter)
    end = time.monotonic() + START_TIME
    while node.returncode is None and time.monotonic() < end:
        time.sleep(0.1)
    assert node.returncode == 2
    errors = [line for line in node.text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert "Traceback" not in node.text()
