"""Render a drive as one camera sees it: lit boxes over a painted ground, nearer things over farther ones."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import CameraMount, ImageSize, camera_intrinsics, camera_mounting
from crkd_core.data.synthscenes.ground import BASE_COLOUR
from crkd_core.data.synthscenes.projection import NEAR, clipped, painting_levels, part_levels
from crkd_core.data.synthscenes.world import Drive, Light, States
from crkd_core.types import FloatArray

_SHIFT = 4  # sub-pixel bits of cv2's polygon corners
_FAR = 110.0  # m
_GUARD = 3.0  # polygons are cut to this many times the larger half field of view, so that coordinates stay small
_NOISE_SHIFTS = 256
_LEAST_AREA = 0.6  # polygons whose bounding box is smaller than this many drawn pixels are left out
_MARK_PIXELS = 9.0  # bodies that look smaller than this keep only their faces


def render(drive: Drive, mount: CameraMount, stamp_ns: int, size: ImageSize) -> NDArray[np.uint8]:
    """The image of one camera at a stamp, RGB uint8 (height, width, 3), at any resolution.

    It is drawn ``config.supersampling`` times larger per axis and area-averaged, then sensor noise is added.
    """
    factor = drive.config.supersampling
    large = ImageSize(size.width * factor, size.height * factor)
    K = camera_intrinsics(mount, large)
    T = drive.ego_pose(stamp_ns) @ camera_mounting(mount)
    view = _View(T, K, large)
    canvas = _background(drive, mount, view).copy()
    states = drive.states(stamp_ns)
    chosen = _visible_bodies(drive, states, view)
    layers = [_ground_polygons(drive, view)]
    if len(chosen):
        layers += [_shadow_polygons(drive, states, chosen, view), _body_polygons(drive, states, chosen, view)]
    polygons, colours = (np.concatenate(arrays) for arrays in zip(*layers, strict=True))
    _paint(canvas, polygons, colours, view)
    image = canvas if factor == 1 else cv2.resize(canvas, (size.width, size.height), interpolation=cv2.INTER_AREA)
    return _with_noise(np.asarray(image, dtype=np.uint8), drive, mount, stamp_ns)


class _View:
    """A level camera: pose, intrinsics and size of the image that is drawn."""

    def __init__(self, T_world_from_cam: FloatArray, K: FloatArray, size: ImageSize) -> None:
        self.R_cam_from_world = T_world_from_cam[:3, :3].T
        self.eye = T_world_from_cam[:3, 3]
        self.forward = T_world_from_cam[:2, 2]
        self.K = K
        self.size = size
        cx, cy = K[0, 2], K[1, 2]
        self.tan_x = max(cx, size.width - cx) / K[0, 0]
        self.side = _GUARD * max(self.tan_x, max(cy, size.height - cy) / K[1, 1])

    def to_camera(self, points: FloatArray) -> FloatArray:
        """World points (..., 3) in camera coordinates."""
        return np.asarray((points - self.eye) @ self.R_cam_from_world.T)


def _background(drive: Drive, mount: CameraMount, view: _View) -> NDArray[np.uint8]:
    """Sky and bare ground; the same for all images of one camera, because the vehicle stays level."""
    key = ("background", mount.name, view.size)
    if key not in drive.scratch:
        light, (width, height) = drive.light, view.size
        slope = (np.arange(height) - view.K[1, 2]) / view.K[1, 1]
        up = np.clip(-slope / 0.5, 0, 1)[:, None]
        sky = light.sky_low * (1 - up) + light.sky_top * up
        distance = view.eye[2] / np.maximum(slope, 1e-3)
        ground = _hazy(light, _lit(light, BASE_COLOUR[None], np.array([[0.0, 0.0, 1.0]])), distance)
        rows = np.clip(np.where(slope[:, None] > 0, ground, sky), 0, 255).astype(np.uint8)
        drive.scratch[key] = np.repeat(rows[:, None], width, axis=1)
    canvas = drive.scratch[key]
    assert isinstance(canvas, np.ndarray)
    return canvas


def _lit(light: Light, colours: FloatArray, normals: FloatArray) -> FloatArray:
    """Colours (N, 3) under sky and sun; faces that look up get more of the sky."""
    sky = light.ambient * (0.85 + 0.15 * normals[:, 2])
    sun = light.diffuse * np.maximum(normals @ light.sun, 0)
    return np.asarray(colours * (sky + sun)[:, None])


def _hazy(light: Light, colours: FloatArray, distance: FloatArray) -> FloatArray:
    clear = np.exp(-light.haze * distance)[:, None]
    return np.asarray(colours * clear + light.sky_low * (1 - clear))


def _ground_polygons(drive: Drive, view: _View) -> tuple[FloatArray, FloatArray]:
    ground = drive.ground
    middle = ground.middle - view.eye[:2]
    distance = np.hypot(middle[:, 0], middle[:, 1])
    ahead, across = middle @ view.forward, np.abs(middle[:, 0] * view.forward[1] - middle[:, 1] * view.forward[0])
    slack = ground.radius * np.hypot(1, view.tan_x)
    pick = (distance < ground.reach) & (ahead > -ground.radius) & (across < view.tan_x * ahead + slack)
    corners = ground.corners[pick]
    points = np.concatenate([corners, np.zeros((*corners.shape[:2], 1))], axis=2)
    up = np.array([[0.0, 0.0, 1.0]])
    colours = _hazy(drive.light, _lit(drive.light, ground.colours[pick], up), distance[pick])
    return view.to_camera(points), colours


def _visible_bodies(drive: Drive, states: States, view: _View) -> NDArray[np.int64]:
    relative = states.xy - view.eye[:2]
    radius = 0.5 * np.hypot(drive.sizes[:, 0], drive.sizes[:, 1])
    depth = relative @ view.forward
    across = np.abs(relative[:, 0] * view.forward[1] - relative[:, 1] * view.forward[0])
    # A disc touches the field of view: its middle is within radius of the wedge |across| <= tan * depth.
    slack = radius * np.hypot(1, view.tan_x)
    inside = (depth > NEAR - radius) & (across < view.tan_x * depth + slack) & (np.hypot(depth, across) - radius < _FAR)
    return np.flatnonzero(inside)


def _shadow_polygons(
    drive: Drive, states: States, chosen: NDArray[np.int64], view: _View
) -> tuple[FloatArray, FloatArray]:
    """A dark patch under each body, drawn out a little away from the sun: what ties it to the ground."""
    sizes, yaw = drive.sizes[chosen], states.yaw[chosen]
    signs = np.array([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
    local = signs[None] * sizes[:, None, :2] * 1.04
    c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    xy = np.stack([local[..., 0] * c - local[..., 1] * s, local[..., 0] * s + local[..., 1] * c], axis=-1)
    away = -drive.light.sun[:2] * np.minimum(0.12 * sizes[:, 2:], 0.35)
    xy = xy + (states.xy[chosen] + away)[:, None]
    points = np.concatenate([xy, np.zeros((*xy.shape[:2], 1))], axis=2)
    distance = np.linalg.norm(states.xy[chosen] - view.eye[:2], axis=1)
    dark = np.broadcast_to(0.45 * drive.light.ambient * BASE_COLOUR, (len(chosen), 3))
    return view.to_camera(points), _hazy(drive.light, dark, distance)


def _body_polygons(
    drive: Drive, states: States, chosen: NDArray[np.int64], view: _View
) -> tuple[FloatArray, FloatArray]:
    """Faces and marks that look at the camera, in painting order."""
    shapes, light = drive.shapes, drive.light
    place = np.full(len(drive.sizes), -1)
    place[chosen] = np.arange(len(chosen))
    relative, yaw = states.xy[chosen] - view.eye[:2], states.yaw[chosen]
    c, s = np.cos(yaw), np.sin(yaw)
    eye = np.stack(
        [
            -(relative[:, 0] * c + relative[:, 1] * s),
            relative[:, 0] * s - relative[:, 1] * c,
            np.full(len(c), view.eye[2]),
        ],
        axis=1,
    )
    distance = np.hypot(relative[:, 0], relative[:, 1])
    pixels = view.K[0, 0] * drive.sizes[chosen, 2] / np.maximum(distance, 1.0)
    body = place[shapes.body]
    quads = np.flatnonzero((body >= 0) & (~shapes.mark | (pixels[body] > _MARK_PIXELS * drive.config.supersampling)))
    body = body[quads]
    corners, normals = shapes.corners[quads], shapes.normals[quads]
    facing = ((eye[body] - corners[:, 0]) * normals).sum(axis=1) > 1e-4
    quads, body, corners, normals = quads[facing], body[facing], corners[facing], normals[facing]

    level = painting_levels(relative, yaw, drive.sizes[chosen, :2] / 2)
    parts = part_levels(shapes.part_low[chosen], shapes.part_high[chosen], eye)
    rank = np.empty(len(chosen), dtype=np.int64)
    rank[np.lexsort((-distance, level))] = np.arange(len(chosen))
    part = shapes.part[quads]
    order = np.lexsort((quads, part, parts[body, part], rank[body]))

    body, corners, normals = body[order], corners[order], normals[order]
    cb, sb = c[body], s[body]
    x = corners[..., 0] * cb[:, None] - corners[..., 1] * sb[:, None] + states.xy[chosen][body, :1]
    y = corners[..., 0] * sb[:, None] + corners[..., 1] * cb[:, None] + states.xy[chosen][body, 1:]
    normals = np.stack(
        [normals[:, 0] * cb - normals[:, 1] * sb, normals[:, 0] * sb + normals[:, 1] * cb, normals[:, 2]], 1
    )
    colours = _hazy(light, _lit(light, shapes.colours[quads[order]], normals), distance[body])
    return view.to_camera(np.stack([x, y, corners[..., 2]], axis=-1)), colours


def _paint(canvas: NDArray[np.uint8], polygons: FloatArray, colours: FloatArray, view: _View) -> None:
    """Fill polygons (M, 4, 3) in camera coordinates, in order."""
    K, side = view.K, view.side
    x, y, z = polygons[..., 0], polygons[..., 1], polygons[..., 2]
    nearest = _least(z)
    cut = (nearest < NEAR) | (_greatest(np.maximum(np.abs(x), np.abs(y)) - side * z) > 0)
    safe = np.where(cut[:, None], 1.0, z)
    u, v = K[0, 0] * x / safe + K[0, 2], K[1, 1] * y / safe + K[1, 2]
    left, right, top, bottom = _least(u), _greatest(u), _least(v), _greatest(v)
    outside = (right < -1) | (left > view.size.width) | (bottom < -1) | (top > view.size.height)
    hidden = ~cut & (outside | ((right - left) * (bottom - top) < _LEAST_AREA)) | (_greatest(z) < NEAR)
    corners = np.stack([u, v], axis=-1)
    scale = 1 << _SHIFT
    corners[cut] = 0
    keep = np.flatnonzero(~hidden)
    points = np.rint(corners[keep] * scale).astype(np.int32)
    tones = np.clip(colours[keep], 0, 255).tolist()
    special = cut[keep].tolist()
    for i in range(len(keep)):
        outline = points[i]
        if special[i]:
            rest = clipped(polygons[keep[i]], side)
            if len(rest) < 3:
                continue
            uv = rest[:, :2] / rest[:, 2:] * (K[0, 0], K[1, 1]) + (K[0, 2], K[1, 2])
            outline = np.rint(uv * scale).astype(np.int32)
        cv2.fillConvexPoly(canvas, outline, tones[i], cv2.LINE_8, _SHIFT)


def _least(a: FloatArray) -> FloatArray:
    """Minimum over the four columns; much faster than ``a.min(axis=1)`` on so short an axis."""
    return np.asarray(np.minimum(np.minimum(a[:, 0], a[:, 1]), np.minimum(a[:, 2], a[:, 3])))


def _greatest(a: FloatArray) -> FloatArray:
    return np.asarray(np.maximum(np.maximum(a[:, 0], a[:, 1]), np.maximum(a[:, 2], a[:, 3])))


def _with_noise(image: NDArray[np.uint8], drive: Drive, mount: CameraMount, stamp_ns: int) -> NDArray[np.uint8]:
    """Sensor noise as it would be left in an image of the configured width after resizing."""
    height, width = image.shape[:2]
    sigma = drive.config.image_noise * width / drive.config.image_width
    if sigma <= 0:
        return image
    index = [c.name for c in drive.config.cameras].index(mount.name)
    row, column = np.random.default_rng([drive.seed, index, stamp_ns // 1000]).integers(0, _NOISE_SHIFTS, 2)
    noise = _noise_field(sigma, height + _NOISE_SHIFTS, width + _NOISE_SHIFTS)
    return np.asarray(cv2.add(image, noise[row : row + height, column : column + width], dtype=cv2.CV_8U), np.uint8)


@lru_cache(maxsize=4)
def _noise_field(sigma: float, height: int, width: int) -> NDArray[np.int16]:
    """A fixed field of noise, of which each image takes a random part: drawing it afresh would take longer."""
    rng = np.random.default_rng(5)
    grey, colour = rng.normal(0, sigma * 0.8, (height, width, 1)), rng.normal(0, sigma * 0.6, (height, width, 3))
    return np.asarray(np.rint(grey + colour), dtype=np.int16)
