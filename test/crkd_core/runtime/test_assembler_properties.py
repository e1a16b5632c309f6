"""Whatever order, number and time messages come in: the assembler answers in order, stays small and recovers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fake_rig import CONFIG, MS, POINTS, FakeRig, at
from hypothesis import given, settings
from hypothesis import strategies as st

from crkd_core.runtime.assembler import MAX_PENDING, AssembledFrame, FrameAssembler, FrameState
from crkd_core.runtime.poses import SECOND
from crkd_core.runtime.rig import AssemblerConfig
from crkd_core.runtime.selection import Selector

SENSORS = {"FRONT": (0, 80), "BACK": (20, 80), "RADAR": (11, 75)}
"""Phase and period, ms."""

LIVE = CONFIG
REPLAY = replace(CONFIG, deadline_clock="messages", silent=0, stale_after=0, camera_capacity=64)


@dataclass(frozen=True)
class Fate:
    """What becomes of one message: how often it comes, each time so late."""

    delays: tuple[int, ...]  # ms; none: it is lost


fates = st.lists(st.integers(0, 400), max_size=3).map(lambda delays: Fate(tuple(delays)))
punctual = st.integers(0, 30).map(lambda delay: Fate((delay,)))
plans = st.fixed_dictionaries({name: st.lists(st.one_of(punctual, fates), max_size=25) for name in SENSORS})
configs = st.sampled_from([LIVE, REPLAY, replace(LIVE, trigger=None), replace(LIVE, silent=0, radar_min_period=0)])
Plan = dict[str, list[Fate]]
Event = tuple[int, str, int]
"""Arrival on the receiver's clock, ns; sensor; stamp."""


def events(plan: Plan, begin: int = 0) -> list[Event]:
    """The messages of a plan in order of arrival; ``begin`` (ms) is added to every arrival, not to stamps."""
    found = []
    for name, fates_of in plan.items():
        phase, period = SENSORS[name]
        for i, fate in enumerate(fates_of):
            stamp = at(phase + period * i)
            found += [(stamp + (begin + delay) * MS, name, stamp) for delay in fate.delays]
    return sorted(found)


def feed(a: FrameAssembler, arrivals: list[Event], look: Callable[[], None]) -> list[AssembledFrame]:
    frames = []
    for now, name, stamp in arrivals:
        frames += a.radar(name, stamp, POINTS, now) if name == "RADAR" else a.camera(name, stamp, b"", now)
        if a.config.trigger is None and name == "FRONT":
            frames += a.reference(stamp, now)
        look()
        frames += a.poll(now)
    return frames


def check_bounds(a: FrameAssembler) -> None:
    assert a.pending <= MAX_PENDING
    for name, track in a._tracks().items():
        assert len(track) <= (a.config.sweeps + 64 if name == "RADAR" else a.config.camera_capacity)
        assert track.stamps == sorted(set(track.stamps))


def check_content(frame: AssembledFrame, config: AssemblerConfig) -> None:
    assert (frame.state is FrameState.NOMINAL) == (not frame.reasons)
    if frame.frame is None:
        assert frame.state is FrameState.STALE
        return
    present = {*frame.frame.cameras, *frame.frame.radars}
    assert frame.state is not FrameState.NOMINAL or present == set(SENSORS)
    for name, camera in frame.frame.cameras.items():
        assert abs(camera.stamp - frame.stamp - config.cameras[name]) <= config.camera_slop
    for sweeps in frame.frame.radars.values():
        stamps = [sweep.stamp for sweep in sweeps]
        assert stamps == sorted(set(stamps), reverse=True)
        assert len(stamps) <= config.sweeps
        assert frame.stamp - config.radar_staleness <= stamps[0] <= frame.stamp + config.radar_slop


