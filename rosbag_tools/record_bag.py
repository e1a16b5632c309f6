"""Record topics of a live ROS 2 graph to a bag, without rosbag2 installed: what ``ros2 bag record`` does, no more.

Messages are written as they arrive, unread, at the time of their arrival. A topic may appear later than the recorder;
its type and quality of service are taken from its publisher.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_ros.conversions import ConversionError, message_class
from rosbag_tools.bags import LATCHED, RELIABLE, BagWriter, check_can_write, new_bag
from rosbag_tools.typestore import typestore

READY = "recording all topics"
"""Printed once every topic asked for has a publisher and is subscribed to."""

LOOK_PERIOD = 0.1
"""Seconds between two looks at the graph for topics that have not appeared yet."""

DEPTH = 1000
IDLE_SPINS = 10
"""Looks that find no message, after which none waits; other things than messages are found, too, such as clocks."""


class RecordError(UserError):
    """A topic that cannot be recorded."""


class Recorder:
    """Subscribes to topics as they appear and writes their messages.

    Attributes:
        counts: messages written, by topic.
        received: messages that have come, written or not.
        waiting: topics that have no publisher yet.
    """

    def __init__(self, node: Node, bag: BagWriter, topics: Sequence[str]) -> None:
        """A recorder on a node.

        Args:
            node: does the subscribing; its clock gives the recording time.
            bag: where messages go.
            topics: absolute names.
        """
        self.counts: Counter[str] = Counter()
        self.received = 0
        self.waiting = list(dict.fromkeys(topics))
        self._node = node
        self._bag = bag
        self._early: list[tuple[str, bytes]] = []

    def look(self) -> None:
        """Subscribe to the topics that have appeared since the last look.

        Raises:
            RecordError: a topic of a type that is not known here.
        """
        for topic in list(self.waiting):
            publishers = self._node.get_publishers_info_by_topic(topic)
            if publishers:
                self._subscribe(topic, publishers)
                self.waiting.remove(topic)

    def finish(self) -> None:
        """Write what arrived before simulated time began, if it never did."""
        self._write_early(time.time_ns())

    def _subscribe(self, topic: str, publishers: Sequence[Any]) -> None:
        msgtype = publishers[0].topic_type
        profiles = [publisher.qos_profile for publisher in publishers]
        latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
        reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
        self._bag.add_topic(topic, msgtype, qos=LATCHED if latched else RELIABLE)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self._node.create_subscription(
            recordable_class(msgtype, topic), topic, self._writer_of(topic), profile, raw=True
        )

    def _writer_of(self, topic: str) -> Callable[[bytes], None]:
        def write(data: bytes) -> None:
            self.received += 1
            now = self._node.get_clock().now().nanoseconds
            if now == 0:
                # Simulated time has not begun: a stamp in 1970 would stretch the recording over half a century.
                self._early.append((topic, data))
                return
            self._write_early(now)
            self._write(topic, now, data)

        return write

    def _write_early(self, now: int) -> None:
        for topic, data in self._early:
            self._write(topic, now, data)
        self._early.clear()

    def _write(self, topic: str, now: int, data: bytes) -> None:
        self._bag.write_raw(topic, now, data)
        self.counts[topic] += 1


def recordable_class(msgtype: str, topic: str) -> Any:
    """The Python class of a message type that can be recorded.

    Raises:
        RecordError: its package is not installed, or bags do not know the type.
    """
    try:
        found = message_class(msgtype)
    except ConversionError:
        raise RecordError(f"{topic}: message type {msgtype} is not installed here; leave the topic out") from None
    if msgtype not in typestore().types:
        raise RecordError(f"{topic}: message type {msgtype} is not among those bags are written with; leave it out")
    return found


def record(
    topics: Sequence[str],
    out: Path,
    *,
    stopped: Callable[[], bool],
    use_sim_time: bool = False,
    overwrite: bool = False,
    on_ready: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Record until ``stopped`` says so; rclpy must be initialised.

    Args:
        topics: absolute names.
        out: bag folder, or a path ending in ``.mcap``; it appears when the recording ends.
        stopped: asked at least ten times a second.
        use_sim_time: record at the time of /clock instead of the machine's.
        overwrite: replace a bag that is there.
        on_ready: called once when all topics are being recorded.

    Returns:
        Number of messages by topic.

    Raises:
        RecordError: a topic of a type that is not known here.
        BagError: ``out`` exists, or cannot be written.
    """
    override = Parameter("use_sim_time", Parameter.Type.BOOL, use_sim_time)
    node = Node("record_bag", parameter_overrides=[override])
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        with new_bag(out, overwrite=overwrite) as bag:
            recorder = Recorder(node, bag, topics)
            ready = False
            next_look = 0.0
            while not stopped():
                if recorder.waiting and time.monotonic() >= next_look:
                    recorder.look()
                    next_look = time.monotonic() + LOOK_PERIOD
                if not recorder.waiting and not ready:
                    ready = True
                    on_ready()
                executor.spin_once(timeout_sec=LOOK_PERIOD)
            _take_what_waits(executor, recorder)
            recorder.finish()
        return recorder.counts
    finally:
        executor.shutdown()
        node.destroy_node()


def _take_what_waits(executor: SingleThreadedExecutor, recorder: Recorder) -> None:
    """Messages that have arrived, and whose senders know it, are not lost when the recorder was behind."""
    idle = 0
    # Senders that go on do not keep it from ending.
    for _ in range(DEPTH * max(1, len(recorder.counts))):
        before = recorder.received
        executor.spin_once(timeout_sec=0.0)
        idle = 0 if recorder.received > before else idle + 1
        if idle == IDLE_SPINS:
            return


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="record_bag", description="Record topics of a live ROS 2 graph to a bag (MCAP), until Ctrl-C."
    )
    parser.add_argument("topics", nargs="+", metavar="TOPIC", help="absolute name, for example /detections")
    parser.add_argument("--out", type=Path, required=True, help="bag folder to write, or a path ending in .mcap")
    parser.add_argument("--use-sim-time", action="store_true", help="record at the time of /clock (a bag is played)")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after so many seconds (default: on Ctrl-C)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bag if it exists")
    return parser.parse_args(argv)


def record_bag(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _arguments(argv)
    relative = [name for name in args.topics if not name.startswith("/")]
    if relative:
        raise RecordError(f"topic '{relative[0]}': expected an absolute name, /{relative[0]}")
    check_can_write(args.out, overwrite=args.overwrite)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: signals.append(received))
    end = time.monotonic() + args.duration if args.duration is not None else float("inf")
    # rclpy's own handlers would shut the context down while messages are still to be written.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        counts = record(
            args.topics,
            args.out,
            stopped=lambda: bool(signals) or time.monotonic() >= end,
            use_sim_time=args.use_sim_time,
            overwrite=args.overwrite,
            on_ready=lambda: print(READY, flush=True),
        )
    finally:
        rclpy.try_shutdown()
    for topic in args.topics:
        print(f"{topic}: {counts[topic]} messages")
    print(f"recorded {sum(counts.values())} messages to {args.out}")
    return 0


def main() -> NoReturn:
    """Entry point of ``record_bag``."""
    run(record_bag)


if __name__ == "__main__":
    main()
