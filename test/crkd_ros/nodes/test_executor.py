"""The executor: messages in the order of their arrival, one that cannot be read among them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from crkd_ros.nodes.executor import single_threaded_executor  # noqa: E402

pytestmark = pytest.mark.ros
TOPICS = [f"/ordered_{k}" for k in range(8)]


@pytest.fixture
def node() -> Iterator[Node]:
    rclpy.init()
    node = Node("ordered")
    yield node
    node.destroy_node()
    rclpy.shutdown()


class Listening:
    """A node's subscriptions to every topic, served as the detector node serves its own."""

    def __init__(self, node: Node) -> None:
        self.heard: list[str] = []
        self.executor = single_threaded_executor()
        self.publishers = [node.create_publisher(String, topic, 10) for topic in TOPICS]
        for topic in reversed(TOPICS):
            node.create_subscription(String, topic, lambda message: self.heard.append(message.data), 10)
        self.executor.add_node(node)
        self.spin_until(lambda: all(p.get_subscription_count() for p in self.publishers))

    def spin_until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + 20.0
        while True:
            self.executor.spin_once(timeout_sec=0.1)
            if done() or time.monotonic() > end:
                return


def test_takes_messages_in_the_order_of_their_arrival_whatever_their_topic(node: Node):
    pytest.importorskip("rclpy.experimental.events_executor")
    listening, expected = Listening(node), [str(k) for k in range(40)]
    for k, text in enumerate(expected):
        listening.publishers[k * 5 % len(TOPICS)].publish(String(data=text))
        time.sleep(0.005)
    listening.spin_until(lambda: len(listening.heard) == len(expected))
    assert listening.heard == expected
    listening.executor.shutdown()


def test_bytes_that_are_no_message_are_passed_over(node: Node):
    listening = Listening(node)
    listening.publishers[0].publish(String(data="before"))
    listening.publishers[0].publish(b"\x00\x01\x00\x00\xff\xff\xff\xff")  # a string of four billion characters
    listening.publishers[0].publish(String(data="after"))
    listening.spin_until(lambda: len(listening.heard) == 2)
    assert listening.heard == ["before", "after"]
    listening.executor.shutdown()


@pytest.mark.usefixtures("node")
def test_an_older_distribution_has_the_ordinary_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rclpy.experimental.events_executor", None)
    executor = single_threaded_executor()
    assert isinstance(executor, SingleThreadedExecutor)
    executor.shutdown()
