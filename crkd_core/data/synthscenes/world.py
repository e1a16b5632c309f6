"""A drive: the road, the vehicle's trajectory, every actor and piece of scenery, as functions of time and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crkd_core.cli import UserError
from crkd_core.data.synthscenes.conditions import Conditions, draw_conditions
from crkd_core.data.synthscenes.config import WORLD_SEED, SynthConfig
from crkd_core.data.synthscenes.frontage import populate_frontage
from crkd_core.data.synthscenes.ground import Ground, build_ground, crossing_street, crosswalk
from crkd_core.data.synthscenes.junction import HALF_WIDTH, LENGTH, Junction, clear_junction, populate_junction
from crkd_core.data.synthscenes.light import Light, make_light
from crkd_core.data.synthscenes.population import (
    LABEL,
    LIT,
    STATIC,
    Actor,
    Block,
    Cast,
    populate_crosswalk,
    populate_cycle_lane,
    populate_lane,
    populate_sidewalk,
    populate_strip,
    spread_starts,
)
from crkd_core.data.synthscenes.reflection import Reflection, reflections
from crkd_core.data.synthscenes.road import Layout, Road, make_layout, make_road
from crkd_core.data.synthscenes.shapes import BodyShapes, build_shapes
from crkd_core.data.synthscenes.traffic import EGO, Profiles, make_profiles
from crkd_core.geometry.overlap import drop_later, overlapping_pairs
from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.types import FloatArray

MARGIN = 1.5
"""Seconds before and after a drive in which it may still be asked for (radar sweeps before the first frame)."""
_REACH = 75.0  # m; what never comes nearer to the vehicle is not kept
_MEETING = 35.0  # m; of every class at least one actor comes so near
_ATTEMPTS = 20  # draws of the cast until that holds
_HEADWAY = (0.8, 1.6)  # s, from one vehicle of a lane to the next, besides their distance at a standstill
_TIGHTEST = 1 / 70  # 1/m, the greatest curvature of a road
_SIDEWAYS = 2.0  # m/s2, the greatest lateral acceleration of traffic
_JUNCTIONS = (0.3, 0.7)  # share of drives with a crossing street, where traffic flows and where it waits
_CLEARANCE = 0.1  # m added around every body where overlaps are looked for


class SynthError(UserError):
    """A request the simulator cannot serve."""


class DriveKey(NamedTuple):
    """What a drive follows from: the arguments of ``make_drive``, so that any process can make it."""

    seed: int
    config: SynthConfig = SynthConfig()
    duration_s: float = 10.0


@dataclass(frozen=True)
class States:
    """Where bodies are at one time, world frame.

    Attributes:
        xy: (N, 2) middle of each footprint, m.
        yaw: (N,), rad.
        velocity: (N, 2) over ground, m/s.
    """

    xy: FloatArray
    yaw: FloatArray
    velocity: FloatArray


@dataclass(frozen=True)
class EgoTrack:
    """The vehicle at K times: place (K, 2) and heading (K,) of base_link, velocity (K, 2), yaw rate (K,)."""

    xy: FloatArray
    heading: FloatArray
    velocity: FloatArray
    yaw_rate: FloatArray

    def pose(self, k: int) -> FloatArray:
        """``T_world_from_base`` of one of them."""
        return transform(yaw_rotation(float(self.heading[k])), [*self.xy[k], 0.0])


@dataclass(frozen=True)
class Drive:
    """One simulated drive. Bodies are its actors, in order, then its scenery.

    Attributes:
        seed, config, duration_s: what it was made of.
        start_ns: stamp of its beginning (unix time, a multiple of 1000).
        conditions: light and weather.
        road, layout, profiles: what it runs on.
        actors: the actors; their motion is ``states``.
        blocks: the scenery.
        sizes: (N, 3) length, width, height of all bodies, m.
        labels: (N,) int64, position in ``DETECTION_CLASSES``, -1 for scenery.
        crosswalk: s of the crossing where all traffic waits, if there is one.
        junction: the crossing street, if there is one.
    """

    seed: int
    config: SynthConfig
    duration_s: float
    start_ns: int
    conditions: Conditions
    road: Road
    layout: Layout
    profiles: Profiles
    actors: tuple[Actor, ...]
    blocks: tuple[Block, ...]
    sizes: FloatArray
    labels: NDArray[np.int64]
    crosswalk: float | None
    junction: Junction | None

    def seconds(self, stamp_ns: int) -> float:
        """Time since the start.

        Raises:
            SynthError: more than ``MARGIN`` outside the drive.
        """
        t = (stamp_ns - self.start_ns) * 1e-9
        if not -MARGIN <= t <= self.duration_s + MARGIN:
            raise SynthError(
                f"synth drive {self.seed}: stamp {stamp_ns} lies {t:.2f} s after its start; "
                f"expected between 0 and {self.duration_s:.2f} s (start_ns = {self.start_ns})"
            )
        return t

    def ego_track(self, stamps: Sequence[int]) -> EgoTrack:
        """The vehicle at K stamps; it follows its lane at height 0 without roll and pitch."""
        t = np.array([self.seconds(stamp) for stamp in stamps])
        d = self.layout.lane_center(-1, self.layout.ego_lane)
        s, speed = self.profiles.at(np.full(len(t), EGO), t)
        place = self.road.place(s, d)
        along = np.stack([np.cos(place.heading), np.sin(place.heading)], axis=1)
        velocity = (speed * (1 - place.curvature * d))[:, None] * along
        return EgoTrack(place.xy, place.heading, velocity, speed * place.curvature)

    def ego_pose(self, stamp_ns: int) -> FloatArray:
        """``T_world_from_base`` at a stamp."""
        return self.ego_track([stamp_ns]).pose(0)

    def states(self, stamp_ns: int) -> States:
        """Where all bodies are."""
        many = self.states_at([stamp_ns])
        return States(many.xy[0], many.yaw[0], many.velocity[0])

    def states_at(self, stamps: Sequence[int]) -> States:
        """Where all bodies are at K stamps; arrays begin with K."""
        t = np.array([self.seconds(stamp) for stamp in stamps])
        still, moving = self._at_rest, self._moving
        xy, yaw = np.tile(still.xy, (len(t), 1, 1)), np.tile(still.yaw, (len(t), 1))
        velocity = np.zeros_like(xy)
        xy[:, moving], yaw[:, moving], velocity[:, moving] = self._movers.at(t[:, None], self.road, self.profiles)
        return States(xy, yaw, velocity)

    @cached_property
    def _motion(self) -> _Motion:
        rows = [a[2:10] for a in self.actors] + [(b.s, b.d, b.yaw, 0, 1, 0, 0, 0) for b in self.blocks]
        return _Motion(np.array(rows, dtype=np.float64).reshape(-1, 8))

    @cached_property
    def _at_rest(self) -> States:
        return States(*self._motion.at(np.zeros(1), self.road, self.profiles))

    @cached_property
    def _moving(self) -> NDArray[np.int64]:
        rows = self._motion.rows
        return np.flatnonzero((rows[:, 3] > 0) | (rows[:, 6] != 0) | (rows[:, 7] != 0))

    @cached_property
    def _movers(self) -> _Motion:
        return _Motion(self._motion.rows[self._moving])

    @cached_property
    def light(self) -> Light:
        """Daylight and street lighting."""
        return make_light(self.seed, self.conditions)

    @cached_property
    def lights_on(self) -> NDArray[np.bool_]:
        """(N,) bodies that drive with lights on."""
        lit = [a.name in LIT and (a.manned or a.profile != STATIC) for a in self.actors]
        return np.array(lit + [False] * len(self.blocks), dtype=bool) & self.light.headlights

    @cached_property
    def poles(self) -> NDArray[np.bool_]:
        """(N,) bodies that are lamp poles."""
        return np.array([False] * len(self.actors) + [b.kind == "pole" for b in self.blocks], dtype=bool)

    @cached_property
    def scratch(self) -> dict[object, object]:
        """What sensors keep between measurements of one drive."""
        return {}

    @cached_property
    def ground(self) -> Ground:
        """Road, lines and sidewalks."""
        last = self.profiles.covered_by(EGO, self.duration_s) + 110.0
        over = []
        if self.junction is not None:
            over.append(crossing_street(self.road, self.junction.s, HALF_WIDTH, LENGTH))
        if self.crosswalk is not None:
            over.append(crosswalk(self.road, self.layout, self.crosswalk))
        return build_ground(self.seed, self.road, self.layout, -110.0, last).with_over(*over)

    @cached_property
    def shapes(self) -> BodyShapes:
        """What the bodies look like, as coloured quadrilaterals and boxes."""
        return build_shapes(self.seed, self.actors, self.blocks)

    @cached_property
    def reflection(self) -> Reflection:
        """How every body meets radar and LiDAR."""
        return reflections(self.seed, [a.name for a in self.actors] + [b.kind for b in self.blocks], self.sizes)

    @cached_property
    def radii(self) -> FloatArray:
        """(N,) half the diagonal of each footprint, m."""
        return np.asarray(np.hypot(self.sizes[:, 0], self.sizes[:, 1]) / 2)


@dataclass(frozen=True)
class _Motion:
    """How bodies move: columns s, d, yaw, profile, direction, time_shift, v_s, v_d of an ``Actor``."""

    rows: FloatArray

    def at(self, t: FloatArray, road: Road, profiles: Profiles) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Places (..., 2), yaws, velocities (..., 2) in the world at times that broadcast against the N bodies."""
        s, d, yaw, profile, direction, shift, v_s, v_d = self.rows.T
        covered, speed = profiles.at(profile.astype(np.int64), t + shift)
        d = d + v_d * t
        place = road.place(s + direction * covered + v_s * t, d)
        along = np.stack([np.cos(place.heading), np.sin(place.heading)], axis=-1)
        across = np.stack([-along[..., 1], along[..., 0]], axis=-1)
        s_dot = (direction * speed + v_s) * (1 - place.curvature * d)
        return place.xy, place.heading + yaw, s_dot[..., None] * along + v_d[:, None] * across


