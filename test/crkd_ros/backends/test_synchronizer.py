"""Frames that message_filters matches: what they hold, and what becomes of a dead topic and a jump of time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_rig import CONFIG, MS, POINTS, FakeRig, at
from hypothesis import given, settings
from hypothesis import strategies as st
from ros_packages import needed

from crkd_core.runtime.assembler import AssembledFrame, FrameAssembler, FrameState
from crkd_core.runtime.poses import SECOND
from crkd_ros.backends.synchronizer import SynchronizedAssembler

pytestmark = pytest.mark.ros


def synchronized(rig: FakeRig | None = None, *, slop: int = 70 * MS, **changes: Any) -> SynchronizedAssembler:
    filters = needed("message_filters")
    config = replace(CONFIG, **changes)
    return SynchronizedAssembler(config, rig or FakeRig(), filters=filters, slop=slop, on_jump=lambda _: None)


def drive(a: FrameAssembler, rounds: range, *, without: str = "", later: int = 0) -> list[AssembledFrame]:
    """Images at 12.5 Hz, BACK 20 ms after FRONT as configured, sweeps at 13.3 Hz; ``later``: of the clock, ns."""
    messages = [(at(80 * i), "FRONT") for i in rounds] + [(at(80 * i + 20), "BACK") for i in rounds]
    messages += [(at(75 * i), "RADAR") for i in range(rounds.start * 80 // 75, rounds.stop * 80 // 75)]
    frames = []
    for stamp, name in sorted(messages):
        now = stamp + later
        if name == "RADAR" != without:
            frames += a.radar(name, stamp, POINTS, now)
        elif name != without:
            frames += a.camera(name, stamp, b"x", now)
        frames += a.poll(now)
    return frames


def test_matched_frames_hold_one_message_of_each_and_the_sweeps_before() -> None:
    frames = drive(synchronized(), range(12))
    assert len(frames) >= 10
    stamps = [f.stamp for f in frames]
    assert stamps == sorted(set(stamps))
    for found in frames[3:]:
        assert found.state is FrameState.NOMINAL
        assert found.frame is not None
        sensors = found.frame.manifest.sensors
        assert sensors["FRONT"] == (found.stamp,)
        assert abs(sensors["BACK"][0] - 20 * MS - found.stamp) < 70 * MS
        assert abs(sensors["RADAR"][0] - found.stamp) < 70 * MS
        assert len(sensors["RADAR"]) == 3


def test_frames_of_messages_taken_together_are_those_of_the_builtin_assembler() -> None:
    """Where the radar fires with the cameras there is one right choice."""
    both = [FrameAssembler(CONFIG, FakeRig()), synchronized()]
    found = []
    for a in both:
        frames = []
        for i in range(10):
            frames += a.radar("RADAR", at(80 * i), POINTS, at(80 * i))
            frames += a.camera("FRONT", at(80 * i), b"x", at(80 * i))
            frames += a.camera("BACK", at(80 * i + 20), b"x", at(80 * i + 20))
        found.append([(f.stamp, f.state, f.frame.manifest if f.frame else None) for f in frames])
    # The builtin one waits for the next sweep before it settles the last frame: 30 ms of slop after it.
    assert found[0] == found[1][: len(found[0])]
    assert len(found[0]) >= 9


def test_frame_refers_to_the_instant_of_its_trigger() -> None:
    a = synchronized(cameras={"FRONT": -30 * MS, "BACK": -10 * MS}, at_instant=True, radars=())
    a.camera("FRONT", at(0), b"", 0)
    [frame] = a.camera("BACK", at(20), b"", 0)
    assert frame.stamp == at(30)


def test_a_reference_topic_takes_part_in_the_match() -> None:
    a = synchronized(trigger=None, radars=())
    assert a.camera("FRONT", at(-10), b"", 0) == []
    assert a.camera("BACK", at(22), b"", 0) == []
    [frame] = a.reference(at(0), 0)
    assert frame.stamp == at(0)
    assert frame.frame is not None
    assert frame.frame.manifest.sensors == {"FRONT": (at(-10),), "BACK": (at(22),)}


def test_a_dead_topic_ends_all_frames_and_is_told_as_stale() -> None:
    a = synchronized()
    drive(a, range(10))
    frames = drive(a, range(10, 60), without="RADAR")
    assert {f.state for f in frames[1:]} == {FrameState.STALE}
    assert frames[-1].reasons[0].startswith("no match of FRONT, BACK, RADAR for")
    again = drive(a, range(60, 75))
    assert {f.state for f in again[-8:]} == {FrameState.NOMINAL}


def test_a_matched_frame_waits_for_its_pose_until_the_deadline() -> None:
    rig = FakeRig(known=at(0))
    a = synchronized(rig, radars=())
    a.camera("FRONT", at(0), b"", at(0))
    assert a.camera("BACK", at(20), b"", at(20)) == []
    assert a.pending == 1
    rig.known = at(20)
    assert [f.state for f in a.poll(at(25))] == [FrameState.NOMINAL]


def test_recovers_from_a_jump_back_for_which_its_queues_would_be_too_full() -> None:
    a = synchronized()
    drive(a, range(40))
    frames = drive(a, range(15), later=3600 * SECOND)
    assert a.counts["jump"] == 1
    assert {f.state for f in frames[-10:]} == {FrameState.NOMINAL}
    assert frames[-1].stamp <= at(15 * 80)


def test_memory_is_bounded() -> None:
    a = synchronized(FakeRig(known=0), deadline=3600 * SECOND)
    drive(a, range(200))
    assert a.pending <= 65
    assert len(a._matches) <= 65
    assert all(len(track) <= 67 for track in a._tracks().values())


@settings(max_examples=60)
@given(
    messages=st.lists(
        st.tuples(st.sampled_from(["FRONT", "BACK", "RADAR"]), st.integers(0, 22), st.integers(0, 9)), max_size=90
    )
)
def test_messages_in_any_order_give_frames_in_order_within_the_slop(messages: list[tuple[str, int, int]]) -> None:
    a = synchronized(silent=0)
    frames = []
    for i, (name, step, jitter) in enumerate(messages):
        stamp, now = at(40 * step + jitter), at(10 * i)
        frames += a.radar(name, stamp, POINTS, now) if name == "RADAR" else a.camera(name, stamp, b"x", now)
    stamps = [found.stamp for found in frames]
    assert stamps == sorted(set(stamps))
    assert a.counts["jump"] == 0
    for found in frames:
        assert found.frame is not None
        newest = [found.frame.cameras["FRONT"].stamp, found.frame.cameras["BACK"].stamp - 20 * MS]
        newest.append(found.frame.radars["RADAR"][0].stamp)
        assert max(newest) - min(newest) < 70 * MS
