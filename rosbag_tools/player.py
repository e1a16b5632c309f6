"""Publishes a recorded drive on a ROS 2 graph, through rclpy; see ``play_bag`` for what it can do."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from crkd_core import cli
from crkd_core.runtime.poses import SECOND
from crkd_ros.cdr import header_stamp
from crkd_ros.conversions import ConversionError, message_class
from crkd_ros.topics import DETECTIONS, image_topic
from rosbag_tools.bags import Bag, BagError, open_bag

SPACE = " "
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
        start: where in the recording to begin, s.
        paused: wait at the beginning until resumed.
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
    start: float = 0.0
    paused: bool = False
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
        if options.start > (bag.end - bag.start) / SECOND:
            raise PlayError(f"--start {options.start:g}: the recording is {(bag.end - bag.start) / SECOND:.1f} s long")
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
        with _terminal_keys() as keys:
            yield _Player(bag, options, node, executor, keys)
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


@contextmanager
def _terminal_keys() -> Iterator[Callable[[], str]]:
    """A function that gives the keys pressed since its last call, where standard input is a terminal."""
    if not sys.stdin.isatty():
        yield lambda: ""
        return
    before = termios.tcgetattr(sys.stdin)

    def pressed() -> str:
        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return os.read(sys.stdin.fileno(), 64).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(sys.stdin)  # each key at once; Ctrl-C stays what it is
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class _Player:
    def __init__(
        self,
        bag: Bag,
        options: PlayOptions,
        node: Node,
        executor: SingleThreadedExecutor,
        keys: Callable[[], str] = lambda: "",
    ) -> None:
        self.summary = PlaySummary()
        self._bag = bag
        self._options = options
        self._node = node
        self._executor = executor
        self._keys = keys
        self._publishers = self._make_publishers()
        self._unanswered: dict[int, int] = {}  # stamp of a trigger message -> when it was recorded
        self._clock = node.create_publisher(Clock, "/clock", 10) if options.clock else None
        self._last_tick = 0
        self._stood_still = 0.0  # seconds of this pass during which it was paused
        self._start = bag.start + round(options.start * SECOND)
        node.declare_parameter("paused", options.paused)
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

    # -------------------------------------------------------------------------------------------------------- pause

    def _wait_while_paused(self) -> None:
        since, held = time.monotonic(), False
        while self._is_paused():
            held = True
            time.sleep(0.05)
        if held:
            self._stood_still += time.monotonic() - since

    def _is_paused(self) -> bool:
        self._executor.spin_once(timeout_sec=0)
        paused = bool(self._node.get_parameter("paused").value)
        if SPACE in self._keys():
            paused = not paused
            self._node.set_parameters([Parameter("paused", value=paused)])
        return paused

    # --------------------------------------------------------------------------------------------------------- play

    def _latched_before_start(self) -> None:
        """A player that begins later still gives what holds from the beginning on."""
        latched = {name for name, topic in self._bag.topics.items() if topic.latched and name in self._publishers}
        for topic, stamp, data in self._bag.raw_messages(latched, stop=self._start) if latched else ():
            self._publish(topic, stamp, bytes(data))

    def play(self, *, progress: bool) -> None:
        """Once through the bag.

        Raises:
            PlayError: an answer did not come in time.
        """
        self._stood_still = 0.0
        if self._start > self._bag.start:
            self._latched_before_start()
        started = time.monotonic()
        length = (self._bag.end - self._start) / SECOND
        self._last_tick = 0
        layout = "{l_bar}{bar}| {n:.1f}/{total:.1f} s [{elapsed}<{remaining}]"
        with tqdm(total=length, desc="play", disable=not progress, bar_format=layout, mininterval=0.5) as bar:
            for topic, stamp, data in self._bag.raw_messages(self._publishers, start=self._start):
                self._wait_while_paused()
                self._keep_pace(started, stamp)
                if self._options.lossless:
                    self._wait_for_answers(stamp - round(self._options.horizon * SECOND))
                self._publish(topic, stamp, bytes(data))
                bar.update((stamp - self._start) / SECOND - bar.n)
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
            played = now - started - self._stood_still
            ahead = (stamp - self._start) / SECOND / rate - played
            if not self._options.lossless:
                self._tick(round(now * SECOND), min(stamp, self._start + round(played * rate * SECOND)))
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
