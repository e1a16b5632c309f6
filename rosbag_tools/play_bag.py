"""Publish a recorded drive on a ROS 2 graph: at the speed it was recorded, faster, or as fast as a detector answers.

The serialised messages are published as they are. With ``--lossless`` the player never runs more than ``--horizon``
seconds (of the recording) ahead of the oldest trigger message that has no answer yet. Answers come in order: a message
on ``--answer`` settles the messages on ``--trigger`` up to its own stamp. Together with a detector node that has
``drop_frames: false``, every frame is made of everything that was recorded for it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from crkd_core import cli
from crkd_core.runtime.poses import SECOND
from crkd_ros.cdr import header_stamp
from crkd_ros.conversions import ConversionError, message_class
from crkd_ros.topics import DETECTIONS, image_topic
from rosbag_tools.bags import Bag, BagError, open_bag

SETTLED = 0.5
"""Seconds for which the graph must not change before the player starts."""


class PlayError(cli.UserError):
    """A bag that cannot be played as asked; the message says what was waited for."""


@dataclass(frozen=True)
class PlayOptions:
    """How to play.

    Attributes:
        topics: only these; empty: all whose message type is known here.
        rate: speed relative to the recording; with ``lossless`` an upper bound; 0: as fast as possible.
        clock: publish /clock this often, Hz of wall time (of recorded time with ``lossless``); 0: not at all.
        loop: start again at the end, for ever.
        lossless: wait for answers.
        trigger: the topic whose messages are answered.
        answer: the topic of the answers.
        horizon: how far to run ahead of the oldest unanswered trigger, s of recorded time; more than the period of the
            slowest sensor plus the detector's deadline, since a frame may wait for each sensor's next message.
        answer_timeout: how long to wait for one answer, s.
        wait: how long to wait for subscribers before the first message, s; 0: do not wait.
    """

    topics: tuple[str, ...] = ()
    rate: float = 1.0
    clock: float = 0.0
    loop: bool = False
    lossless: bool = False
    trigger: str = image_topic("cam_front")
    answer: str = DETECTIONS
    horizon: float = 2.0
    answer_timeout: float = 60.0
    wait: float = 30.0


@dataclass
class PlaySummary:
    """What was done.

    Attributes:
        published: messages by topic.
        skipped: topics left out because their message type is not known here, with that type.
        answered: answers received (``lossless``).
        seconds: wall time.
    """

    published: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    answered: int = 0
    seconds: float = 0.0


def play_bag(bag_path: Path | str, options: PlayOptions | None = None, *, progress: bool = False) -> PlaySummary:
    """Play a bag to its end (or for ever, with ``loop``).

    Raises:
        BagError: a bag that cannot be read, or lacks a topic that was asked for.
        PlayError: nobody subscribes, or an answer did not come in time.
    """
    options = options or PlayOptions()
    with open_bag(bag_path) as bag, _player(bag, options) as player:
        started = time.perf_counter()
        player.wait_for_subscribers()
        player.play(progress=progress)
        while options.loop:
            player.play(progress=progress)
        player.summary.seconds = time.perf_counter() - started
        return player.summary


@contextmanager
def _player(bag: Bag, options: PlayOptions) -> Iterator[_Player]:
    context = rclpy.Context()
    context.init()
    node = Node("bag_player", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        yield _Player(bag, options, node, executor)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


class _Player:
    def __init__(self, bag: Bag, options: PlayOptions, node: Node, executor: SingleThreadedExecutor) -> None:
        self.summary = PlaySummary()
        self._bag = bag
        self._options = options
        self._node = node
        self._executor = executor
        self._publishers = self._make_publishers()
        self._unanswered: dict[int, int] = {}  # stamp of a trigger message -> when it was recorded
        self._clock = node.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._last_tick = 0
        if options.lossless:
            self._subscribe_to_answers()

    # ------------------------------------------------------------------------------------------------------ set-up

    def _make_publishers(self) -> dict[str, Any]:
        options = self._options
        self._bag.require(options.topics)
        if options.lossless:
            self._bag.require([options.trigger])
        publishers = {}
        for name, topic in self._bag.topics.items():
            if (options.topics and name not in options.topics) or name == "/clock":
                continue
            if name == options.answer and options.lossless:
                continue  # a recorded answer is none
            try:
                known = message_class(topic.type)
            except ConversionError:
                self.summary.skipped[name] = topic.type
                continue
            publishers[name] = self._node.create_publisher(known, name, self._qos(latched=topic.latched))
            self.summary.published[name] = 0
        if not publishers:
            raise BagError(f"bag {self._bag.path}: nothing to play (types not known here: {self.summary.skipped})")
        return publishers

    def _qos(self, *, latched: bool) -> QoSProfile:
        if latched:
            return QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        if self._options.lossless:
            return _keep_all()
        return QoSProfile(depth=10)

    def _subscribe_to_answers(self) -> None:
        types: list[str] = []
        deadline = time.monotonic() + max(self._options.wait, 1.0)
        while not types and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.1)
            types = dict(self._node.get_topic_names_and_types()).get(self._options.answer, [])
        if not types:
            raise PlayError(
                f"topic {self._options.answer}: nobody publishes it after {self._options.wait:g} s; start the detector "
                "with drop_frames:=false, or play without --lossless"
            )
        answer = message_class(types[0])
        self._node.create_subscription(answer, self._options.answer, self._answered, _keep_all(), raw=True)

    def wait_for_subscribers(self) -> None:
        """Until somebody listens (with ``lossless``: to the trigger) and the graph has settled.

        Raises:
            PlayError: nobody does in time.
        """
        options = self._options
        if not options.wait:
            return
        needed = options.trigger if options.lossless else None
        deadline, since, before = time.monotonic() + options.wait, time.monotonic(), None
        while True:
            self._executor.spin_once(timeout_sec=0.05)
            now = time.monotonic()
            counts = {name: publisher.get_subscription_count() for name, publisher in self._publishers.items()}
            if counts != before:
                since, before = now, counts
            ready = counts[needed] > 0 if needed is not None else any(counts.values())
            if ready and now - since > SETTLED:
                return
            if now > deadline:
                who = needed or "any of the topics"
                raise PlayError(f"no subscriber to {who} after {options.wait:g} s; start one, or give --wait 0")

    # --------------------------------------------------------------------------------------------------------- play

    def play(self, *, progress: bool) -> None:
        """Once through the bag.

        Raises:
            PlayError: an answer did not come in time.
        """
        started = time.monotonic()
        length = (self._bag.end - self._bag.start) / SECOND
        self._last_tick = 0
        layout = "{l_bar}{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}]"
        with tqdm(total=length, desc="play", disable=not progress, bar_format=layout, mininterval=0.5) as bar:
            for topic, stamp, data in self._bag.raw_messages(self._publishers):
                self._keep_pace(started, stamp)
                if self._options.lossless:
                    self._wait_for_answers(stamp - round(self._options.horizon * SECOND))
                self._publish(topic, stamp, bytes(data))
                bar.update((stamp - self._bag.start) / SECOND - bar.n)
        if self._options.lossless:
            self._wait_for_answers(self._bag.end + 1)
        self._wait_for_delivery()

    def _publish(self, topic: str, stamp: int, data: bytes) -> None:
        if self._options.lossless:
            if topic == self._options.trigger:
                self._unanswered[header_stamp(data)] = stamp
            self._tick(stamp, stamp)
        self._publishers[topic].publish(data)
        self.summary.published[topic] += 1

    def _keep_pace(self, started: float, stamp: int) -> None:
        """Sleep until a recorded time is due."""
        rate = self._options.rate
        if not rate:
            return
        while True:
            now = time.monotonic()
            ahead = (stamp - self._bag.start) / SECOND / rate - (now - started)
            if not self._options.lossless:
                self._tick(round(now * SECOND), min(stamp, self._bag.start + round((now - started) * rate * SECOND)))
            if ahead <= 0:
                return
            time.sleep(min(ahead, 0.5 / self._options.clock if self._options.clock else ahead))

    def _tick(self, now: int, stamp: int) -> None:
        """Publish /clock with the recorded time, if ``now`` is far enough from the last time (ns)."""
        if self._clock is None or abs(now - self._last_tick) < SECOND / self._options.clock:
            return
        self._last_tick = now
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(stamp, SECOND)
        self._clock.publish(message)

    def _answered(self, data: bytes) -> None:
        self.summary.answered += 1
        stamp = header_stamp(data)
        for trigger in [trigger for trigger in self._unanswered if trigger <= stamp]:
            del self._unanswered[trigger]

    def _wait_for_answers(self, recorded_before: int) -> None:
        """Until every trigger message that was recorded before that time is answered."""
        self._executor.spin_once(timeout_sec=0)
        since, left = time.monotonic(), len(self._unanswered)
        while self._unanswered and min(self._unanswered.values()) < recorded_before:
            self._executor.spin_once(timeout_sec=0.05)
            if len(self._unanswered) != left:
                since, left = time.monotonic(), len(self._unanswered)
            if time.monotonic() - since > self._options.answer_timeout:
                oldest = min(self._unanswered)
                raise PlayError(
                    f"{self._options.trigger} at {oldest} ns: no answer on {self._options.answer} after "
                    f"{self._options.answer_timeout:g} s; is the detector running with drop_frames:=false?"
                )

    def _wait_for_delivery(self) -> None:
        for publisher in self._publishers.values():
            if publisher.get_subscription_count():
                publisher.wait_for_all_acked(Duration(seconds=5))


def _keep_all() -> QoSProfile:
    return QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    default = PlayOptions()
    parser = cli.ArgumentParser(
        prog="play_bag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or a single .mcap or .db3 file")
    parser.add_argument("--topics", nargs="+", default=(), metavar="TOPIC", help="publish only these (default: all)")
    parser.add_argument(
        "--rate",
        type=cli.finite,
        help="speed relative to the recording; 0: as fast as possible (default: 1; with --lossless: 0)",
    )
    parser.add_argument(
        "--clock",
        type=cli.finite,
        nargs="?",
        const=100.0,
        default=0.0,
        metavar="HZ",
        help="publish /clock, for nodes with use_sim_time (default: not; without a number: 100)",
    )
    parser.add_argument("--loop", action="store_true", help="start again at the end, until interrupted")
    parser.add_argument("--lossless", action="store_true", help="wait for an answer to every trigger message")
    parser.add_argument("--trigger", default=default.trigger, help="topic that is answered (default: %(default)s)")
    parser.add_argument("--answer", default=default.answer, help="topic of the answers (default: %(default)s)")
    parser.add_argument(
        "--horizon",
        type=cli.finite,
        default=default.horizon,
        metavar="S",
        help="how far to run ahead of "
        "the oldest trigger without an answer, seconds of the recording (default: %(default)s)",
    )
    parser.add_argument(
        "--answer-timeout",
        type=cli.finite,
        default=default.answer_timeout,
        metavar="S",
        help="how long to wait for one answer (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=cli.finite,
        default=default.wait,
        metavar="S",
        help="how long to wait for subscribers before the first message; 0: do not wait (default: %(default)s)",
    )
    return parser


def run(argv: list[str] | None = None) -> int:
    """The command; returns its exit code.

    Raises:
        UserError: whatever the user can mend.
    """
    args = build_parser().parse_args(argv)
    rate = args.rate if args.rate is not None else 0.0 if args.lossless else 1.0
    for name, value, least in (
        ("--rate", rate, 0),
        ("--clock", args.clock, 0),
        ("--horizon", args.horizon, 0),
        ("--wait", args.wait, 0),
    ):
        if value < least:
            raise PlayError(f"{name}: expected {least} or more, got {value:g}")
    options = PlayOptions(
        topics=tuple(args.topics),
        rate=rate,
        clock=args.clock,
        loop=args.loop,
        lossless=args.lossless,
        trigger=args.trigger,
        answer=args.answer,
        horizon=args.horizon,
        answer_timeout=args.answer_timeout,
        wait=args.wait,
    )
    summary = play_bag(args.bag, options, progress=True)
    total = sum(summary.published.values())
    answers = f", {summary.answered} answers" if args.lossless else ""
    print(f"{args.bag}: {total} messages on {len(summary.published)} topics{answers}, {summary.seconds:.1f} s")
    for topic, type_name in summary.skipped.items():
        print(f"  {topic}: not played, message type {type_name} is not known here")
    return 0


def main() -> NoReturn:
    """Entry point of the command."""
    cli.run(run)


if __name__ == "__main__":
    main()
