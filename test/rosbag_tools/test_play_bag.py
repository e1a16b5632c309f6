"""The bag player as its own process, on a real graph."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_drive import START, write_drive

from crkd_ros import topics
from rosbag_tools.bags import open_bag
from rosbag_tools.children import Child, Children, graph_environment

pytestmark = pytest.mark.ros

FRONT = topics.image_topic("cam_front")
RADAR = topics.points_topic("radar_front")
WAIT = 120.0


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("bag") / "drive.mcap")


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Children]:
    with Children(tmp_path / "logs", graph_environment()) as children:
        yield children


def play(graph: Children, *arguments: object) -> Child:
    return graph.start_module("player", "rosbag_tools.play_bag", [str(a) for a in arguments])


UNPAUSE = """
import sys, rclpy
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
rclpy.init(); node = rclpy.create_node("someone")
client = node.create_client(SetParameters, "/bag_player/set_parameters")
assert client.wait_for_service(timeout_sec=30)
value = ParameterValue(type=1, bool_value=False)
done = client.call_async(SetParameters.Request(parameters=[Parameter(name="paused", value=value)]))
rclpy.spin_until_future_complete(node, done, timeout_sec=30)
sys.exit(0 if done.result().results[0].successful else 1)
"""


def unpause(graph: Children) -> None:
    """Lets a player go on."""
    assert ended(graph.start("someone", [sys.executable, "-c", UNPAUSE])) == 0


def play_to(graph: Children, recorder: Child, *arguments: object) -> Child:
    """Plays when the recorder hears every topic."""
    player = play(graph, *arguments, "--paused")
    recorder.wait_for("recording all topics", timeout=WAIT, others=[player])
    unpause(graph)
    player.wait(timeout=WAIT, others=[recorder])
    assert recorder.stop() == 0
    return player


def ended(child: Child) -> int:
    end = time.monotonic() + WAIT
    while child.returncode is None and time.monotonic() < end:
        time.sleep(0.05)
    assert child.returncode is not None
    return child.returncode


def raw(path: Path, name: str) -> list[bytes]:
    """Serialised messages; the middleware pads them to whole words."""
    with open_bag(path) as opened:
        return [bytes(data) + bytes(-len(data) % 4) for _, _, data in opened.raw_messages([name])]


def test_messages_arrive_complete_unchanged_and_in_order(graph: Children, bag: Path, tmp_path: Path):
    recorded = (FRONT, RADAR, topics.TF, topics.TF_STATIC, "/clock")
    out = tmp_path / "out.mcap"
    recorder = graph.start_module("recorder", "rosbag_tools.record_bag", [*recorded, "--out", str(out)])
    player = play_to(graph, recorder, bag, "--rate", 2, "--clock", 50)
    for name in (FRONT, RADAR, topics.TF, topics.TF_STATIC):
        assert raw(out, name) == raw(bag, name), name
    with open_bag(out) as opened:
        clock = [m.message.clock for m in opened.messages(["/clock"])]
    ticks = [tick.sec * 1_000_000_000 + tick.nanosec for tick in clock]
    assert ticks == sorted(ticks)
    assert START <= ticks[0] < ticks[-1] <= START + 2_000_000_000
    assert " messages on 9 topics" in player.text()


def test_play_begins_later_and_keeps_what_is_latched(graph: Children, bag: Path, tmp_path: Path):
    out = tmp_path / "out.mcap"
    recorder = graph.start_module("recorder", "rosbag_tools.record_bag", [RADAR, topics.TF_STATIC, "--out", str(out)])
    play_to(graph, recorder, bag, "--topics", RADAR, topics.TF_STATIC, "--start", 1, "--rate", 4)
    with open_bag(bag) as opened:
        start = opened.start + 1_000_000_000
        later = [bytes(data) + bytes(-len(data) % 4) for _, _, data in opened.raw_messages([RADAR], start=start)]
    assert 0 < len(later) < len(raw(bag, RADAR))
    assert raw(out, RADAR) == later
    assert raw(out, topics.TF_STATIC) == raw(bag, topics.TF_STATIC)


def test_paused_player_waits_for_the_parameter(graph: Children, bag: Path):
    player = play(graph, bag, "--topics", RADAR, "--rate", 0, "--wait", 0, "--paused")
    time.sleep(1.0)
    assert player.returncode is None
    unpause(graph)
    assert ended(player) == 0
    assert "20 messages on 1 topics" in player.text()


def test_topics_can_be_chosen(graph: Children, bag: Path):
    player = play(graph, bag, "--topics", RADAR, FRONT, "--rate", 0, "--wait", 0)
    assert ended(player) == 0
    assert "38 messages on 2 topics" in player.text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--start", "99"], "--start 99: the recording is 1."),
        (["--wait", "1"], "no subscriber to any of the topics after 1 s; start one, or give --wait 0"),
        (["--lossless", "--wait", "1"], "topic /detections: nobody publishes it after 1 s; start the detector"),
        (["--lossless", "--trigger", "/cam_up"], "no message on /cam_up (found /cam_front/camera_info"),
        (["--topics", "/nothing"], "no message on /nothing (found "),
        (["--rate", "-1"], "--rate: expected 0 or more, got -1"),
    ],
)
def test_mistake_is_one_clear_line(graph: Children, bag: Path, arguments: list[str], complaint: str):
    player = play(graph, bag, *arguments)
    assert ended(player) == 2
    errors = [line for line in player.text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert "Traceback" not in player.text()


SLOW_ANSWERER = """
import sys, time, rclpy
from rclpy.qos import QoSProfile, HistoryPolicy
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import Detection3DArray
rclpy.init()
node = rclpy.create_node("answerer")
answers = node.create_publisher(Detection3DArray, "/detections", 100)
waiting, most, silent_from = [], 0, int(sys.argv[1])
node.create_subscription(CompressedImage, sys.argv[2], waiting.append, QoSProfile(history=HistoryPolicy.KEEP_ALL))
answered = 0
while True:
    rclpy.spin_once(node, timeout_sec=0.1)
    quiet = time.monotonic() + 0.3
    while time.monotonic() < quiet and len(waiting) < 50:
        rclpy.spin_once(node, timeout_sec=0.05)
    if waiting and answered < silent_from:
        most = max(most, len(waiting))
        answers.publish(Detection3DArray(header=waiting.pop(0).header))
        answered += 1
        print("answered", answered, "most waiting", most, flush=True)
"""


def test_lossless_player_waits_for_slow_answers_and_runs_ahead_by_the_horizon_only(
    graph: Children, bag: Path, tmp_path: Path
):
    script = tmp_path / "answerer.py"
    script.write_text(SLOW_ANSWERER)
    answerer = graph.start("answerer", [sys.executable, str(script), "1000", FRONT])
    player = play(graph, bag, "--lossless", "--horizon", 0.25)
    player.wait(timeout=WAIT, others=[answerer])
    assert "18 answers" in player.text()
    last = answerer.text().splitlines()[-1].split()
    assert int(last[1]) == 18
    # A quarter of a second holds three more images at 12 Hz.
    assert int(last[-1]) <= 4


def test_lossless_player_gives_up_on_an_answer_that_does_not_come(graph: Children, bag: Path, tmp_path: Path):
    script = tmp_path / "answerer.py"
    script.write_text(SLOW_ANSWERER)
    graph.start("answerer", [sys.executable, str(script), "2", FRONT])
    player = play(graph, bag, "--lossless", "--answer-timeout", 2)
    assert ended(player) == 2
    assert f"error: {FRONT} at " in player.text()
    assert "no answer on /detections after 2 s; is the detector running with drop_frames:=false?" in player.text()
