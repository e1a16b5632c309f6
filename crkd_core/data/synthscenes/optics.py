"""What lens and shutter add to a drawn image: motion blur, glare of bright lights, rain in the air and on the lens."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.bodies import Scene
from crkd_core.data.synthscenes.config import ImageSize
from crkd_core.data.synthscenes.exposure import Exposure
from crkd_core.data.synthscenes.painting import GLOW_STEPS, View
from crkd_core.data.synthscenes.world import Drive, EgoTrack
from crkd_core.types import FloatArray

Image = NDArray[np.uint8]
"""RGB (H, W, 3)."""

_CELL = 4  # pixels of the image per cell of the glare and flow maps
_GLARE = (
    (0.3, 0.02),
    (1.5, 0.003),
    (6.0, 0.004),
    (20.0, 0.003),
)  # spread in degrees and share of the light that the lens scatters
BRIGHT = 24
"""Fourth channel of a canvas from which on glare is computed: 4 times as bright as white."""
_LEAST_SMEAR = 0.8  # pixels; less is left out
_DROP_REACH = (0.3, 1.4)  # m from the lens at which single raindrops show
_FALL = 7.0  # m/s, of a drop of 2 mm
_DROP = 0.0018  # m, diameter of drops that show
_LENS_EPOCH_NS = 3_000_000_000  # drops stay on the lens so long


def blurred(
    canvas: NDArray[np.uint8], scene: Scene, track: EgoTrack, view: View, exposure: Exposure, size: ImageSize
) -> Image:
    """The canvas (H, W, 4) as an RGB image of ``size``, smeared by what moved while the shutter was open.

    ``track`` holds the vehicle at that one time.
    """
    small = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
    image = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGBA2RGB), dtype=np.uint8)
    fastest = float(np.hypot(*track.velocity[0])) + 1.0
    pixels = view.K[0, 0] * size.width / view.size.width
    # What is 4 m away and crosses at full speed smears most of all that matters.
    if (fastest / 4.0 + abs(float(track.yaw_rate[0]))) * exposure.time * pixels < _LEAST_SMEAR:
        return image
    flow = _flow(scene, track, view, size) * np.float32(exposure.time)
    smear = float(np.percentile(np.abs(flow), 90))
    if smear < _LEAST_SMEAR:
        return image
    flow = np.asarray(cv2.resize(flow, size, interpolation=cv2.INTER_NEAREST), dtype=np.float32)
    np.clip(flow, -0.1 * size.width, 0.1 * size.width, out=flow)
    # Three samples, evenly spaced along the path, or nine from two passes of three.
    for part in (1 / 3,) if smear < 6 else (1 / 3, 1 / 9):
        step = np.float32(part) * flow
        ahead, behind = (_looked_up(image, _pixels(size) + sign * step) for sign in (1, -1))
        both = cv2.addWeighted(ahead, 0.5, behind, 0.5, 0)
        image = np.asarray(cv2.addWeighted(both, 2 / 3, image, 1 / 3, 0), dtype=np.uint8)
    return image


def _looked_up(image: Image, places: NDArray[np.float32]) -> Image:
    """The colours of an image at places (H, W, 2), columns and rows."""
    columns, rows = cv2.split(places)  # a single map of both needs an empty one beside it, which OpenCV 5 reads
    return np.asarray(
        cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8
    )


@lru_cache(maxsize=4)
def _pixels(size: ImageSize) -> NDArray[np.float32]:
    """(H, W, 2) column and row of every pixel."""
    grid = np.meshgrid(np.arange(size.width, dtype=np.float32), np.arange(size.height, dtype=np.float32))
    return np.stack(grid, axis=2)


def _flow(scene: Scene, track: EgoTrack, view: View, size: ImageSize) -> NDArray[np.float32]:
    """(h, w, 2) motion of the image in its cells, pixels per second: the ground's and each body's as a whole."""
    K = view.K * (size.width / view.size.width)
    lever = view.eye[:2] - track.xy[0]
    rate = float(track.yaw_rate[0])
    own = np.append(track.velocity[0] + rate * np.array([-lever[1], lever[0]]), 0.0)
    turn = view.R_cam_from_world @ np.array([0.0, 0.0, rate])
    rows, columns = -(-size.height // _CELL), -(-size.width // _CELL)
    x, y = np.meshgrid(
        ((np.arange(columns) + 0.5) * _CELL - K[0, 2]) / K[0, 0], ((np.arange(rows) + 0.5) * _CELL - K[1, 2]) / K[1, 1]
    )
    depth = np.where(y > 0, view.eye[2] / np.maximum(y, 1e-3), 1e6)
    points = np.stack([x * depth, y * depth, depth], axis=-1)
    flow = _image_motion(points, -(view.R_cam_from_world @ own), turn, K).astype(np.float32)
    heights = scene.sizes[:, 2]
    middles = view.to_camera(np.column_stack([scene.xy, heights / 2]))
    relative = np.column_stack([scene.velocity, np.zeros(len(heights))]) - own
    motion = _image_motion(middles, relative @ view.R_cam_from_world.T, turn, K)
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (0, 1)])
    local = signs * scene.sizes[:, None]
    c, s = np.cos(scene.yaw)[:, None], np.sin(scene.yaw)[:, None]
    corners = np.stack(
        [local[..., 0] * c - local[..., 1] * s, local[..., 0] * s + local[..., 1] * c, local[..., 2]], -1
    )
    corners[..., :2] += scene.xy[:, None]
    corners = view.to_camera(corners)
    corners[..., 2] = np.maximum(corners[..., 2], 0.3)
    pixels = (corners @ K.T)[..., :2] / corners[..., 2:] / _CELL
    outlines = np.clip(np.rint(pixels), -1000, 1000).astype(np.int32)
    for k in np.argsort(scene.rank):
        cv2.fillConvexPoly(flow, cv2.convexHull(outlines[k]), motion[k].tolist())
    return flow


def _image_motion(points: FloatArray, velocity: FloatArray, turn: FloatArray, K: FloatArray) -> FloatArray:
    """(..., 2) pixels per second of points (..., 3) in camera coordinates that move at a velocity (..., 3).

    ``turn`` is the camera's own rate of rotation (3,), rad/s.
    """
    z = np.maximum(points[..., 2], 1.0)
    rate = velocity - np.cross(turn, points)
    u = K[0, 0] * (rate[..., 0] * z - points[..., 0] * rate[..., 2]) / z**2
    v = K[1, 1] * (rate[..., 1] * z - points[..., 1] * rate[..., 2]) / z**2
    return np.stack([u, v], axis=-1)


def with_glare(image: Image, canvas: NDArray[np.uint8], view: View) -> Image:
    """The image with the light that the lens scatters around what is much brighter than white on its canvas."""
    glare = _glare(canvas, view, ImageSize(image.shape[1], image.shape[0]))
    if glare is None:
        return image
    linear = np.asarray(cv2.add(cv2.LUT(image, _SQUARE), glare))
    return np.asarray(cv2.convertScaleAbs(cv2.sqrt(linear), alpha=255.0), dtype=np.uint8)


_SQUARE = np.square(np.arange(256, dtype=np.float32) / 255)


def _glare(canvas: NDArray[np.uint8], view: View, size: ImageSize) -> NDArray[np.float32] | None:
    """(h, w, 3) light that the lens scatters around lamps and sun, in units of white; None without any."""
    bright = np.flatnonzero(cv2.extractChannel(canvas, 3) >= BRIGHT)
    if len(bright) == 0:
        return None
    colour = canvas.reshape(-1, 4)[bright]
    light = np.square(colour[:, :3] / 255.0) * (10.0 ** (colour[:, 3:] / GLOW_STEPS))
    scale = view.size.width // size.width * _CELL
    width, height = -(-view.size.width // scale), -(-view.size.height // scale)
    cell = bright // view.size.width // scale * width + bright % view.size.width // scale
    total = [np.bincount(cell, light[:, k], minlength=width * height) for k in range(3)]
    source = (np.stack(total, axis=1) / scale**2).reshape(height, width, 3).astype(np.float32)
    degree = np.deg2rad(1.0) * view.K[0, 0] / scale  # cells
    veil = np.zeros_like(source)
    for spread, share in _GLARE:
        sigma, coarse = spread * degree, source
        shrink = max(1, int(sigma // 4))
        if shrink > 1:
            less = (-(-width // shrink), -(-height // shrink))
            coarse = np.asarray(cv2.resize(source, less, interpolation=cv2.INTER_AREA), dtype=np.float32)
        spreaded = cv2.GaussianBlur(coarse, (0, 0), sigma / shrink, borderType=cv2.BORDER_CONSTANT)
        veil += share * cv2.resize(spreaded, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.resize(veil, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def rain_before_lens(
    image: Image, drive: Drive, track: EgoTrack, view: View, exposure: Exposure, rng: np.random.Generator
) -> None:
    """Streaks of drops near the lens, in place; each shows the sky, or the lamps' light, spread over its path."""
    height, width = image.shape[:2]
    f = view.K[0, 0] * width / view.size.width
    near, far = _DROP_REACH
    half = np.array([width, height]) / 2 / f
    # Drops larger than 1 mm per m3 by Marshall and Palmer (1948).
    slope = 4.1 * drive.conditions.rain**-0.21
    density = 8000 / slope * np.exp(-slope)
    count = rng.poisson(density * 4 * half[0] * half[1] * (far**3 - near**3) / 3)
    z = (near**3 + (far**3 - near**3) * rng.random(count)) ** (1 / 3)
    x, y = (rng.uniform(-1, 1, (2, count)) * half[:, None]) * z
    motion = view.R_cam_from_world @ np.array([*-track.velocity[0], -_FALL]) * exposure.time
    middle, step = np.stack([x, y, z], axis=1), 0.5 * motion
    ends = np.stack([middle - step, middle + step], axis=1)
    uv = ends[..., :2] / np.maximum(ends[..., 2:], 0.1) * f + np.array([width, height]) / 2
    wide = _DROP * f / z
    length = np.hypot(*(uv[:, 1] - uv[:, 0]).T)
    cover = np.minimum(wide, 1.0) * wide / (wide + length)  # of a pixel and of the time
    streaks = np.zeros((height, width), dtype=np.uint8)
    points = np.rint(np.clip(uv, -width, 2 * width) * 16).astype(np.int32)
    for line, value in zip(points, np.minimum(255 * cover, 255).tolist(), strict=True):
        cv2.line(streaks, line[0], line[1], value, 1, cv2.LINE_AA, 4)
    wet = np.flatnonzero(streaks)
    bright = max(float(drive.light.sky_low.mean()) / exposure.white, 0.15) / 255
    flat = image.reshape(-1, 3)
    linear = _SQUARE[flat[wet]] + bright * streaks.reshape(-1)[wet, None]
    flat[wet] = 255.0 * np.sqrt(np.minimum(linear, 1.0))