@settings(max_examples=120)
@given(plan=plans, config=configs)
def test_shuffled_lost_and_repeated_messages_give_ordered_answers_to_every_trigger(
    plan: Plan, config: AssemblerConfig
) -> None:
    a = FrameAssembler(config, FakeRig())
    arrivals = events(plan)
    frames = feed(a, arrivals, lambda: check_bounds(a))
    end = max((now for now, *_ in arrivals), default=0)
    frames += a.poll(end + config.deadline) if config.deadline_clock == "now" else a.flush(end)
    assert a.pending == 0
    assert a.counts["jump"] == 0
    answers = [f for f in frames if "for" not in " ".join(f.reasons)]
    stamps = [f.stamp for f in answers]
    assert stamps == sorted(set(stamps))
    triggers = {stamp for _, name, stamp in arrivals if name == "FRONT"}
    if config.trigger is not None:
        assert len(answers) + a.counts["late_trigger"] >= len(triggers)
    assert set(stamps) <= triggers
    for frame in answers:
        check_content(frame, config)


@settings(max_examples=80)
@given(first=plans, second=plans, config=configs, clock_too=st.booleans())
def test_after_a_jump_back_only_the_new_time_is_answered_and_all_is_well_again(
    first: Plan, second: Plan, config: AssemblerConfig, clock_too: bool
) -> None:
    calm = {name: [Fate((0,))] * 30 for name in SENSORS}
    a = FrameAssembler(config, FakeRig())
    feed(a, events(first), lambda: check_bounds(a))
    # The recording begins anew, an hour later on the receiver's clock, or on a clock that begins anew with it.
    hour = 3600 * 1000
    shift = 0 if clock_too else hour
    feed(a, [(now, name, stamp - 600 * SECOND) for now, name, stamp in events(second, shift)], lambda: check_bounds(a))
    again = [(now, name, stamp - 1200 * SECOND) for now, name, stamp in events(calm, shift + hour)]
    frames = feed(a, again, lambda: check_bounds(a))
    assert {f.state for f in frames[-15:]} == {FrameState.NOMINAL}
    stamps = [f.stamp for f in frames if f.frame is not None]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] >= at(27 * 80) - 1200 * SECOND


@settings(max_examples=60)
@given(
    stamps=st.lists(st.tuples(st.sampled_from([*SENSORS, "reference"]), st.integers(0, 2**62), st.integers(0, 2**62))),
    config=configs,
)
def test_stamps_and_clocks_without_any_sense_do_no_harm(
    stamps: list[tuple[str, int, int]], config: AssemblerConfig
) -> None:
    a = FrameAssembler(config, FakeRig())
    for name, stamp, now in stamps:
        if name == "reference":
            a.reference(stamp, now)
        elif name == "RADAR":
            a.radar(name, stamp, np.zeros(0, dtype=POINTS.dtype), now)
        else:
            a.camera(name, stamp, b"", now)
        a.poll(now)
        check_bounds(a)
    a.flush(0)
    assert a.pending == 0


class Thorough(FrameAssembler):
    """Looks at every sensor at every event."""

    def _waits_still(self, *_: object) -> bool:
        return False


@given(plans, configs)
def test_not_looking_at_every_sensor_at_every_event_changes_no_frame_and_no_moment(plan: Plan, config: AssemblerConfig):
    quick, thorough = FrameAssembler(config, FakeRig()), Thorough(config, FakeRig())
    for event in events(plan):
        found, expected = (feed(a, [event], lambda: None) for a in (quick, thorough))
        assert [replace(f, frame=None) for f in found] == [replace(f, frame=None) for f in expected]
        assert [f.frame and f.frame.manifest for f in found] == [f.frame and f.frame.manifest for f in expected]


def test_sensors_are_looked_at_a_few_times_for_a_frame(monkeypatch: pytest.MonkeyPatch):
    looks = []
    choose = Selector.choose
    monkeypatch.setattr(Selector, "choose", lambda self, request: looks.append(request) or choose(self, request))
    a = FrameAssembler(LIVE, FakeRig())
    punctual = [Fate((0,))] * 24
    arrivals = events(dict.fromkeys(SENSORS, punctual))
    frames = []
    for now in range(at(0), at(2000), MS):
        due = [event for event in arrivals if now <= event[0] < now + MS]
        frames += feed(a, due, lambda: None) + a.poll(now)
    assert len(frames) >= 23
    assert len(looks) < 4 * len(frames)
