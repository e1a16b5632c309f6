"""Render a drive as one camera sees it: lit boxes over a painted ground, then what air, lens and sensor do."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes import bodies, surface
from crkd_core.data.synthscenes.config import CameraMount, ImageSize, camera_intrinsics, camera_mounting
from crkd_core.data.synthscenes.exposure import Exposure, expose, with_noise
from crkd_core.data.synthscenes.lamps import lamps_around
from crkd_core.data.synthscenes.optics import BRIGHT, blurred, rain_before_lens, rain_on_lens, with_glare
from crkd_core.data.synthscenes.painting import View, fill_rows, paint, tones
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import FloatArray

_SKY = 0.35  # weight of the sky where the exposure is measured
_GREY = 0.13  # albedo of what the exposure is measured on
_SUN_RADIUS = np.deg2rad(0.27)


def render(drive: Drive, mount: CameraMount, stamp_ns: int, size: ImageSize) -> NDArray[np.uint8]:
    """The image of one camera at a stamp, RGB uint8 (height, width, 3), at any resolution.

    It is drawn ``config.supersampling`` times larger per axis and area-averaged; motion blur, veiling glare, rain on
    the lens and photon noise follow. The same drive, camera, stamp and size always give the same image.
    """
    factor = drive.config.supersampling
    large = ImageSize(size.width * factor, size.height * factor)
    track = drive.ego_track([stamp_ns])
    T = track.pose(0) @ camera_mounting(mount)
    view = View(T[:3, :3].T, T[:3, 3], camera_intrinsics(mount, large), large)
    states = drive.states(stamp_ns)
    scene = bodies.visible(drive, states, view)
    lamps = lamps_around(drive, states, track, view.eye) if drive.light.lamps else None
    lit = surface.light_map(drive, lamps, view)
    exposure = expose(_metered(drive, lit))

    canvas, sun = _sky(drive, view, exposure)
    surface.paint_ground(canvas, drive, scene, lit, view, exposure)
    layer = bodies.layer(drive, scene, lamps, view)
    colours = tones(layer.luminance, exposure)
    if drive.conditions.wet:
        surface.reflect(canvas, layer.corners, colours, view)
    paint(canvas, layer.corners, colours, view)

    index = [c.name for c in drive.config.cameras].index(mount.name)
    rng = np.random.default_rng([drive.seed, index, stamp_ns // 1000])
    image = blurred(canvas, scene, track, view, exposure, size)
    if sun or colours[:, 3].max(initial=0.0) >= BRIGHT:
        image = with_glare(image, canvas, view)
    if drive.conditions.wet:
        rain_before_lens(image, drive, track, view, exposure, rng)
        rain_on_lens(image, drive, stamp_ns, index)
    scale = drive.config.image_noise * min(1.0, size.width / mount.sensor.width)
    return with_noise(image, exposure.noise(scale), rng)


def _metered(drive: Drive, lit: FloatArray | None) -> float:
    """Mean luminance of what the camera sees, cd/m2."""
    ground = drive.light.ground if lit is None else lit.reshape(-1, 3).mean(axis=0)
    sky = 0.5 * (drive.light.sky_top + drive.light.sky_low)
    return float(((1 - _SKY) * _GREY / np.pi * ground + _SKY * sky).mean())


def _sky(drive: Drive, view: View, exposure: Exposure) -> tuple[NDArray[np.uint8], bool]:
    """A canvas (H, W, 4) of nothing but sky and sun, and whether the sun is on it."""
    light, (width, height) = drive.light, view.size
    slope = (view.K[1, 2] - np.arange(height)) / view.K[1, 1]
    up = np.clip(slope / 0.6, 0, 1)[:, None] ** 0.7
    rows = tones(light.sky_low + (light.sky_top - light.sky_low) * up, exposure)
    canvas = np.empty((height, width, 4), dtype=np.uint8)
    fill_rows(canvas, rows)
    x, y, z = view.R_cam_from_world @ light.sun
    if not light.direct.any() or z < 0.1:
        return canvas, False
    column, row, _ = view.K @ np.array([x / z, y / z, 1.0])
    radius = max(view.K[0, 0] * _SUN_RADIUS, 1.0)
    if not (-radius < column < width + radius and -radius < row < height):
        return canvas, False
    colour = tones(light.disc[None], exposure)[0].tolist()
    cv2.circle(canvas, (round(16 * column), round(16 * row)), round(16 * radius), colour, -1, shift=4)
    return canvas, True
