"""message_filters' ApproximateTimeSynchronizer on the same stream: matches, and CPU time by part.

    PYTHONPATH=... python -m load.synchronizer OUT.json SLOP TOPIC TYPE [TOPIC TYPE ...]

The package comes from a sourced ROS distribution or from a checkout of ros2/message_filters on PYTHONPATH.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import rclpy
from load.meter import Meter
from load.parts import MATCHED, MATCHING, TAKE
from message_filters import ApproximateTimeSynchronizer, Subscriber
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from crkd_ros.conversions import message_class
from crkd_ros.nodes.executor import single_threaded_executor

QUEUE = 10


class Matched:
    """What is done with a set of matched messages: nothing, as in the null detector."""

    def __call__(self, *_messages: Any) -> None:
        """A set has come."""


def main() -> None:
    """Match until SIGINT or SIGTERM, then write."""
    out, slop = Path(sys.argv[1]), float(sys.argv[2])
    pairs = list(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
    meter, stopping = Meter(), []
    meter.wrap(SingleThreadedExecutor, "_take_subscription", TAKE)
    meter.wrap(ApproximateTimeSynchronizer, "add", MATCHING)
    meter.wrap(Matched, "__call__", MATCHED)
    meter.start(out)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(True))
    node, executor = Node("load_synchronizer"), single_threaded_executor()
    executor.add_node(node)
    qos = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    subscribers = [Subscriber(node, message_class(kind), topic, qos_profile=qos) for topic, kind in pairs]
    ApproximateTimeSynchronizer(subscribers, QUEUE, slop).registerCallback(Matched())
    sys.stdout.write("listening\n")
    while not stopping:
        executor.spin_once(timeout_sec=0.1)
    meter.write(out)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
