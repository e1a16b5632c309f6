"""The recorder as its own process, on a real graph."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rosbag_tools.bags import open_bag
from rosbag_tools.children import Children, graph_environment

pytestmark = pytest.mark.ros


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Children]:
    with Children(tmp_path / "logs", graph_environment()) as children:
        yield children


TALKER = """
import sys, time, rclpy
from rclpy.qos import QoSProfile, DurabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header, String
rclpy.init()
node = rclpy.create_node("talker")
latched = node.create_publisher(String, "/labels", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
latched.publish(String(data="said before anybody listened"))
heads = node.create_publisher(Header, "/heads", 100)
fast = node.create_publisher(Header, "/fast", qos_profile_sensor_data)
clock = node.create_publisher(Clock, "/clock", 10)
while min(p.get_subscription_count() for p in (latched, heads, fast)) < 1:
    time.sleep(0.05)
print("heard", flush=True)
if "sim" in sys.argv:
    while clock.get_subscription_count() < 1:
        time.sleep(0.05)
    time.sleep(0.3)
    for i in range(10):  # the clock reaches the recorder in its own time
        message = Clock()
        message.clock.sec = 1000
        clock.publish(message)
        time.sleep(0.05)
for i in range(20):
    for publisher in (heads, fast):
        message = Header(frame_id=str(i))
        publisher.publish(message)
    time.sleep(0.01)
from rclpy.duration import Duration
heads.wait_for_all_acked(Duration(seconds=10))
print("done", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("sim", [False, True])
def test_everything_published_is_recorded(graph: Children, tmp_path: Path, sim: bool) -> None:
    out = tmp_path / "bag.mcap"
    options = ["--use-sim-time"] if sim else []
    recorder = graph.start_module(
        "recorder", "rosbag_tools.record_bag", ["/labels", "/heads", "/fast", "--out", str(out), *options]
    )
    talker = graph.start("talker", [sys.executable, "-c", TALKER, "sim" if sim else "wall"])
    recorder.wait_for("recording all topics", timeout=120, others=[talker])
    talker.wait_for("done", timeout=120, others=[recorder])
    assert not out.exists()
    assert recorder.stop() == 0
    with open_bag(out) as bag:
        assert bag.topics["/labels"].latched
        found = list(bag.messages())
    assert [m.message.data for m in found if m.topic == "/labels"] == ["said before anybody listened"]
    assert [m.message.frame_id for m in found if m.topic == "/heads"] == [str(i) for i in range(20)]
    assert [m for m in found if m.topic == "/fast"]
    if sim:
        assert {m.stamp for m in found} == {1000 * 10**9}
    assert "/heads: 20 messages" in recorder.text()


def test_user_mistakes_are_one_line_and_code_2(graph: Children, tmp_path: Path) -> None:
    relative = graph.start_module("relative", "rosbag_tools.record_bag", ["heads", "--out", str(tmp_path / "bag")])
    existing = graph.start_module("existing", "rosbag_tools.record_bag", ["/heads", "--out", str(tmp_path)])
    for child, message in ((relative, "expected an absolute name, /heads"), (existing, "exists already")):
        while child.returncode is None:
            time.sleep(0.05)
        assert child.returncode == 2
        assert message in child.text()
        assert child.text().count("\n") == 1


HEADS_TALKER = """
import time, rclpy
from rclpy.duration import Duration
from std_msgs.msg import Header
rclpy.init()
node = rclpy.create_node("talker")
heads = node.create_publisher(Header, "/heads", 100)
while heads.get_subscription_count() < 1:
    time.sleep(0.05)
for i in range(40):
    heads.publish(Header(frame_id=str(i)))
assert heads.wait_for_all_acked(Duration(seconds=60))
print("done", flush=True)
time.sleep(600)
"""
SLOW_RECORDER = """
import sys, time
from rosbag_tools import bags, record_bag
write = bags.BagWriter.write_raw
def slow(*arguments):
    time.sleep(0.1)
    return write(*arguments)
bags.BagWriter.write_raw = slow
sys.exit(record_bag.record_bag(["/heads", "--out", sys.argv[1]]))
"""


def test_what_has_arrived_is_written_though_the_disk_is_slow(graph: Children, tmp_path: Path) -> None:
    out = tmp_path / "bag.mcap"
    recorder = graph.start("recorder", [sys.executable, "-c", SLOW_RECORDER, str(out)])
    talker = graph.start("talker", [sys.executable, "-c", HEADS_TALKER])
    talker.wait_for("done", timeout=120, others=[recorder])
    assert recorder.stop() == 0
    with open_bag(out) as bag:
        assert [m.message.frame_id for m in bag.messages()] == [str(i) for i in range(40)]
