"""A rig of two cameras and a radar about which everything is known, for tests of what frames are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from crkd_core.geometry.transforms import transform
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.runtime.rig import AssemblerConfig, CameraCalibration
from crkd_core.types import RADAR_DTYPE, FloatArray

MS = MILLISECOND
T0 = 1_500_000_000 * SECOND
POINTS = np.zeros(3, dtype=RADAR_DTYPE)


@dataclass
class FakeRig:
    """Everything is known; the vehicle drives along x at 10 m/s; poses are final up to ``known``."""

    known: int = T0 + 1000 * SECOND
    cameras_known: bool = True
    poses_known: bool = True
    bev_known: bool = True
    calibration: CameraCalibration = field(default_factory=lambda: CameraCalibration(np.eye(3), np.eye(4)))

    def camera(self, _name: str) -> CameraCalibration | None:
        return self.calibration if self.cameras_known else None

    def radar(self, _name: str) -> FloatArray | None:
        return np.eye(4)

    def bev(self) -> FloatArray | None:
        return np.eye(4) if self.bev_known else None

    def problem(self, _name: str) -> str:
        return "no camera_info yet"

    def covers(self, stamp: int) -> bool:
        return stamp <= self.known

    def pose(self, stamp: int) -> FloatArray | None:
        return transform(np.eye(3), [1e-8 * (stamp - T0), 0, 0]) if self.poses_known else None


CONFIG = AssemblerConfig(
    cameras={"FRONT": 0, "BACK": 20 * MS},
    radars=("RADAR",),
    sweeps=3,
    trigger="FRONT",
    camera_slop=40 * MS,
    camera_min_period=50 * MS,
    radar_slop=30 * MS,
    radar_min_period=60 * MS,
    deadline=120 * MS,
)


def at(ms: float) -> int:
    return T0 + round(ms * MS)
