"""What the frame assembler has to know about the rig, and how long it waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.types import FloatArray


@dataclass(frozen=True)
class AssemblerConfig:
    """What a frame should hold and how long to wait for it. All times in ns.

    Attributes:
        cameras: name -> when its image is taken relative to the frame's instant. The instant is the reference stamp of
            an explicit trigger, or the trigger image's stamp minus the trigger camera's own offset.
        radars: names.
        sweeps: radar sweeps per radar and frame, at most.
        trigger: the camera whose every image opens a frame; None: frames are opened by ``FrameAssembler.reference``.
        at_instant: a triggered frame refers to its instant, not to the stamp of the trigger image.
        camera_slop: an image further from its time than this is not used.
        camera_min_period: least time between two images of one camera. An image within half of it of its time is the
            nearest there will be; with 0 the assembler waits for the next image to be sure.
        radar_slop: a sweep may be newer than the instant by this much.
        radar_min_period: least time between two sweeps of one radar; 0: wait for the next sweep to be sure.
        radar_staleness: a radar whose newest sweep is older than this is missing; a sweep that much older than its
            radar's newest one is not used.
        radar_max_age: a radar whose newest sweep is older makes the frame DEGRADED.
        deadline: how long a frame waits for its sensors after its trigger.
        deadline_clock: ``now``: measured on the caller's clock (live). ``messages`` (replay at any speed): a sensor is
            given up as soon as all others have sent messages that much newer than the instant; poses and calibration
            are waited for until ``flush``.
        silent: a sensor that sent nothing for so long (on the caller's clock) is not waited for; 0: always wait.
        stale_after: without a trigger for so long (on the caller's clock) an empty STALE frame is reported; 0: never.
        jump: stamps of one sensor that go back by more than this mean that time began anew (a looping bag).
        camera_capacity: images held per camera.
        own_slop: sensor -> its own, in place of ``camera_slop`` or ``radar_slop``.
        own_staleness: radar -> its own, in place of ``radar_staleness``.
    """

    cameras: dict[str, int]
    radars: tuple[str, ...]
    sweeps: int
    trigger: str | None = None
    at_instant: bool = False
    camera_slop: int = 50 * MILLISECOND
    camera_min_period: int = 50 * MILLISECOND
    radar_slop: int = 38 * MILLISECOND
    radar_min_period: int = 65 * MILLISECOND
    radar_staleness: int = 420 * MILLISECOND
    radar_max_age: int = 160 * MILLISECOND
    deadline: int = 120 * MILLISECOND
    deadline_clock: Literal["now", "messages"] = "now"
    silent: int = SECOND
    stale_after: int = SECOND
    jump: int = SECOND
    camera_capacity: int = 16
    own_slop: Mapping[str, int] = field(default_factory=dict)
    own_staleness: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trigger is not None and self.trigger not in self.cameras:
            raise ValueError(f"trigger: expected one of the cameras {list(self.cameras)}, got '{self.trigger}'")

    def slop(self, name: str) -> int:
        """How far from its time an image, or how much newer than the instant a sweep, of that sensor may be, ns."""
        return self.own_slop.get(name, self.camera_slop if name in self.cameras else self.radar_slop)

    def staleness(self, name: str) -> int:
        """How old the newest sweep of that radar, and how much older than that the others may be, ns."""
        return self.own_staleness.get(name, self.radar_staleness)


@dataclass(frozen=True)
class CameraCalibration:
    """What places a camera: K (3, 3), its mounting (4, 4), and distortion as in ``CameraImage``, or None."""

    intrinsics: FloatArray
    T_base_from_cam: FloatArray
    distortion: FloatArray | None = None


class Rig(Protocol):
    """Where sensors sit and how the vehicle moves; what is not known (yet) is None."""

    def camera(self, name: str) -> CameraCalibration | None:
        """Calibration of a camera."""

    def radar(self, name: str) -> FloatArray | None:
        """``T_base_from_radar`` of a radar."""

    def bev(self) -> FloatArray | None:
        """``T_base_from_bev``."""

    def problem(self, name: str) -> str:
        """Why that camera or radar, or ``bev``, has no calibration or place."""

    def covers(self, stamp: int) -> bool:
        """Whether the pose at ``stamp`` is final."""

    def pose(self, stamp: int) -> FloatArray | None:
        """``T_world_from_base`` at ``stamp``."""
