"""Which measurements a frame is made of: the rules, without any state of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crkd_core.runtime.poses import MILLISECOND
from crkd_core.runtime.radar_motion import SPAN, compensated, is_relative
from crkd_core.runtime.rig import AssemblerConfig, Rig
from crkd_core.runtime.track import Track
from crkd_core.types import CameraImage, FloatArray, RadarSweep, SensorFrame

Image = bytes | NDArray[np.uint8]
Points = NDArray[np.void]
AnyTrack = Track[Image] | Track[Points]


@dataclass(frozen=True)
class Request:
    """A frame that is wanted.

    Attributes:
        stamp: reference stamp, ns.
        instant: what the times of sensors are relative to, ns.
        opened: arrival of the trigger on the caller's clock, ns.
    """

    stamp: int
    instant: int
    opened: int


@dataclass
class Choice:
    """What a frame would be made of now.

    Attributes:
        images: camera -> stamp and image.
        sweeps: radar -> stamps and points, newest first.
        waiting: sensor -> why its choice is not final: its own messages may still change it.
        context: sensor, ``pose`` or ``bev`` -> what is not known yet to place it.
    """

    images: dict[str, tuple[int, Image]] = field(default_factory=dict)
    sweeps: dict[str, list[tuple[int, Points]]] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=dict)


class Selector:
    """Applies the rules of a configuration to what has come in so far."""

    def __init__(
        self,
        config: AssemblerConfig,
        rig: Rig,
        cameras: Mapping[str, Track[Image]],
        radars: Mapping[str, Track[Points]],
    ) -> None:
        self._config = config
        self._rig = rig
        self._cameras = cameras
        self._radars = radars

    def choose(self, request: Request) -> Choice:
        """What the frame would be made of now, and what that is still waiting for."""
        choice = Choice()
        for name in self._config.cameras:
            self._add_image(name, request, choice)
        for name in self._config.radars:
            self._add_sweeps(name, request, choice)
        self._add_poses(request, choice)
        return choice

    def _add_poses(self, request: Request, choice: Choice) -> None:
        stamps = [pick[0] for pick in choice.images.values()] + [picks[0][0] for picks in choice.sweeps.values()]
        if not self._rig.covers(max([request.stamp, *stamps])):
            choice.context["pose"] = "pose: newest one is older than the measurements"
        if self._rig.bev() is None:
            choice.context["bev"] = f"bev: {self._rig.problem('bev')}"

    def _add_context(self, choice: Choice, name: str, *, known: bool) -> None:
        if not known:
            choice.context[name] = f"{name}: {self._rig.problem(name)}"

    def _add_image(self, name: str, request: Request, choice: Choice) -> None:
        config = self._config
        # The image that opened the frame is its own, whatever came just before it.
        half = 0 if name == config.trigger else config.camera_min_period // 2
        time = request.instant + config.cameras[name]
        pick, final = camera_choice(self._cameras[name], time, half, config.slop(name))
        if pick is not None:
            choice.images[name] = pick
        if not final:
            choice.waiting[name] = self._late(name, request)
        else:
            self._add_context(choice, name, known=self._rig.camera(name) is not None)

    def _add_sweeps(self, name: str, request: Request, choice: Choice) -> None:
        picks, final = radar_choice(self._radars[name], request.instant, name, self._config)
        if picks:
            choice.sweeps[name] = picks
        if not final:
            choice.waiting[name] = self._late(name, request)
        else:
            self._add_context(choice, name, known=self._rig.radar(name) is not None)

    def build(self, request: Request, choice: Choice) -> tuple[SensorFrame | None, tuple[str, ...]]:
        """The frame as chosen (None where there is nothing to run on), and what is wrong with it.

        The reasons depend on what the frame holds, not on how long it was waited for.
        """
        reasons: dict[str, str] = {}
        T_world_from_base, T_base_from_bev = self._rig.pose(request.stamp), self._rig.bev()
        if T_world_from_base is None:
            return None, ("pose: unknown at the reference stamp",)
        if T_base_from_bev is None:
            return None, (f"bev: {self._rig.problem('bev')}",)
        cameras = self._placed_images(choice, reasons)
        radars = self._placed_sweeps(request, choice, reasons)
        if "pose" in choice.context:
            reasons["pose"] = choice.context["pose"]
        frame = SensorFrame(cameras, radars, request.stamp, T_world_from_base, T_base_from_bev)
        return frame if cameras or radars else None, tuple(reasons.values())

    def _late(self, name: str, request: Request) -> str:
        newest = (self._cameras[name] if name in self._cameras else self._radars[name]).newest
        if newest is None:
            return f"{name}: no message yet"
        return f"{name}: newest message is {(request.instant - newest) / MILLISECOND:.0f} ms old"

    def _placed_images(self, choice: Choice, reasons: dict[str, str]) -> dict[str, CameraImage]:
        cameras = {}
        for name in self._config.cameras:
            if name not in choice.images:
                reasons[name] = choice.waiting.get(name) or self._missing(name, self._config.slop(name))
                continue
            stamp, image = choice.images[name]
            calibration, T = self._rig.camera(name), self._rig.pose(stamp)
            if calibration is None:
                reasons[name] = f"{name}: {self._rig.problem(name)}"
            elif T is None:
                reasons[name] = f"{name}: no pose at its stamp"
            else:
                K, T_base_from_cam = calibration.intrinsics, calibration.T_base_from_cam
                cameras[name] = CameraImage(image, K, T_base_from_cam, T, stamp, calibration.distortion)
        return cameras

    def _placed_sweeps(self, request: Request, choice: Choice, reasons: dict[str, str]) -> dict[str, list[RadarSweep]]:
        radars = {}
        for name in self._config.radars:
            if name not in choice.sweeps:
                reasons[name] = choice.waiting.get(name) or self._missing(name, self._config.staleness(name))
                continue
            T_base_from_radar = self._rig.radar(name)
            if T_base_from_radar is None:
                reasons[name] = f"{name}: {self._rig.problem(name)}"
                continue
            posed = (self._placed_sweep(stamp, p, T_base_from_radar) for stamp, p in choice.sweeps[name])
            sweeps = [sweep for sweep in posed if sweep is not None]
            if not sweeps:
                reasons[name] = f"{name}: no pose at its stamps"
                continue
            radars[name] = sweeps
            age = request.instant - sweeps[0].stamp
            if age > self._config.radar_max_age:
                reasons[name] = f"{name}: newest sweep is {age / MILLISECOND:.0f} ms old"
        return radars

    def _placed_sweep(self, stamp: int, points: Points, T_base_from_radar: FloatArray) -> RadarSweep | None:
        T = self._rig.pose(stamp)
        if T is None:
            return None
        if is_relative(points):
            before = self._rig.pose(stamp - SPAN)
            if before is None:
                return None
            points = compensated(points, T_base_from_radar, T_world_from_base=T, T_world_from_base_before=before)
        return RadarSweep(points, T_base_from_radar, T, stamp)

    def _missing(self, name: str, reach: int) -> str:
        return f"{name}: no message within {reach / MILLISECOND:.0f} ms"


def camera_choice(track: Track[Image], time: int, half: int, slop: int) -> tuple[tuple[int, Image] | None, bool]:
    """The image nearest to ``time``, and whether it is final.

    Final as soon as one message at or after ``time - half`` is there: that one and its predecessor are the only
    candidates, so that it does not matter what else has come in meanwhile.
    """
    i = track.first_from(time - half)
    candidates = [j for j in (i - 1, i) if 0 <= j < len(track)]
    best = min(candidates, key=lambda j: abs(track.stamps[j] - time), default=None)
    if best is None or abs(track.stamps[best] - time) > slop:
        return None, i < len(track)
    return (track.stamps[best], track.items[best]), i < len(track)


def radar_choice(
    track: Track[Points], instant: int, name: str, config: AssemblerConfig
) -> tuple[list[tuple[int, Points]], bool]:
    """The sweeps of a frame from radar ``name``, newest first, and whether they are final.

    Final as soon as one message is there after which no other fits before ``instant`` and the radar's slop.
    """
    limit = instant + config.slop(name)
    i = track.first_from(limit - config.radar_min_period + 1)
    final = i < len(track)
    last = i if final and track.stamps[i] <= limit else i - 1
    if last < 0 or track.stamps[last] < instant - config.staleness(name):
        return [], final
    first = max(track.first_from(track.stamps[last] - config.staleness(name)), last - config.sweeps + 1)
    return [(track.stamps[j], track.items[j]) for j in range(last, first - 1, -1)], final
