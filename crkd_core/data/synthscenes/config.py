"""What a simulated vehicle carries and how a drive is simulated: frozen, versioned, hashable."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec
import numpy as np

from crkd_core.data.synthscenes.conditions import ConditionShares
from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.types import FloatArray

SIMULATOR_VERSION = 2
"""Raised whenever the same seed and configuration would give other data."""


class CameraMount(msgspec.Struct, frozen=True):
    """One pinhole camera, level, in the vehicle frame.

    Intrinsics are those of the full 1600 x 900 image; any other size scales them.
    """

    name: str
    translation: tuple[float, float, float]
    yaw_deg: float
    focal: float
    principal: tuple[float, float]
    lead_ms: float
    """The camera fires this long before the LiDAR revolution ends (nuScenes: when the beam passes its middle)."""


class RadarMount(msgspec.Struct, frozen=True):
    """One radar, level, in the vehicle frame; ``phase_ms`` shifts its 13 Hz grid."""

    name: str
    translation: tuple[float, float, float]
    yaw_deg: float
    phase_ms: float


class ImageSize(NamedTuple):
    """Width and height, pixels."""

    width: int
    height: int


_CAMERAS = (
    CameraMount("CAM_FRONT", (1.70, 0.02, 1.51), 0.0, 1266.0, (810.0, 480.0), 15.0),
    CameraMount("CAM_FRONT_RIGHT", (1.55, -0.49, 1.50), -55.0, 1261.0, (806.0, 480.0), 7.0),
    CameraMount("CAM_FRONT_LEFT", (1.52, 0.49, 1.51), 55.0, 1272.0, (815.0, 478.0), 23.0),
    CameraMount("CAM_BACK", (0.03, 0.0, 1.58), 180.0, 809.0, (815.0, 480.0), 40.0),
    CameraMount("CAM_BACK_LEFT", (1.04, 0.48, 1.59), 110.0, 1257.0, (797.0, 486.0), 32.0),
    CameraMount("CAM_BACK_RIGHT", (1.01, -0.48, 1.56), -110.0, 1259.0, (806.0, 490.0), 48.0),
)

_RADARS = (
    RadarMount("RADAR_FRONT", (3.41, 0.0, 0.50), 0.0, 0.0),
    RadarMount("RADAR_FRONT_LEFT", (2.42, 0.80, 0.78), 90.0, 13.0),
    RadarMount("RADAR_FRONT_RIGHT", (2.42, -0.80, 0.77), -90.0, 29.0),
    RadarMount("RADAR_BACK_LEFT", (-0.56, 0.62, 0.53), 174.8, 44.0),
    RadarMount("RADAR_BACK_RIGHT", (-0.56, -0.62, 0.53), -174.9, 60.0),
)


class SynthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sensors, rates and noise of a SynthScenes vehicle. Two equal configurations and seeds give equal data."""

    version: int = SIMULATOR_VERSION
    cameras: tuple[CameraMount, ...] = _CAMERAS
    radars: tuple[RadarMount, ...] = _RADARS
    lidar_translation: tuple[float, float, float] = (0.94, 0.0, 1.84)
    """LIDAR_TOP, x to the right and y forward; also the network's BEV frame."""
    image_width: int = 800
    """Width of written images; the aspect ratio is 16:9."""
    camera_hz: int = 12
    radar_hz: int = 13
    lidar_hz: int = 20
    keyframe_hz: int = 2
    annotation_range: float = 60.0
    """Actors whose centre is farther from the vehicle are not annotated, m."""
    supersampling: int = 2
    """Images are drawn this many times larger per axis and area-averaged."""
    image_noise: float = 3.0
    """Standard deviation of the sensor noise, 8-bit steps."""
    radar_range: float = 100.0
    lidar_range: float = 70.0
    lidar_columns: int = 1080
    lidar_dropout: float = 0.02
    """Share of LiDAR rays that come back with nothing."""
    density: float = 1.0
    """Scales how many moving actors are placed."""
    conditions: ConditionShares = ConditionShares()
    """How light and weather of a drive are drawn."""

    def config_hash(self) -> str:
        """16 hex digits that change with any field."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]

    def image_size(self, width: int | None = None) -> ImageSize:
        """The 16:9 image of this width, default ``image_width``."""
        width = self.image_width if width is None else width
        return ImageSize(width, round(width * 9 / 16))


def camera_intrinsics(mount: CameraMount, size: ImageSize) -> FloatArray:
    """K, (3, 3), of an image of ``size``; pixel centres are at integers, as in OpenCV."""
    sx, sy = size.width / 1600, size.height / 900
    cx, cy = mount.principal
    return np.array(
        [
            [mount.focal * sx, 0.0, (cx + 0.5) * sx - 0.5],
            [0.0, mount.focal * sy, (cy + 0.5) * sy - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


def camera_mounting(mount: CameraMount) -> FloatArray:
    """``T_base_from_cam``: optical axes (x right, y down, z forward)."""
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return transform(yaw_rotation(np.deg2rad(mount.yaw_deg)) @ optical, mount.translation)


def radar_mounting(mount: RadarMount) -> FloatArray:
    """``T_base_from_radar``: x along the boresight, y left, z up."""
    return transform(yaw_rotation(np.deg2rad(mount.yaw_deg)), mount.translation)


def lidar_mounting(config: SynthConfig) -> FloatArray:
    """``T_base_from_lidar``: x right, y forward, z up; also ``T_base_from_bev``."""
    return transform(np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), config.lidar_translation)
