"""SynthScenes as a training set: key frames of many drives, simulated once and kept in memory with JPEG images."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from crkd_core.data.parallel import in_order
from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.data.synthscenes.frames import frame_at
from crkd_core.data.synthscenes.lidar import lidar_sweep
from crkd_core.data.synthscenes.world import Drive, make_drive
from crkd_core.types import AnnotatedFrame, CameraImage, LidarSweep

FRAME_SPACING_S = 1.5
JPEG_QUALITY = 90


class FrameKey(NamedTuple):
    """One key frame of a simulated drive.

    Attributes:
        seed: of the drive.
        position: 0 for its first key frame.
        of: number of key frames taken from the drive.
    """

    seed: int
    position: int
    of: int


def simulated_keys(seeds: Iterable[int], *, frames_per_drive: int) -> list[FrameKey]:
    """Key frames, ``FRAME_SPACING_S`` apart, of the drives of these seeds."""
    return [FrameKey(seed, position, frames_per_drive) for seed in seeds for position in range(frames_per_drive)]


def drive_name(key: FrameKey) -> str:
    """What messages call the drive of a key frame."""
    return f"drive {key.seed}"


def simulated_frame(
    key: FrameKey, *, image_width: int, radar_sweeps: int, lidar_sweeps: range = range(0), cameras: bool = True
) -> AnnotatedFrame:
    """Simulate one key frame; its images are JPEG-encoded, as a camera driver delivers them.

    The annotation does not depend on which sensors are asked for.

    Args:
        key: which one.
        image_width: pixels of the simulated images.
        radar_sweeps: scans per radar; 0: no radar.
        lidar_sweeps: which revolutions of the LiDAR, see ``frames.annotated_frame``; the others are not simulated.
        cameras: whether to render images, most of the work.
    """
    drive = _drive(key.seed, key.of)
    stamp = drive.start_ns + round((1.0 + FRAME_SPACING_S * key.position) * 1e9)
    # The newest radar scan counts among the returns inside a box.
    sample = frame_at(
        drive,
        stamp,
        image_width=image_width,
        sweeps=max(1, radar_sweeps),
        with_cameras=cameras,
        with_lidar=bool(lidar_sweeps),
    )
    kept = replace(
        sample.frame,
        cameras={name: _encoded(camera) for name, camera in sample.frame.cameras.items()},
        radars=sample.frame.radars if radar_sweeps else {},
        lidar=sample.frame.lidar + _earlier(drive, stamp, lidar_sweeps[1:]),
    )
    return replace(sample, frame=kept)


def prerendered(
    keys: Sequence[FrameKey],
    *,
    image_width: int,
    radar_sweeps: int,
    lidar_sweeps: range = range(0),
    cameras: bool = True,
    jobs: int,
    progress: bool = False,
) -> list[AnnotatedFrame]:
    """Simulate key frames on ``jobs`` processes and keep them.

    A frame takes about 0.2 MB with images of 448 pixels, and 0.6 MB more for each LiDAR sweep. For the other arguments
    see ``simulated_frame``.

    Raises:
        DataError: a process has died.
    """
    simulate = functools.partial(
        simulated_frame,
        image_width=image_width,
        radar_sweeps=radar_sweeps,
        lidar_sweeps=lidar_sweeps,
        cameras=cameras,
    )
    done = in_order(simulate, keys, jobs=jobs, name=drive_name, part=8)
    return list(tqdm(done, total=len(keys), desc="simulate", disable=not progress))


@functools.lru_cache(maxsize=2)
def _drive(seed: int, frames: int) -> Drive:
    return make_drive(seed, SynthConfig(), duration_s=2.0 + FRAME_SPACING_S * frames)


def _earlier(drive: Drive, stamp: int, sweeps: range) -> tuple[LidarSweep, ...]:
    """Revolutions of the LiDAR, counted back from the one that ends at ``stamp``."""
    period = 1_000_000_000 // drive.config.lidar_hz
    return tuple(lidar_sweep(drive, stamp - k * period) for k in sweeps)


def _encoded(camera: CameraImage) -> CameraImage:
    if isinstance(camera.image, bytes):
        return camera
    bgr = cv2.cvtColor(camera.image, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    return replace(camera, image=np.asarray(data).tobytes())
