"""The node with the helpers of a distribution, and without them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_packages import needed
from small_drive import CAMERAS, PARAMETERS, write_checkpoint, write_drive

from crkd_ros.answers import report_of
from crkd_ros.backends.distribution import MODULES
from crkd_ros.nodes.detector import DetectorNode
from rosbag_tools.bags import open_bag
from rosbag_tools.children import Children, graph_environment

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]
MANIFEST = "/detections/manifest"


def test_configuring_fails_at_once_and_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "message_filters", None)
    context = rclpy.Context()
    context.init()
    given = {**PARAMETERS, "backend": "distribution", "checkpoint": "/nowhere"}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = DetectorNode(context=context, parameter_overrides=overrides)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert node.problem.startswith("parameter backend: 'distribution' needs the module 'message_filters'")
        assert "\n" not in node.problem
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_the_node_answers_with_frames_that_the_distribution_matched(tmp_path: Path) -> None:
    for module in MODULES:
        needed(module)
    rig = tmp_path / "rig.yaml"
    rig.write_text(
        f"detector: {{ros__parameters: {{cameras: [{', '.join(CAMERAS)}], radars: [radar_front], device: cpu, "
        f"backend: distribution, drop_frames: false, checkpoint: {write_checkpoint(tmp_path / 'micro')}}}}}\n"
    )
    bag, out = write_drive(tmp_path / "drive.mcap"), tmp_path / "live.mcap"
    with Children(tmp_path / "logs", graph_environment()) as graph:
        node = graph.start_module("node", "crkd_ros.nodes.detector", ["--ros-args", "--params-file", str(rig)])
        recorder = graph.start_module("recorder", "rosbag_tools.record_bag", [MANIFEST, "--out", str(out)])
        recorder.wait_for("recording all topics", timeout=120.0)
        player = graph.start_module("player", "rosbag_tools.play_bag", [str(bag), "--rate", "0.5"])
        player.wait(timeout=120.0, others=[node, recorder])
        time.sleep(1.0)
        assert recorder.stop() == 0
        assert node.stop() == 0
        assert "Traceback" not in node.text()
    with open_bag(out) as opened:
        states = Counter(report_of(m.message).state for m in opened.messages([MANIFEST]))
    assert states["NOMINAL"] >= 10
