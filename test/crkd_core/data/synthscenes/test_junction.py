from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from crkd_core.data.synthscenes.junction import HALF_WIDTH, Junction, clear_junction, populate_junction
from crkd_core.data.synthscenes.population import Actor, Block, Cast
from crkd_core.data.synthscenes.road import Layout
from crkd_core.data.synthscenes.world import make_drive


def _cast() -> Cast:
    return Cast(np.random.default_rng(3), Layout(lanes=(1, 1), ego_lane=0))


def test_while_traffic_flows_across_it_drives_on_the_right_at_one_speed_per_lane():
    cast = _cast()
    populate_junction(cast, Junction(30.0, flowing=True), duration_s=10.0)
    for direction in (1, -1):
        lane = [a for a in cast.actors if np.sign(a.v_d) == direction]
        assert len(lane) > 4
        assert len({a.v_d for a in lane}) == 1
        # Looking along its way, a vehicle's right is towards +s where it drives to the left of the road.
        assert all(direction * (a.s - 30.0) == pytest.approx(1.9, abs=0.6) for a in lane)
        ends = sorted((a.d * direction - a.size[0] / 2, a.d * direction + a.size[0] / 2) for a in lane)
        gaps = [later[0] - earlier[1] for earlier, later in pairwise(ends)]
        assert min(gaps) > 2.5 + abs(lane[0].v_d) * 1.2


def test_while_the_road_flows_the_street_waits_before_the_sidewalk():
    cast = _cast()
    populate_junction(cast, Junction(30.0, flowing=False), duration_s=10.0)
    assert len(cast.actors) > 3
    for actor in cast.actors:
        assert actor.v_d == 0
        assert abs(actor.d) - actor.size[0] / 2 >= cast.layout.walk_edge(1)


def test_the_street_is_cleared_of_what_stands_and_of_who_would_walk_into_flowing_traffic():
    cast = _cast()
    car = Actor("car", (4.6, 1.9, 1.7), 30.0, 8.0, 0.0)
    walker = Actor("pedestrian", (0.7, 0.7, 1.75), 18.0, 12.0, 0.0, v_s=1.3)
    driving = car._replace(profile=1)
    cast.actors, cast.blocks = [car, walker, driving, car._replace(s=50.0)], [Block("tree", (3, 3, 6), 33.0, 20.0)]
    other = replace(cast, actors=list(cast.actors), blocks=list(cast.blocks))
    clear_junction(cast, Junction(30.0, flowing=False), 10.0)
    assert cast.actors == [walker, driving, car._replace(s=50.0)]
    assert cast.blocks == []
    clear_junction(other, Junction(30.0, flowing=True), 10.0)
    assert other.actors == [car._replace(s=50.0)]


def test_some_drives_have_crossing_traffic_before_the_waiting_vehicle():
    seen = 0
    for seed in range(28, 46):
        drive = make_drive(seed, duration_s=2.0)
        if drive.junction is None or not drive.junction.flowing:
            continue
        assert drive.crosswalk is not None
        assert drive.junction.s - HALF_WIDTH >= drive.crosswalk + 2
        state = drive.states(drive.start_ns + 1_000_000_000)
        fast = np.hypot(*state.velocity.T) > 5
        assert fast.any()
        seen += 1
    assert seen >= 2
