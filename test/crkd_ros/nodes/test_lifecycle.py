"""The detector node's transitions, in this process."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_drive import PARAMETERS, write_checkpoint

rclpy = pytest.importorskip("rclpy")

from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from crkd_ros.nodes.detector import DetectorNode  # noqa: E402

pytestmark = pytest.mark.ros
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "micro")


@pytest.fixture
def make() -> Iterator[Callable[..., DetectorNode]]:
    """Makes detector nodes for the small drive's rig, in a ROS context of their own."""
    context = rclpy.Context()
    context.init()
    nodes: list[DetectorNode] = []

    def make_node(**values: Any) -> DetectorNode:
        given = {**PARAMETERS, "device": "cpu", **values}
        overrides = [Parameter(name, value=value) for name, value in given.items()]
        nodes.append(DetectorNode(context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make_node
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


def sensor_topics(node: DetectorNode) -> list[str]:
    return sorted(s.topic_name for s in node.subscriptions if s.topic_name.startswith(("/cam", "/radar", "/tf")))


def test_subscribes_only_while_active_and_can_be_cycled(make: Callable[..., DetectorNode], checkpoint: Path):
    node = make(checkpoint=str(checkpoint))
    assert node.trigger_configure() == SUCCESS
    assert sensor_topics(node) == []
    for _ in range(2):
        assert node.trigger_activate() == SUCCESS
        assert sensor_topics(node) == [
            "/cam_front/camera_info",
            "/cam_front/image_raw/compressed",
            "/cam_front_left/camera_info",
            "/cam_front_left/image_raw/compressed",
            "/radar_front/points",
            "/tf",
            "/tf_static",
        ]
        assert node.trigger_deactivate() == SUCCESS
        assert sensor_topics(node) == []
    assert node.trigger_cleanup() == SUCCESS
    assert not [p for p in node.publishers if p.topic_name.startswith("/detection")]
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert sensor_topics(node) == []


def test_configuring_fails_with_a_reason_when_there_is_no_checkpoint(make: Callable[..., DetectorNode]):
    node = make(checkpoint="/nowhere")
    assert node.trigger_configure() == FAILURE
    assert node.problem.startswith("checkpoint /nowhere: model.json not found")


def test_activating_fails_with_a_reason_and_leaves_nothing_running(make: Callable[..., DetectorNode], checkpoint: Path):
    wrong = {"reference": "topic", "reference_topic": "/lidar", "reference_type": "nobody_msgs/msg/Nothing"}
    node = make(checkpoint=str(checkpoint), **wrong)
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == FAILURE
    assert node.problem.startswith("message type 'nobody_msgs/msg/Nothing': not found")
    assert sensor_topics(node) == []
    assert not list(node.timers)
    assert node.trigger_cleanup() == SUCCESS


def test_an_error_nobody_foresaw_is_told_too(
    make: Callable[..., DetectorNode], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("crkd_ros.nodes.detector.warm_up", broken)
    node = make(checkpoint=str(checkpoint))
    assert node.trigger_configure() == FAILURE
    assert node.problem == "RuntimeError: CUDA out of memory"


def state_of(node: DetectorNode) -> str:
    return str(node._state_machine.current_state[1])


def test_every_transition_ends_in_its_state(make: Callable[..., DetectorNode], checkpoint: Path):
    node = make(checkpoint=str(checkpoint))
    steps = [
        (node.trigger_configure, "inactive"),
        (node.trigger_activate, "active"),
        (node.trigger_deactivate, "inactive"),
        (node.trigger_cleanup, "unconfigured"),
        (node.trigger_shutdown, "finalized"),
    ]
    assert state_of(node) == "unconfigured"
    for step, state in steps:
        assert step() == SUCCESS
        assert state_of(node) == state
    assert not list(node.timers)
    assert node._detector is None


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_it_can_be_shut_down_from_every_state(make: Callable[..., DetectorNode], checkpoint: Path, steps: int):
    node = make(checkpoint=str(checkpoint))
    for step in (node.trigger_configure, node.trigger_activate)[:steps]:
        assert step() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert state_of(node) == "finalized"


def test_with_each_activation_counts_begin_anew_and_numbers_of_objects_go_on(
    make: Callable[..., DetectorNode], checkpoint: Path
):
    node = make(**{"checkpoint": str(checkpoint), "tracker.enabled": True})
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    tracker = node._tracker
    assert tracker is not None
    node._health.failure()
    assert node._health.failed == 1
    assert node.trigger_deactivate() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert node._health.failed == 0
    assert node._tracker is tracker


@pytest.mark.parametrize("failing", ["trigger_deactivate", "trigger_cleanup"])
def test_after_an_error_in_a_transition_everything_is_let_go_of_and_the_node_can_be_configured_anew(
    make: Callable[..., DetectorNode], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    node = make(checkpoint=str(checkpoint))
    assert node.trigger_configure() == SUCCESS
    step = "_release"
    if failing == "trigger_deactivate":
        assert node.trigger_activate() == SUCCESS
        step = "_stop"
    with monkeypatch.context() as patch:
        whole, calls = getattr(node, step), []

        def fail_once() -> None:
            calls.append(step)
            if len(calls) == 1:
                raise RuntimeError("the device is gone")
            whole()

        patch.setattr(node, step, fail_once)
        getattr(node, failing)()
    assert len(calls) == 2
    assert node.problem == "RuntimeError: the device is gone"
    assert state_of(node) == "unconfigured"
    assert node._detector is None
    assert sensor_topics(node) == []
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert state_of(node) == "active"


def test_a_parameter_file_that_is_not_there_is_one_line_and_code_2(tmp_path: Path):
    words = ["--ros-args", "--params-file", str(tmp_path / "nothing.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "crkd_ros.nodes.detector", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]  # rcl logs a line of its own before
    assert told.startswith("error: ROS arguments: ")
    assert "nothing.yaml" in told
    assert "Traceback" not in done.stderr


def test_while_active_garbage_collection_leaves_aside_what_was_there_before(
    make: Callable[..., DetectorNode], checkpoint: Path
):
    node = make(checkpoint=str(checkpoint))
    assert node.trigger_configure() == SUCCESS
    gc.unfreeze()  # a node that a test left active
    assert node.trigger_activate() == SUCCESS
    assert gc.get_freeze_count() > 50_000
    assert node.trigger_deactivate() == SUCCESS
    assert gc.get_freeze_count() == 0
