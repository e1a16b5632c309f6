import msgspec
import numpy as np
import pytest

from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.data.synthscenes.frames import annotated
from crkd_core.data.synthscenes.world import Drive, SynthError, make_drive
from crkd_core.geometry.overlap import overlapping_pairs
from crkd_core.types import DETECTION_CLASSES

_MS = 1_000_000


def test_the_same_seed_gives_the_same_drive_and_another_seed_another(drive: Drive):
    again = make_drive(4)
    assert again.actors == drive.actors
    assert again.blocks == drive.blocks
    np.testing.assert_array_equal(again.shapes.colours, drive.shapes.colours)
    assert make_drive(5).actors != drive.actors


def test_a_drive_stays_the_same_world_in_every_version_of_the_simulator(drive: Drive):
    newer = make_drive(4, msgspec.structs.replace(SynthConfig(), version=99))
    assert newer.actors == drive.actors
    assert newer.conditions == drive.conditions
    np.testing.assert_array_equal(newer.road.xy, drive.road.xy)
    # What figures in docs/ were measured on.
    assert (len(drive.actors), len(drive.blocks)) == (282, 55)
    assert drive.sizes.sum() == pytest.approx(2544.54, abs=0.01)
    assert drive.conditions.rain == pytest.approx(2.071, abs=0.001)
    np.testing.assert_allclose(drive.ego_pose(drive.start_ns + 10_000 * _MS)[:2, 3], [105.26, 328.30], atol=0.01)


def test_config_hash_changes_with_any_value():
    config = SynthConfig()
    assert config.config_hash() == SynthConfig().config_hash()
    assert config.config_hash() != msgspec.structs.replace(config, radar_hz=14).config_hash()
    assert hash(config) == hash(SynthConfig())


@pytest.mark.parametrize("seed", range(8))
def test_every_class_comes_near_in_every_drive(seed: int):
    drive = make_drive(seed, duration_s=6.0)
    near: set[str] = set()
    for second in range(7):
        boxes, pick = annotated(drive, drive.start_ns + second * 1000 * _MS)
        own = drive.ego_pose(drive.start_ns + second * 1000 * _MS)[:2, 3]
        distance = np.linalg.norm(boxes.centers[:, :2] - own, axis=1)
        near |= {drive.actors[i].name for i in pick[distance < 40]}
    assert near == set(DETECTION_CLASSES)


@pytest.mark.parametrize("seed", [1, 4, 12])
def test_nothing_drives_through_anything(seed: int):
    drive = make_drive(seed)
    n, half = len(drive.actors), drive.sizes[:, :2] / 2
    for ms in range(0, 10_000, 870):  # not the times at which the simulator itself looks
        state = drive.states(drive.start_ns + ms * _MS)
        pairs = overlapping_pairs(state.xy, state.yaw, half)
        assert (pairs[:, 0] >= n).all(), [drive.actors[i].name for i in pairs[0] if i < n]
        T = drive.ego_pose(drive.start_ns + ms * _MS)
        own = T[:2, 3] + 1.4 * T[:2, 0]
        xy, yaw = np.concatenate([[own], state.xy]), np.append(np.arctan2(T[1, 0], T[0, 0]), state.yaw)
        touched = overlapping_pairs(xy, yaw, np.concatenate([[[2.0, 0.9]], half]))
        assert (touched[:, 0] > 0).all()


def test_velocity_is_the_derivative_of_position(drive: Drive):
    stamp, step = drive.start_ns + 3_300 * _MS, 5 * _MS
    before, now, after = (drive.states(stamp + k * step) for k in (-1, 0, 1))
    numeric = (after.xy - before.xy) / (2 * step * 1e-9)
    np.testing.assert_allclose(now.velocity, numeric, atol=0.03)
    assert np.linalg.norm(now.velocity, axis=1).max() > 2


def test_the_vehicles_velocity_and_yaw_rate_are_the_derivatives_of_its_pose(drive: Drive):
    stamp, step = drive.start_ns + 5_000 * _MS, 20 * _MS
    track = drive.ego_track([stamp - step, stamp, stamp + step])
    np.testing.assert_allclose(track.velocity[1], (track.xy[2] - track.xy[0]) / 0.04, atol=0.02)
    np.testing.assert_allclose(track.yaw_rate[1], (track.heading[2] - track.heading[0]) / 0.04, atol=2e-3)


def test_driving_vehicles_point_where_they_go(drive: Drive):
    state = drive.states(drive.start_ns)
    fast = np.flatnonzero(np.linalg.norm(state.velocity, axis=1) > 2)
    heading = np.stack([np.cos(state.yaw[fast]), np.sin(state.yaw[fast])], axis=1)
    along = (heading * state.velocity[fast]).sum(axis=1) / np.linalg.norm(state.velocity[fast], axis=1)
    assert len(fast) > 5
    assert along.min() > 0.97


@pytest.mark.parametrize("seed", [2, 3, 6, 9])
def test_traffic_keeps_to_plausible_accelerations_and_distances(seed: int):
    drive = make_drive(seed)
    times = [drive.start_ns + ms * _MS for ms in range(0, 10_000, 250)]
    states = drive.states_at(times)
    n = len(drive.actors)
    acceleration = np.diff(states.velocity[:, :n], axis=0) / 0.25
    assert np.linalg.norm(acceleration, axis=2).max() < 4.0
    lanes = {(a.profile, a.direction) for a in drive.actors if a.profile and a.name != "bicycle"}
    for profile, direction in lanes:
        lane = [i for i, a in enumerate(drive.actors) if (a.profile, a.direction) == (profile, direction)]
        if abs(np.median([drive.actors[i].d for i in lane])) > drive.layout.cycle_edge(1):
            continue
        for k in range(0, len(times), 8):
            xy, speed = states.xy[k, lane], np.hypot(*states.velocity[k, lane].T)
            distance = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1))
            half = drive.sizes[lane, 0] / 2
            free = distance - half[:, None] - half[None] + 1e6 * np.eye(len(lane))
            alone = np.array([drive.actors[i].name not in ("truck", "trailer") for i in lane])  # those may be coupled
            assert (free[np.ix_(alone, alone)].min(axis=1, initial=1e6) > 1.5 + 0.4 * speed[alone]).all()


def test_a_stamp_outside_the_drive_is_refused_with_the_allowed_range(drive: Drive):
    with pytest.raises(SynthError, match=r"expected between 0 and 10\.00 s"):
        drive.states(drive.start_ns + 12_000 * _MS)


@pytest.mark.parametrize(("seed", "duration"), [(-1, 10.0), (1, 0.0), (1, 1e6)])
def test_impossible_requests_are_refused(seed: int, duration: float):
    with pytest.raises(SynthError, match="expected"):
        make_drive(seed, duration_s=duration)
