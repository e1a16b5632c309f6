"""The sensors: publishes the stream in real time, and writes when each message was handed to the middleware.

python -m load.publisher OUT.json SECONDS SEED
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import rclpy
from load.stream import KINDS, Content, Event, schedule, simulated_content
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile

from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_ros import topics
from crkd_ros.conversions import message_class
from crkd_ros.parameters import load_parameters

PATIENCE = 60.0
SETTLING = 1.0


class Published(msgspec.Struct, frozen=True):
    """What was published, and when; ns of the system clock.

    Attributes:
        start: the stream's time zero.
        times: of each event of the schedule, just before it was handed over.
        cpu: seconds that this process worked while publishing.
    """

    start: int
    times: list[int]
    cpu: float


def publish(node: Node, content: Content, events: list[Event], *, trigger: str) -> Published:
    """Publish a stream, once somebody subscribes to ``trigger``."""
    publishers: dict[str, Any] = {
        topic: node.create_publisher(message_class(KINDS[kind]), topic, 10)
        for topic, kind in {event.topic: event.kind for event in events}.items()
    }
    latched = QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    static = node.create_publisher(message_class(KINDS["pose"]), topics.TF_STATIC, latched)
    _wait_for_subscriber(publishers[trigger])
    start = time.time_ns() + 100 * MILLISECOND
    static.publish(content.mounted(start))
    times, cpu = [], time.process_time()
    for event in events:
        message = content.message(event, start)
        ahead = start + event.time - time.time_ns()
        if ahead > 0:
            time.sleep(ahead / SECOND)
        times.append(time.time_ns())
        publishers[event.topic].publish(message)
    return Published(start, times, time.process_time() - cpu)


def _wait_for_subscriber(publisher: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not publisher.get_subscription_count():
        if time.monotonic() > end:
            raise TimeoutError(f"nobody subscribes to {publisher.topic_name} after {PATIENCE:.0f} s")
        time.sleep(0.05)
    time.sleep(SETTLING)  # until the other topics have found their subscribers, too


def main() -> None:
    """Publish and write."""
    out, seconds, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    content = simulated_content(seed=seed)
    events = schedule(load_parameters(), seconds=seconds, seed=seed)
    rclpy.init()
    node = Node("load_publisher")
    published = publish(node, content, events, trigger=topics.image_topic("cam_front"))
    time.sleep(SETTLING)  # what is under way arrives
    out.write_bytes(msgspec.json.encode(published))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
