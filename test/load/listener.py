"""The receiver of the results: writes when each answer arrived, and what it was made of.

python -m load.listener OUT.json
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from crkd_ros import topics
from crkd_ros.answers import FrameReport, report_of
from crkd_ros.cdr import header_stamp
from crkd_ros.conversions import message_class


class Heard(msgspec.Struct):
    """What arrived.

    Attributes:
        arrivals: reference stamp -> arrival of the detections, ns of the system clock.
        reports: what the answers were made of.
        diagnostics: the node's own account of itself at the end.
    """

    arrivals: dict[int, int]
    reports: list[FrameReport]
    diagnostics: dict[str, str]


def main() -> None:
    """Listen until SIGINT or SIGTERM, then write."""
    out, heard, stopping = Path(sys.argv[1]), Heard({}, [], {}), []
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(True))
    node, executor = Node("load_listener"), SingleThreadedExecutor()
    executor.add_node(node)

    def arrived(data: Any) -> None:
        heard.arrivals[header_stamp(data)] = time.time_ns()

    def told(message: DiagnosticArray) -> None:
        heard.diagnostics = {pair.key: pair.value for status in message.status for pair in status.values}

    array, cloud, markers = (
        message_class(name)
        for name in (
            "vision_msgs/msg/Detection3DArray",
            "sensor_msgs/msg/PointCloud2",
            "visualization_msgs/msg/MarkerArray",
        )
    )
    node.create_subscription(array, topics.DETECTIONS, arrived, 100, raw=True)
    node.create_subscription(cloud, topics.DETECTION_VELOCITIES, lambda _: None, 100, raw=True)
    node.create_subscription(markers, topics.DETECTION_MARKERS, lambda _: None, 100, raw=True)
    node.create_subscription(DiagnosticArray, "/diagnostics", told, 10)
    node.create_subscription(String, topics.MANIFEST, lambda message: heard.reports.append(report_of(message)), 100)
    sys.stdout.write("listening\n")
    while not stopping:
        executor.spin_once(timeout_sec=0.1)
    out.write_bytes(msgspec.json.encode(heard))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