def check_drive(key: DriveKey) -> None:
    """Refuse what cannot be made.

    Raises:
        SynthError: a duration that is not positive or too long, or a negative seed.
    """
    if not 0 < key.duration_s <= 120:
        raise SynthError(f"duration: expected 0 < seconds <= 120, got {key.duration_s}")
    if key.seed < 0:
        raise SynthError(f"seed: expected a non-negative integer, got {key.seed}")


def make_drive(seed: int, config: SynthConfig | None = None, duration_s: float = 10.0) -> Drive:
    """Simulate a drive: the same seed, configuration and duration give the same drive.

    ``config.TRAINING_SEEDS`` are for training, ``config.EVALUATION_SEEDS`` for evaluation.

    Raises:
        SynthError: a duration that is not positive, or a negative seed.
    """
    config = SynthConfig() if config is None else config
    check_drive(DriveKey(seed, config, duration_s))
    rng = np.random.default_rng([WORLD_SEED, seed])
    layout = make_layout(rng)
    profiles, crossing = make_profiles(rng, layout, duration_s)
    travelled = profiles.covered_by(EGO, duration_s)
    tightest = min(_TIGHTEST, _SIDEWAYS / max(float(profiles.speed.max()), 1.0) ** 2)
    road = make_road(rng, -150.0, travelled + 150.0, tightest)
    crossing_s = float(rng.uniform(9, 16)) if crossing else None
    junction = _make_junction(rng, crossing_s, travelled)
    conditions = conditions_of(seed, config)
    for _ in range(_ATTEMPTS):
        cast = _populated(rng, layout, profiles, travelled, duration_s, config.density, crossing_s, junction)
        drive = _without_overlaps(
            Drive(
                seed=seed,
                config=config,
                duration_s=float(duration_s),
                start_ns=(1_600_000_000 + 1000 * seed) * 1_000_000_000,
                conditions=conditions,
                road=road,
                layout=layout,
                profiles=profiles,
                actors=tuple(cast.actors),
                blocks=tuple(cast.blocks),
                sizes=np.array([a.size for a in cast.actors] + [b.size for b in cast.blocks], dtype=np.float64),
                labels=np.array([LABEL[a.name] for a in cast.actors] + [-1] * len(cast.blocks), dtype=np.int64),
                crosswalk=crossing_s,
                junction=junction,
            )
        )
        if _all_classes_near(drive):
            break
    return drive


