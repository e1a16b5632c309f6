"""Frames of noise from a full rig, for ``benchmark_latency.py``: six cameras of 1600 x 900 and five radars."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.encode import CAMERA_ORDER
from crkd_core.data.radar import RADAR_ORDER
from crkd_core.geometry.transforms import transform
from crkd_core.runtime.pipeline import pinned_image
from crkd_core.types import RADAR_DTYPE, CameraImage, RadarSweep, SensorFrame

FRAMES = 4
"""Different ones, so that none of them stays in a cache."""

_FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # optical axes of a camera that looks along x
_YAWS = dict(zip(CAMERA_ORDER, np.deg2rad([0, -55, 55, 180, 110, -110]), strict=True))


def noise(seed: int, *, pinned: bool, moving: bool = False, encoded: bool = False) -> list[SensorFrame]:
    """Noise that six cameras and five radars have seen.

    Args:
        seed: of the noise.
        pinned: images in page-locked memory.
        moving: the vehicle is elsewhere for every image.
        encoded: images as JPEG, smooth enough to be of a photograph's size.
    """
    made = []
    for i in range(FRAMES):
        rng = np.random.default_rng([seed, i])
        cameras = {}
        for name, yaw in _YAWS.items():
            image = pinned_image(900, 1600) if pinned else np.empty((900, 1600, 3), np.uint8)
            image[:] = rng.integers(0, 256, image.shape, dtype=np.uint8)
            stored: NDArray[np.uint8] | bytes = jpeg(image) if encoded else image
            T_base_from_cam = transform(about_z(yaw) @ _FORWARD, [1.5 * np.cos(yaw), 0.5 * np.sin(yaw), 1.5])
            moved = transform(np.eye(3), [0.3 * rng.random() if moving else 0.0, 0, 0])
            intrinsics = np.array([[1266.0, 0, 816], [0, 1266, 491], [0, 0, 1]])
            cameras[name] = CameraImage(stored, intrinsics, T_base_from_cam, moved, 0)
        radars = {}
        for name, yaw in zip(RADAR_ORDER, np.deg2rad([0, 90, -90, 160, -160]), strict=True):
            T_base_from_radar = transform(about_z(yaw), [3.0, 0, 0.5])
            radars[name] = [
                RadarSweep(returns(rng), T_base_from_radar, np.eye(4), -age * 75_000_000) for age in range(6)
            ]
        T_base_from_bev = transform([np.sqrt(0.5), 0, 0, -np.sqrt(0.5)], [1.0, 0, 1.8])
        made.append(SensorFrame(cameras, radars, 0, np.eye(4), T_base_from_bev))
    return made


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """A smooth version of an image, as a JPEG of a few hundred kB."""
    return cv2.imencode(".jpg", cv2.GaussianBlur(image, (15, 15), 3), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def about_z(yaw: float) -> np.ndarray[Any, Any]:
    """(3, 3) rotation."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def returns(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """84 radar returns: 2,520 of five radars with six sweeps."""
    points = np.zeros(84, RADAR_DTYPE)
    points["x"], points["y"] = rng.uniform(2, 60, 84), rng.uniform(-30, 30, 84)
    points["rcs"], points["vx_comp"] = rng.normal(5, 5, 84), rng.normal(0, 3, 84)
    points["ambig_state"], points["dyn_prop"] = 3, rng.integers(0, 7, 84)
    return points
