"""The frame assembler: what a frame is made of, when it is answered, and what happens when messages misbehave."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from fake_rig import CONFIG, MS, POINTS, T0, FakeRig, at

from crkd_core.runtime.assembler import FrameAssembler, FrameState


def assembler(rig: FakeRig | None = None, **changes: object) -> FrameAssembler:
    return FrameAssembler(replace(CONFIG, **changes), rig or FakeRig())  # type: ignore[arg-type]


def test_frame_is_emitted_when_every_sensor_has_its_data_and_not_before():
    a = assembler()
    assert a.radar("RADAR", at(0), POINTS, 0) == []
    assert a.camera("FRONT", at(10), b"front", 0) == []
    [frame] = a.camera("BACK", at(30), b"back", 0)
    assert frame.state is FrameState.NOMINAL
    assert frame.reasons == ()
    assert frame.frame is not None
    assert frame.frame.manifest.sensors == {"FRONT": (at(10),), "BACK": (at(30),), "RADAR": (at(0),)}
    assert a.pending == 0


def test_each_measurement_carries_the_pose_of_its_own_stamp():
    a = assembler()
    a.radar("RADAR", at(0), POINTS, 0)
    a.camera("FRONT", at(10), b"", 0)
    [frame] = a.camera("BACK", at(30), b"", 0)
    assert frame.frame is not None
    assert frame.frame.T_world_from_base[0, 3] == pytest.approx(0.1)
    assert frame.frame.cameras["BACK"].T_world_from_base[0, 3] == pytest.approx(0.3)
    assert frame.frame.radars["RADAR"][0].T_world_from_base[0, 3] == pytest.approx(0.0)


def test_nearest_image_is_chosen_with_the_cameras_offset_taken_into_account():
    a = assembler(radars=())
    a.camera("BACK", at(-15), b"before", 0)
    a.camera("FRONT", at(0), b"", 0)
    [frame] = a.camera("BACK", at(35), b"after", 0)  # due at +20: 15 ms late beats 35 ms early
    assert frame.frame is not None
    assert frame.frame.cameras["BACK"].image == b"after"


def test_image_beyond_the_slop_is_not_used_and_the_frame_says_so():
    a = assembler(radars=())
    a.camera("FRONT", at(0), b"", 0)
    [frame] = a.camera("BACK", at(61), b"", 0)
    assert frame.state is FrameState.DEGRADED
    assert frame.reasons == ("BACK: no message within 40 ms",)
    assert frame.frame is not None
    assert list(frame.frame.cameras) == ["FRONT"]


def test_sweeps_come_newest_first_within_number_age_and_slop():
    a = assembler(cameras={"FRONT": 0}, radar_staleness=200 * MS)
    for ms in (-300, -150, -75, 0, 29):
        a.radar("RADAR", at(ms), POINTS, 0)
    [frame] = a.camera("FRONT", at(0), b"", 0)
    assert frame.frame is not None
    # The sweep at 29 ms is within the slop, but 0 already left no room for another one: see the next test.
    assert frame.frame.manifest.sensors["RADAR"] == (at(0), at(-75), at(-150))


def test_sweep_newer_than_the_slop_is_not_used():
    a = assembler(cameras={"FRONT": 0})
    for ms in (-100, -40, 31):
        a.radar("RADAR", at(ms), POINTS, 0)
    [frame] = a.camera("FRONT", at(0), b"", 0)
    assert frame.frame is not None
    assert frame.frame.manifest.sensors["RADAR"] == (at(-40), at(-100))


def test_a_sensor_may_have_its_own_slop_and_staleness():
    a = assembler(own_slop={"BACK": 70 * MS, "RADAR": 10 * MS}, own_staleness={"RADAR": 90 * MS})
    for ms in (-160, -80, 0):
        a.radar("RADAR", at(ms), POINTS, 0)
    a.radar("RADAR", at(30), POINTS, 0)  # within the slop of radars, not within its own
    a.camera("FRONT", at(0), b"", 0)
    [frame] = a.camera("BACK", at(85), b"", 0)  # 65 ms late, more than the slop of cameras
    assert frame.frame is not None
    assert frame.frame.manifest.sensors == {"FRONT": (at(0),), "BACK": (at(85),), "RADAR": (at(0), at(-80))}


def test_waits_for_a_sweep_that_may_still_fit():
    a = assembler(cameras={"FRONT": 0})
    a.radar("RADAR", at(-40), POINTS, 0)
    assert a.camera("FRONT", at(0), b"", 0) == []  # the next one is due from +20 on, inside the slop
    [frame] = a.radar("RADAR", at(25), POINTS, 0)
    assert frame.frame is not None
    assert frame.frame.manifest.sensors["RADAR"] == (at(25), at(-40))


def test_deadline_on_the_callers_clock_gives_a_degraded_frame():
    a = assembler(silent=0)
    a.radar("RADAR", at(0), POINTS, 1000 * MS)
    a.camera("FRONT", at(0), b"", 1000 * MS)
    assert a.poll(1119 * MS) == []
    [frame] = a.poll(1120 * MS)
    assert frame.state is FrameState.DEGRADED
    assert frame.reasons == ("BACK: no message yet",)
    assert frame.waited == 120 * MS


def test_deadline_in_message_time_passes_when_all_other_sensors_are_ahead():
    a = assembler(deadline_clock="messages", silent=0)
    a.camera("BACK", at(-80), b"", 0)
    for ms in (0, 75, 150):
        assert a.radar("RADAR", at(ms), POINTS, 0) == []
    a.camera("FRONT", at(0), b"", 0)
    assert a.poll(10**18) == [], "the caller's clock has no say"
    [frame] = a.camera("FRONT", at(125), b"", 10**18)
    assert frame.stamp == at(0)
    assert frame.reasons == ("BACK: newest message is 80 ms old",)


def test_silent_sensor_is_not_waited_for_after_a_while():
    a = assembler(silent=500 * MS)
    now = 0
    for i in range(12):
        now = i * 80 * MS
        a.radar("RADAR", at(80 * i), POINTS, now)
        frames = a.camera("FRONT", at(80 * i), b"", now)
    assert [f.state for f in frames] == [FrameState.DEGRADED], "answered at once, without waiting for the deadline"
    assert frames[0].waited == 0


def test_recovers_by_itself_when_a_sensor_comes_back():
    a = assembler(silent=500 * MS, radars=())
    states = []
    for i in range(20):
        frames = a.camera("FRONT", at(80 * i), b"", i * 80 * MS)
        if i >= 12:
            frames += a.camera("BACK", at(80 * i + 20), b"", i * 80 * MS + 20 * MS)
        states += [f.state for f in frames]
    assert states[0] is FrameState.DEGRADED
    assert states[-5:] == [FrameState.NOMINAL] * 5


def test_waits_for_the_pose_until_the_deadline():
    rig = FakeRig(known=at(10))
    a = assembler(rig, radars=(), cameras={"FRONT": 0})
    assert a.camera("FRONT", at(20), b"", 0) == []
    rig.known = at(20)
    [frame] = a.poll(5 * MS)
    assert frame.state is FrameState.NOMINAL


def test_without_any_pose_the_frame_is_stale_and_empty():
    a = assembler(FakeRig(known=0, poses_known=False), radars=(), cameras={"FRONT": 0})
    a.camera("FRONT", at(0), b"", 0)
    [frame] = a.poll(200 * MS)
    assert frame.state is FrameState.STALE
    assert frame.frame is None
    assert frame.reasons == ("pose: unknown at the reference stamp",)


def test_a_simulated_clock_that_has_not_begun_is_no_silence():
    a = assembler(stale_after=500 * MS)
    assert a.poll(0) == []
    assert a.poll(T0) == []
    [frame] = a.poll(T0 + 600 * MS)
    assert frame.reasons[0].endswith("for 0.6 s")


def test_without_calibration_the_reason_names_sensor_and_cause():
    a = assembler(FakeRig(cameras_known=False))
    a.radar("RADAR", at(0), POINTS, 0)
    a.camera("FRONT", at(0), b"", 0)
    a.camera("BACK", at(20), b"", 0)
    [frame] = a.poll(200 * MS)
    assert frame.state is FrameState.DEGRADED
    assert frame.reasons == ("FRONT: no camera_info yet", "BACK: no camera_info yet")
    assert frame.frame is not None
    assert list(frame.frame.radars) == ["RADAR"]


def test_trigger_that_stays_away_is_reported_once_per_period_and_recovers():
    a = assembler(radars=(), cameras={"FRONT": 0})
    a.camera("FRONT", at(0), b"", 0)
    reports = [f for ms in range(0, 3500, 50) for f in a.poll(ms * MS)]
    assert [f.state for f in reports] == [FrameState.STALE] * 3
    assert [f.stamp for f in reports] == [at(1050), at(2100), at(3150)]
    [frame] = a.camera("FRONT", at(3500), b"", 3500 * MS)
    assert frame.state is FrameState.NOMINAL


def test_duplicate_messages_are_counted_and_change_nothing():
    a = assembler(radars=())
    a.camera("FRONT", at(0), b"first", 0)
    a.camera("FRONT", at(0), b"second", 0)
    [frame] = a.camera("BACK", at(20), b"", 0)
    assert frame.frame is not None
    assert frame.frame.cameras["FRONT"].image == b"first"
    assert a.counts["duplicate"] == 1
    assert a.camera("BACK", at(20), b"", 0) == []


def test_trigger_older_than_an_answered_one_is_counted_and_dropped():
    a = assembler(radars=(), cameras={"FRONT": 0})
    a.camera("FRONT", at(100), b"", 0)
    assert a.camera("FRONT", at(50), b"", 0) == []
    assert a.counts["late_trigger"] == 1


def test_triggered_frame_may_refer_to_its_instant():
    a = assembler(cameras={"FRONT": -30 * MS, "BACK": -10 * MS}, at_instant=True)
    a.camera("FRONT", at(0), b"", 0)
    a.camera("BACK", at(21), b"", 0)
    [frame] = a.radar("RADAR", at(50), POINTS, 0)
    assert frame.stamp == at(30)
    assert frame.frame is not None
    assert frame.frame.manifest.sensors == {"FRONT": (at(0),), "BACK": (at(21),), "RADAR": (at(50),)}
    assert frame.frame.T_world_from_base[0, 3] == pytest.approx(0.3)


def test_replay_waits_for_poses_however_far_they_lag_behind():
    rig = FakeRig(known=at(-5000))
    a = assembler(rig, deadline_clock="messages", silent=0, camera_capacity=64)
    for i in range(30):
        a.radar("RADAR", at(80 * i), POINTS, 0)
        assert a.camera("FRONT", at(80 * i), b"", 0) == []
        a.camera("BACK", at(80 * i + 20), b"", 0)
    rig.known = at(5000)
    assert [f.state for f in a.poll(0)] == [FrameState.NOMINAL] * 30


def test_replay_without_any_pose_goes_on_once_it_was_flushed():
    a = assembler(FakeRig(known=0, poses_known=False), deadline_clock="messages", silent=0, cameras={"FRONT": 0})
    a.radar("RADAR", at(0), POINTS, 0)
    assert a.camera("FRONT", at(0), b"", 0) == []
    assert len(a.flush(0)) == 1
    a.radar("RADAR", at(80), POINTS, 0)
    assert [f.state for f in a.camera("FRONT", at(80), b"", 0)] == [FrameState.STALE]


def test_number_of_waiting_frames_is_bounded():
    a = assembler(FakeRig(known=0), deadline_clock="messages", silent=0, cameras={"FRONT": 0})
    answered = [len(a.camera("FRONT", at(80 * i), b"", 0)) for i in range(200)]
    assert answered[:64] == [0] * 64
    assert sum(answered) + a.pending == 200
    assert a.pending <= 64


def test_explicit_reference_stamps_make_the_frames():
    a = assembler(trigger=None)
    a.camera("FRONT", at(-30), b"", 0)
    a.camera("BACK", at(22), b"", 0)
    a.radar("RADAR", at(5), POINTS, 0)
    assert a.reference(at(0), 0) == []
    [frame] = a.camera("FRONT", at(50), b"", 0)
    assert frame.stamp == at(0)
    assert frame.frame is not None
    assert frame.frame.manifest.sensors == {"FRONT": (at(-30),), "BACK": (at(22),), "RADAR": (at(5),)}


def test_clock_that_jumps_back_flushes_and_is_reported_once():
    jumps: list[int] = []
    a = FrameAssembler(replace(CONFIG, radars=()), FakeRig(), on_jump=jumps.append)
    for i in range(50):
        a.camera("FRONT", at(80 * i), b"", i * 80 * MS)
        a.camera("BACK", at(80 * i + 20), b"", i * 80 * MS)
    now = 4000 * MS
    assert a.camera("FRONT", at(0), b"again", now) == []
    assert a.camera("BACK", at(80 * 50 + 20), b"straggler of the first round", now) == []
    assert a.camera("BACK", at(-60), b"", now) == []
    [frame] = a.camera("BACK", at(20), b"again", now)
    assert jumps == [at(0)]
    assert a.counts["jump"] == 1
    assert frame.stamp == at(0)
    assert frame.frame is not None
    assert frame.frame.cameras["BACK"].image == b"again"


def test_callers_clock_that_jumps_back_flushes_and_is_reported_once():
    jumps: list[int] = []
    a = FrameAssembler(replace(CONFIG, radars=()), FakeRig(), on_jump=jumps.append)
    a.camera("FRONT", at(5000), b"", at(5000))
    assert a.poll(at(0)) == []
    assert a.pending == 0
    a.camera("FRONT", at(0), b"", at(0))
    [frame] = a.camera("BACK", at(20), b"", at(20))
    assert len(jumps) == 1
    assert frame.stamp == at(0)


def test_every_round_of_a_looping_clock_is_reported():
    jumps: list[int] = []
    a = FrameAssembler(replace(CONFIG, radars=()), FakeRig(), on_jump=jumps.append)
    for _ in range(3):
        a.poll(at(0))
        a.camera("FRONT", at(5000), b"", at(5000))
    assert len(jumps) == a.counts["jump"] == 2


def test_memory_is_bounded_without_any_trigger():
    a = assembler(trigger=None, camera_capacity=8)
    for i in range(1000):
        a.camera("FRONT", at(80 * i), b"x", i)
        a.radar("RADAR", at(80 * i), POINTS, i)
    assert {name: len(track) for name, track in a._tracks().items()} == {"FRONT": 8, "BACK": 0, "RADAR": 67}


def test_radar_that_fell_behind_degrades_the_frame_while_its_sweeps_are_still_used():
    a = assembler(cameras={"FRONT": 0}, radar_max_age=100 * MS, silent=0)
    a.radar("RADAR", at(-150), POINTS, 0)
    a.camera("FRONT", at(0), b"", 0)
    [frame] = a.poll(200 * MS)
    assert frame.state is FrameState.DEGRADED
    assert frame.reasons == ("RADAR: newest sweep is 150 ms old",)
    assert frame.frame is not None
    assert list(frame.frame.radars) == ["RADAR"]


def test_flush_answers_what_is_pending():
    a = assembler()
    a.camera("FRONT", at(0), b"", 0)
    a.camera("FRONT", at(80), b"", 0)
    assert [f.stamp for f in a.flush(0)] == [at(0), at(80)]
    assert a.flush(0) == []


def test_unknown_trigger_camera_is_refused():
    with pytest.raises(ValueError, match="expected one of the cameras"):
        assembler(trigger="REAR")


def drive(seed: int) -> dict[str, list[int]]:
    """Stamps per sensor of a drive with jitter and lost messages."""
    rng = random.Random(seed)
    streams: dict[str, list[int]] = {}
    for name, phase, period, lost in (("FRONT", 0, 80, 0.0), ("BACK", 20, 80, 0.15), ("RADAR", 11, 75, 0.1)):
        stamps = [at(phase + period * i + rng.uniform(-6, 6)) for i in range(40)]
        streams[name] = [stamp for stamp in stamps if rng.random() >= lost]
    return streams


def manifests(streams: dict[str, list[int]], rng: random.Random, reordering: int) -> list[object]:
    """All answers to a drive whose messages come up to ``reordering`` ns late, each sensor's in order."""
    a = assembler(deadline_clock="messages", deadline=150 * MS, silent=0, camera_capacity=256)
    arrivals = []
    for name, stamps in streams.items():
        latest = 0
        for stamp in stamps:
            latest = max(latest + 1, stamp + round(rng.uniform(0, reordering)))
            arrivals.append((latest, rng.random(), name, stamp))
    frames = []
    for now, _, name, stamp in sorted(arrivals):
        frames += a.radar(name, stamp, POINTS, now) if name == "RADAR" else a.camera(name, stamp, b"", now)
    frames += a.flush(0)
    return [(f.stamp, f.state, f.frame.manifest if f.frame else None) for f in frames]


@pytest.mark.parametrize("seed", range(8))
def test_content_does_not_depend_on_how_sensors_interleave(seed: int):
    streams = drive(seed)
    expected = manifests(streams, random.Random(0), 0)
    assert len(expected) == len(streams["FRONT"])
    assert {state for _, state, _ in expected} == {FrameState.NOMINAL, FrameState.DEGRADED}
    for attempt in range(5):
        assert manifests(streams, random.Random(attempt), 100 * MS) == expected