def conditions_of(seed: int, config: SynthConfig) -> Conditions:
    """Light and weather of a drive, however long it is."""
    return draw_conditions(np.random.default_rng([WORLD_SEED, seed, 1]), config.conditions)


def _make_junction(rng: np.random.Generator, crossing_s: float | None, travelled: float) -> Junction | None:
    """A street across the road in some drives: behind the crosswalk where traffic waits, else anywhere on the way."""
    exists, place = rng.uniform() < _JUNCTIONS[crossing_s is not None], float(rng.uniform(15, max(40.0, travelled)))
    if not exists:
        return None
    return Junction(place, flowing=False) if crossing_s is None else Junction(crossing_s + 9.0, flowing=True)


def _all_classes_near(drive: Drive) -> bool:
    """Whether of every class at least one actor comes near the vehicle, so that a ten-class metric means something."""
    stamps = [drive.start_ns + int(f * drive.duration_s * 1e9) for f in (0.0, 0.25, 0.5, 0.75, 1.0)]
    offset = drive.states_at(stamps).xy - drive.ego_track(stamps).xy[:, None]
    near = (np.hypot(offset[..., 0], offset[..., 1]) < _MEETING).any(axis=0)
    return len(set(drive.labels[near].tolist()) - {-1}) == len(LABEL)