@lru_cache(maxsize=16)
def _lens_drops(
    seed: int, camera: int, epoch: int, count: int, size: ImageSize
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pixels (P,), counted along the rows, that drops on the lens cover, and how much of each (P, 1), 0..1."""
    rng = np.random.default_rng([seed, 300 + camera, epoch])
    mask = np.zeros((size.height, size.width), dtype=np.uint8)
    for _ in range(count):
        centre = rng.uniform([0, 0], size)
        radius = size.width * rng.uniform(0.008, 0.035)
        cv2.circle(mask, np.rint(centre).astype(int).tolist(), round(radius), (int(rng.integers(110, 230)),), -1)
    soft = np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.006 * size.width)).reshape(-1)
    covered = np.flatnonzero(soft)
    return covered, np.asarray(soft[covered, None] / 255, dtype=np.float32)


def rain_on_lens(image: Image, drive: Drive, stamp_ns: int, camera: int) -> None:
    """Drops on the lens show the whole scene upside down and out of focus, in place; new ones every three seconds."""
    height, width = image.shape[:2]
    count = round(4 + 0.6 * drive.conditions.rain)
    covered, share = _lens_drops(drive.seed, camera, stamp_ns // _LENS_EPOCH_NS, count, ImageSize(width, height))
    small = cv2.resize(image, (max(width // 16, 2), max(height // 16, 2)), interpolation=cv2.INTER_AREA)
    wide = cv2.resize(cv2.GaussianBlur(small, (0, 0), 2.0)[::-1], (width, height), interpolation=cv2.INTER_LINEAR)
    flat = image.reshape(-1, 3)
    flat[covered] = (1 - share) * flat[covered] + share * np.asarray(wide).reshape(-1, 3)[covered]
