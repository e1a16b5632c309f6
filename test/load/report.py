"""What the recordings of a run say: frames lost, overhead, CPU time by part, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from load.listener import Heard
from load.meter import Sample
from load.parts import EXECUTOR, IN_MAIN_THREAD, MIDDLEWARE, REST
from load.publisher import Published
from load.stream import Content, Event

from crkd_core.runtime.assembler import FrameState
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_ros import topics
from crkd_ros.parameters import DetectorParameters
from crkd_ros.pipeline import FramePipeline


@dataclass(frozen=True)
class Possible:
    """A frame as a node that needs no time would have answered it.

    Attributes:
        at: when the last message that it waits for was published, ns of the system clock.
        state: how complete it is.
        sensors: sensor -> stamps used, ns.
    """

    at: int
    state: str
    sensors: dict[str, tuple[int, ...]]


def possible_frames(
    published: Published, events: Sequence[Event], content: Content, parameters: DetectorParameters, *, sweeps: int
) -> dict[int, Possible]:
    """Reference stamp -> the frame, when every message arrives as it is published and nothing takes any time.

    The node's own pipeline is given the messages in the order of their publication; what it makes of them then is what
    can be expected of the node. The time a frame has to wait for its sensors is thereby no overhead.
    """
    pipeline = FramePipeline(parameters, sweeps=sweeps, replay=False)
    small = content.without_measurements()
    pipeline.on_message(topics.TF_STATIC, small.mounted(published.start), published.start)
    found = {}
    for event, now in zip(events, published.times, strict=True):
        for frame in pipeline.on_message(event.topic, small.message(event, published.start), now):
            sensors = frame.frame.manifest.sensors if frame.frame is not None else {}
            found[frame.stamp] = Possible(now, frame.state.value, sensors)
    return found


class Overhead(msgspec.Struct, frozen=True):
    """From the publication of a frame's last message to the arrival of its detections, ms."""

    p50: float
    p90: float
    p99: float
    largest: float


class Answers(msgspec.Struct, frozen=True):
    """How the frames of a run were answered.

    Attributes:
        expected: frames that the trigger camera asked for.
        lost: of these, frames without an answer.
        dropped: in the whole run, frames that the node let go because a newer one was complete.
        messages_lost: in the whole run, messages that did not reach the node's callbacks.
        not_nominal: answers that lack a sensor.
        same_inputs: answers made of the very messages that a node without any delay would have used.
        overhead: of the answers.
    """

    expected: int
    lost: int
    dropped: int
    messages_lost: int
    not_nominal: int
    same_inputs: int
    overhead: Overhead | None


def judged(possible: Mapping[int, Possible], heard: Heard, *, begin: int, end: int, messages_lost: int = 0) -> Answers:
    """Compare answers with what was possible, for reference stamps from ``begin`` to before ``end`` (ns)."""
    expected = {stamp: frame for stamp, frame in possible.items() if begin <= stamp < end}
    reports = {report.stamp: report for report in heard.reports}
    answered = [stamp for stamp in expected if stamp in heard.arrivals]
    delays = [(heard.arrivals[stamp] - expected[stamp].at) / MILLISECOND for stamp in answered]
    told = [reports[stamp] for stamp in answered if stamp in reports]
    return Answers(
        expected=len(expected),
        lost=len(expected) - len(answered),
        dropped=int(heard.diagnostics.get("frames dropped", 0)),
        messages_lost=messages_lost,
        not_nominal=sum(report.state != FrameState.NOMINAL.value for report in told),
        same_inputs=sum(report.sensors == expected[report.stamp].sensors for report in told),
        overhead=overhead(delays) if delays else None,
    )


def overhead(delays: Sequence[float]) -> Overhead:
    """Percentiles of delays (ms)."""
    p50, p90, p99, largest = np.percentile(delays, [50, 90, 99, 100]).tolist()
    return Overhead(round(p50, 2), round(p90, 2), round(p99, 2), round(largest, 2))


class Work(msgspec.Struct, frozen=True):
    """CPU time of a process.

    Attributes:
        share: of one processor.
        parts: part -> ms for each frame of the trigger camera.
        calls: part -> calls for each of these frames.
    """

    share: float
    parts: dict[str, float]
    calls: dict[str, float]

    @property
    def per_frame(self) -> float:
        """All parts, ms."""
        return sum(self.parts.values())


def work_between(samples: Sequence[Sample], *, begin: int, end: int, frames_per_second: float) -> Work:
    """CPU time between two times (ns of the system clock).

    Args:
        samples: of the process.
        begin: from the first sample at or after it
        end: to the last sample before it.
        frames_per_second: of the trigger camera.

    Raises:
        ValueError: fewer than two samples lie between them.
    """
    within = [sample for sample in samples if begin <= sample.time < end]
    if len(within) < 2:
        raise ValueError(f"expected two samples of CPU time or more, got {len(within)}")
    first, last = within[0], within[-1]
    seconds = (last.time - first.time) / SECOND
    frames = seconds * frames_per_second
    parts = {part: spent - first.parts.get(part, 0.0) for part, spent in last.parts.items()}
    whole, main, outside = last.cpu - first.cpu, last.main - first.main, last.outside - first.outside
    in_main = sum(parts.get(part, 0.0) for part in IN_MAIN_THREAD)
    elsewhere = whole - main - outside - (sum(parts.values()) - in_main)
    parts |= {EXECUTOR: main - in_main, MIDDLEWARE: outside, REST: elsewhere}
    calls = {part: (count - first.calls.get(part, 0)) / frames for part, count in last.calls.items()}
    return Work(
        share=round(whole / seconds, 4),
        parts={part: round(1e3 * spent / frames, 4) for part, spent in parts.items()},
        calls={part: round(count, 2) for part, count in calls.items()},
    )


class Growth(msgspec.Struct, frozen=True):
    """Memory of a process after its warm-up.

    Attributes:
        begin: median of the first fifth, MB.
        end: median of the last fifth, MB.
        slope: of the line that fits best, MB an hour.
        seconds: that were watched.
    """

    begin: float
    end: float
    slope: float
    seconds: float


def growth(samples: Sequence[Sample], *, begin: int, end: int) -> Growth:
    """Memory between two times (ns of the system clock).

    Raises:
        ValueError: fewer than ten samples lie between them.
    """
    within = [sample for sample in samples if begin <= sample.time < end]
    if len(within) < 10:
        raise ValueError(f"expected ten samples of memory or more, got {len(within)}")
    seconds = np.array([(sample.time - within[0].time) / SECOND for sample in within])
    megabytes = np.array([sample.resident / 1e6 for sample in within])
    fifth = len(within) // 5
    slope = float(np.polyfit(seconds, megabytes, 1)[0])
    return Growth(
        begin=round(float(np.median(megabytes[:fifth])), 2),
        end=round(float(np.median(megabytes[-fifth:])), 2),
        slope=round(3600 * slope, 2),
        seconds=round(float(seconds[-1]), 1),
    )