def _populated(
    rng: np.random.Generator,
    layout: Layout,
    profiles: Profiles,
    travelled: float,
    duration_s: float,
    density: float,
    crossing_s: float | None,
    junction: Junction | None,
) -> Cast:
    cast = Cast(rng, layout)
    first, last = -_REACH - 15, travelled + _REACH + 15
    free = (0.0, 0.0) if crossing_s is None else (crossing_s - 2.5, crossing_s + 2.5)
    if junction is not None and junction.flowing:
        free = (free[0], junction.s + HALF_WIDTH)
    for side in (-1, 1):
        for index in range(layout.lane_count(side)):
            profile = profiles.lane(side, index)
            extra = profiles.covered_by(profile, duration_s)
            lane = Cast(rng, layout)
            own = side < 0 and index == layout.ego_lane
            clear = (-5.0, max(7.0, free[1])) if own else free
            gap = float(rng.uniform(4, 18)) / density
            begin, end = (first - extra, last) if side < 0 else (first, last + extra)
            populate_lane(lane, side=side, index=index, profile=profile, first=begin, last=end, gap=gap, clear=clear)
            cast.actors += spread_starts(lane.actors, seconds=float(rng.uniform(*_HEADWAY)), anchor=0.0)
        extra = profiles.covered_by(profiles.cycle_lane(side), duration_s)
        begin, end = (first - extra, last) if side < 0 else (first, last + extra)
        populate_cycle_lane(cast, side, profiles.cycle_lane(side), begin, end, gap=float(rng.uniform(12, 30)) / density)
        populate_sidewalk(cast, side, first, last, gap=float(rng.uniform(12, 40)) / density)
        populate_strip(cast, side, first - rng.uniform(0, 40), last)
        populate_frontage(cast, side, first - rng.uniform(0, 50), last)
    if junction is not None:
        clear_junction(cast, junction, duration_s)
        populate_junction(cast, junction, duration_s)
    if crossing_s is not None:
        populate_crosswalk(cast, crossing_s)
    return cast


def _without_overlaps(drive: Drive) -> Drive:
    """Drop what never comes near the vehicle, and of any two bodies that touch at some time the less important."""
    n = len(drive.actors)
    times = np.arange(0, drive.duration_s + 0.1, 0.1)
    stamps = [drive.start_ns + int(t * 1e9) for t in times]
    states, egos = drive.states_at(stamps), drive.ego_track(stamps)
    distance = np.linalg.norm(states.xy[::10] - egos.xy[::10, None], axis=2).min(axis=0)
    near = distance < _REACH + drive.sizes[:, 0] / 2
    own = drive.config.vehicle
    # Order of importance: the vehicle, scenery, then actors as they were placed.
    order = np.concatenate([n + np.flatnonzero(near[n:]), np.flatnonzero(near[:n])])
    fixed = 1 + int(near[n:].sum())
    half = np.concatenate([[[own.length / 2, own.width / 2]], drive.sizes[order, :2] / 2]) + _CLEARANCE
    middle = egos.xy + own.middle * np.stack([np.cos(egos.heading), np.sin(egos.heading)], axis=1)
    xy = np.concatenate([middle[:, None], states.xy[:, order]], axis=1)
    yaw = np.concatenate([egos.heading[:, None], states.yaw[:, order]], axis=1)
    # Traffic keeps its distances by construction; only those who walk freely meet others on their way.
    free = 1 + np.flatnonzero([i < n and (drive.actors[i].v_s != 0 or drive.actors[i].v_d != 0) for i in order])
    keep = np.ones(len(order) + 1, dtype=bool)
    for k in range(len(times)):
        everyone = k % 50 == 0
        drop_later(keep, overlapping_pairs(xy[k], yaw[k], half, None if everyone else free[keep[free]]), fixed)
    kept = np.sort(order[keep[1:]])
    actors = tuple(drive.actors[i] for i in kept if i < n)
    blocks = tuple(drive.blocks[i - n] for i in kept if i >= n)
    return replace(drive, actors=actors, blocks=blocks, sizes=drive.sizes[kept], labels=drive.labels[kept])
