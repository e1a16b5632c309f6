"""What a simulated vehicle carries and how a drive is simulated: frozen, versioned, hashable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import numpy as np

from crkd_core.cli import UserError
from crkd_core.data.synthscenes.conditions import ConditionShares
from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.types import FloatArray

SIMULATOR_VERSION = 3
"""Raised whenever the same seed and configuration would give other data; part of ``SynthConfig.config_hash``."""
WORLD_SEED = 2
"""Drawn from together with a drive's seed. Never changed: drive 7 stays the same road, traffic and weather when what
sensors make of it, or how it is annotated, changes and ``SIMULATOR_VERSION`` with it."""
TRAINING_SEEDS = range(9000)
"""Seeds of drives to train on."""
EVALUATION_SEEDS = range(9000, 1_000_000)
"""Seeds of drives to evaluate on; never trained on (``check_training_seeds``)."""

IMAGE_WIDTHS = range(64, 4097)
"""Pixels of simulated images."""


def check_training_seeds(seeds: Iterable[int]) -> None:
    """Keep drives for evaluation out of training.

    Raises:
        UserError: one of them is not in ``TRAINING_SEEDS``.
    """
    for seed in seeds:
        if seed not in TRAINING_SEEDS:
            raise UserError(
                f"seed {seed}: expected one to train on, 0 to {TRAINING_SEEDS[-1]}; "
                f"from {EVALUATION_SEEDS[0]} on they are kept for evaluation"
            )


def check_image_width(width: int) -> None:
    """Keep simulated images to sizes that can be drawn: several of them, supersampled, are in memory at once.

    Raises:
        UserError: it is not in ``IMAGE_WIDTHS``.
    """
    if width not in IMAGE_WIDTHS:
        raise UserError(f"--image-width: expected {IMAGE_WIDTHS[0]} to {IMAGE_WIDTHS[-1]} pixels, got {width}")


class ImageSize(NamedTuple):
    """Width and height, pixels."""

    width: int
    height: int


class CameraMount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pinhole camera, level, in the vehicle frame."""

    name: str
    translation: tuple[float, float, float]
    yaw_deg: float
    focal: float
    """Focal length in pixels of the full image, ``sensor``; images of any other size scale it."""
    principal: tuple[float, float]
    """Column and row of the optical axis in the full image."""
    lead_ms: float = 0.0
    """The camera fires this long before the LiDAR revolution ends (nuScenes: when the beam passes its middle)."""
    sensor: ImageSize = ImageSize(1600, 900)
    """Pixels of the full image; all cameras of a rig have the same aspect ratio."""


class RadarMount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One radar, level, in the vehicle frame; ``phase_ms`` shifts the grid of its scans."""

    name: str
    translation: tuple[float, float, float]
    yaw_deg: float
    phase_ms: float = 0.0


class Vehicle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The simulated vehicle seen from above, m; ``base_link`` is on the ground below the middle of the rear axle."""

    length: float = 4.4
    width: float = 2.0
    middle: float = 1.4
    """How far its middle is ahead of base_link."""


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
    vehicle: Vehicle = Vehicle()
    lidar_translation: tuple[float, float, float] = (0.94, 0.0, 1.84)
    """LIDAR_TOP, x to the right and y forward; also the network's BEV frame."""
    image_width: int = 800
    """Width of written images; the aspect ratio is that of the cameras' sensor."""
    camera_hz: int = 12
    radar_hz: int = 13
    lidar_hz: int = 20
    keyframe_hz: int = 2
    annotation_range: float = 60.0
    """Actors whose centre is farther from the vehicle are not annotated, m."""
    supersampling: int = 2
    """Images are drawn this many times larger per axis and area-averaged."""
    image_noise: float = 1.0
    """Scale of the cameras' noise; 1: photon noise of a 3 um pixel behind f/1.8, see ``exposure``."""
    radar_range: float = 100.0
    radar_blockage: float = 0.02
    """Share of radars that dirt, ice or snow covers for a drive, half of them only in part of their view. Rare; no
    published statistics."""
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
        """The image of this width, default ``image_width``, in the cameras' aspect ratio."""
        width = self.image_width if width is None else width
        sensor = self.cameras[0].sensor if self.cameras else ImageSize(1600, 900)
        return ImageSize(width, round(width * sensor.height / sensor.width))


def camera_intrinsics(mount: CameraMount, size: ImageSize) -> FloatArray:
    """K, (3, 3), of an image of ``size``; pixel centres are at integers, as in OpenCV."""
    sx, sy = size.width / mount.sensor.width, size.height / mount.sensor.height
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
