"""What is said about a run, from records with known content."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

pytest.importorskip("rclpy")

from load.listener import Heard
from load.meter import Sample
from load.parts import ASSEMBLER, EXECUTOR, MIDDLEWARE, PUBLISH, REST, TAKE
from load.publisher import Published
from load.report import Possible, growth, judged, overhead, possible_frames, work_between
from load.result import GROWTH_GOAL, Result, page, text
from load.stream import Event, schedule, simulated_content

from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_ros.answers import FrameReport
from crkd_ros.parameters import load_parameters

pytestmark = pytest.mark.ros
START = 1_700_000_000 * SECOND
SENSORS = {"CAM_FRONT": (START,)}


def report(stamp: int, state: str = "NOMINAL", sensors: dict[str, tuple[int, ...]] | None = None) -> FrameReport:
    used = SENSORS if sensors is None else sensors
    return FrameReport(stamp=stamp, state=state, reasons=(), sensors=used, calibration="", poses="", detections=0)


def sample(second: float, *, cpu: float, main: float, outside: float, resident: int = 0, **parts: float) -> Sample:
    calls = {part: round(10 * second) for part in parts}
    return Sample(START + round(second * SECOND), resident, cpu, main, outside, parts, calls)


def test_frames_without_answer_are_lost_and_delays_begin_with_the_last_message():
    possible = {START + k: Possible(START + k * SECOND, "NOMINAL", SENSORS) for k in range(5)}
    arrivals = {START + k: START + k * SECOND + (k + 1) * MILLISECOND for k in (0, 1, 2, 4)}
    reports = [report(START), report(START + 1, "DEGRADED", {}), report(START + 2), report(START + 4)]
    heard = Heard(arrivals, reports, {"frames dropped": "3"})
    found = judged(possible, heard, begin=START + 1, end=START + 5, messages_lost=7)
    assert (found.expected, found.lost, found.dropped, found.messages_lost) == (4, 1, 3, 7)
    assert (found.not_nominal, found.same_inputs) == (1, 2)
    assert found.overhead is not None
    assert (found.overhead.p50, found.overhead.largest) == (3.0, 5.0)


def test_percentiles_of_delays():
    found = overhead([float(k) for k in range(101)])
    assert (found.p50, found.p90, found.p99, found.largest) == (50.0, 90.0, 99.0, 100.0)


def test_possible_frames_are_those_of_a_node_that_needs_no_time():
    content, parameters = simulated_content(width=80, image_bytes=1_000), load_parameters()
    events = schedule(parameters, seconds=2.0)
    punctual = Published(START, [START + event.time for event in events], cpu=0.0)
    found = possible_frames(punctual, events, content, parameters, sweeps=6)
    triggers = [e.time for e in events if (e.kind, e.sensor) == ("image", "cam_front")]
    offset = parameters.cameras["CAM_FRONT"].offset
    assert set(found) <= {START + time - offset for time in triggers}
    assert len(found) >= len(triggers) - 2
    states = [frame.state for _, frame in sorted(found.items())]
    assert set(states[2:]) == {"NOMINAL"}
    newest = [frame.at - stamp for stamp, frame in sorted(found.items())]
    # Never before its last camera fires, and never later than the next sweep of the slowest radar and the pose after.
    assert min(newest[2:]) >= -2 * MILLISECOND - 1_700_000
    assert max(newest[2:]) <= (38 + 77 + 12) * MILLISECOND


def test_a_message_that_is_published_late_makes_its_frame_possible_later():
    content, parameters = simulated_content(width=80, image_bytes=1_000), load_parameters()
    events = schedule(parameters, seconds=2.0)

    def frames(late: Event | None) -> dict[int, Possible]:
        times = [START + e.time + (60 * MILLISECOND if e == late else 0) for e in events]
        order = np.argsort(times, kind="stable").tolist()
        shuffled = [events[k] for k in order]
        return possible_frames(Published(START, sorted(times), 0.0), shuffled, content, parameters, sweeps=6)

    image = [e for e in events if (e.kind, e.sensor) == ("image", "cam_back")][10]
    before, after = frames(None), frames(image)
    later = [stamp for stamp in before if after[stamp].at > before[stamp].at]
    assert len(later) in (1, 2)
    assert max(after[stamp].at for stamp in later) == START + image.time + 60 * MILLISECOND


def test_cpu_time_is_told_apart_by_thread_and_part():
    samples = [
        sample(0.0, cpu=9.0, main=5.0, outside=1.0, **{TAKE: 1.0, ASSEMBLER: 1.0, PUBLISH: 0.5}),
        sample(1.0, cpu=10.0, main=5.0, outside=1.0, **{TAKE: 1.0, ASSEMBLER: 1.0, PUBLISH: 0.5}),
        sample(11.0, cpu=13.0, main=7.0, outside=1.5, **{TAKE: 1.6, ASSEMBLER: 1.4, PUBLISH: 0.8}),
        sample(20.0, cpu=99.0, main=99.0, outside=1.5, **{TAKE: 1.6, ASSEMBLER: 1.4, PUBLISH: 0.8}),
    ]
    begin, end = START + SECOND, START + 12 * SECOND
    work = work_between(samples, begin=begin, end=end, frames_per_second=10)
    assert work.share == 0.3
    assert work.parts == {TAKE: 6.0, ASSEMBLER: 4.0, PUBLISH: 3.0, EXECUTOR: 10.0, MIDDLEWARE: 5.0, REST: 2.0}
    assert work.per_frame == 30.0
    assert work.calls[TAKE] == 1.0
    with pytest.raises(ValueError, match="expected two samples"):
        work_between(samples, begin=begin, end=begin + 1, frames_per_second=10)


@pytest.mark.parametrize(("per_second", "met"), [(0, True), (60_000, False)])
def test_memory_that_grows_is_told_and_misses_the_goal(per_second: int, met: bool):
    noise = np.random.default_rng(0).integers(0, 50_000, 121).tolist()
    samples = [
        sample(k, cpu=0.0, main=0.0, outside=0.0, resident=300_000_000 + per_second * k + noise[k]) for k in range(121)
    ]
    found = growth(samples, begin=START, end=START + 121 * SECOND)
    assert found.slope == pytest.approx(3600 * per_second / 1e6, abs=1.0)
    assert (found.end - found.begin < GROWTH_GOAL) == met
    heard = Heard({}, [], {})
    result = Result(
        machine={"processor": "abacus"},
        load_average=(0.0, 0.0),
        seed=1,
        seconds=121,
        image_kilobytes=150,
        decode_ms=20,
        answers=judged({}, heard, begin=0, end=1),
        work=work_between(samples, begin=START, end=START + 99 * SECOND, frames_per_second=12),
        publisher_share=0.1,
        memory=found,
    )
    goals = result.goals()
    assert goals["memory grows by less than 3 MB"] == met
    assert not goals["no frame lost"], "nothing was asked for"
    told = text(msgspec.json.decode(msgspec.json.encode(result), type=Result))
    assert ("met    memory grows" in told) == met
    assert "processor abacus" in told
    assert f"```text\n{told}\n```" in page(result, "make soak")
    assert "Made by `make soak`" in page(result, "make soak")
