"""The ground as a camera sees it: markings, shadows, pools of lamp light, reflections of a wet road."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.bodies import Scene, hazy
from crkd_core.data.synthscenes.config import ImageSize
from crkd_core.data.synthscenes.exposure import Exposure
from crkd_core.data.synthscenes.ground import BASE_COLOUR
from crkd_core.data.synthscenes.lamps import Lamps
from crkd_core.data.synthscenes.painting import View, fill_rows, paint, tones
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import FloatArray

_CELL = 32  # drawn pixels per cell of the light map
_FINEST = 64.0  # steps of the light map between black and an unchanged colour
_WET = 0.7  # a wet surface is half as bright: this factor in square-root values
_ROUGH = 0.6  # of Fresnel's reflection is left by rough asphalt, in square-root values
_LONGEST_SHADOW = 6.0  # m; the ends of longer ones are left out
_CONTACT = 0.25  # of the light is left below a body


def light_map(drive: Drive, lamps: Lamps | None, view: View) -> FloatArray | None:
    """(h, w, 3) illuminance of the ground in cells of the image below the horizon, lx; None where it is even."""
    if lamps is None:
        return None
    below = view.size.height - view.horizon
    down, across = (max(1, round(extent / _CELL)) for extent in (below, view.size.width))
    rows = view.horizon + (np.arange(down) + 0.5) * below / down
    columns = (np.arange(across) + 0.5) * view.size.width / across
    u, v = np.meshgrid(columns, rows)
    depth = np.minimum(view.eye[2] * view.K[1, 1] / np.maximum(v - view.K[1, 2], 0.5), 200.0)
    x = (u - view.K[0, 2]) / view.K[0, 0] * depth
    right = np.array([view.forward[1], -view.forward[0]])
    places = view.eye[:2] + depth[..., None] * view.forward + x[..., None] * right
    points = np.concatenate([places, np.zeros((*places.shape[:2], 1))], axis=2).reshape(-1, 3)
    return np.asarray((lamps.on_ground(points) + drive.light.ground).reshape(*u.shape, 3))


def paint_ground(
    canvas: NDArray[np.uint8], drive: Drive, scene: Scene, lit: FloatArray | None, view: View, exposure: Exposure
) -> None:
    """Paint everything flat on a canvas (H, W, 4) of sky, ``lit`` as ``light_map`` gives it."""
    light, wet = drive.light, _WET if drive.conditions.wet else 1.0
    corners, codes, distance = _markings(drive, view)
    shadows, shade, shadow_distance = _shadows(drive, scene, view, even=lit is None)
    below = slice(view.horizon, view.size.height)
    depths = _row_distances(view)
    if lit is None:
        ground = light.ground / np.pi
        bare = np.broadcast_to(np.square(wet * BASE_COLOUR / 255) * ground, (len(depths), 3))
        rows = tones(hazy(light, bare, depths), exposure)
        flat = tones(hazy(light, np.square(wet * codes / 255) * ground, distance), exposure)
        dark = tones(hazy(light, np.square(wet * BASE_COLOUR / 255) * shade / np.pi, shadow_distance), exposure)
    else:
        rows = np.tile(np.append(wet * BASE_COLOUR, 0.0), (len(depths), 1))
        flat = np.column_stack([wet * codes, np.zeros(len(codes))])
        dark = np.tile(np.append(wet * np.sqrt(_CONTACT) * BASE_COLOUR, 0.0), (len(shadows), 1))
    fill_rows(canvas[below], rows)
    paint(canvas, np.concatenate([corners, shadows]), np.concatenate([flat, dark]), view)
    if lit is not None:
        _illuminate(canvas[below], lit, drive, depths, exposure)


def _illuminate(
    ground: NDArray[np.uint8], lit: FloatArray, drive: Drive, depths: FloatArray, exposure: Exposure
) -> None:
    """Multiply the ground's colours by the light that falls on it, in place, and lay the air's own light over it."""
    clear = np.exp(-drive.light.extinction * depths)[:, None]
    steps = _FINEST * np.sqrt(lit / np.pi / exposure.white)
    coarse = np.concatenate([np.minimum(steps, 255.0), np.zeros((*lit.shape[:2], 1))], axis=2).astype(np.float32)
    height, width = ground.shape[:2]
    factor = cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(ground, factor, dst=ground, scale=1 / _FINEST)
    air = tones(drive.light.sky_low * (1 - clear), exposure).astype(np.uint8)
    if air.any():
        cv2.max(ground, np.repeat(air[:, None], width, axis=1), dst=ground)


def reflect(canvas: NDArray[np.uint8], corners: FloatArray, colours: FloatArray, view: View) -> None:
    """Lay the mirror image of sky and bodies over the ground of a canvas (H, W, 4), blurred upwards by rough asphalt.

    Args:
        canvas: sky and ground.
        corners: (M, 4, 3) polygons of all bodies in camera coordinates, in painting order.
        colours: (M, 4) their canvas values.
        view: the camera.
    """
    above = canvas[: view.horizon : 2, ::2][::-1]
    height, width = max(1, (view.size.height - view.horizon) // 2), above.shape[1]
    mirror = np.empty((height, width, 4), dtype=np.uint8)
    shown = min(height, len(above))
    mirror[:shown] = above[:shown]
    mirror[shown:] = above[-1]
    half = view.K * np.array([[0.5], [0.5], [1.0]])
    half[1, 2] -= view.horizon / 2
    flipped = corners.copy()
    flipped[..., 1] = 2 * view.eye[2] - corners[..., 1]
    lamps = np.flatnonzero(colours[:, 3] > 0)
    if len(lamps):  # drawn out by the waves of a wet surface
        z = view.eye[2] - corners[lamps, :, 1]
        middle = z.mean(axis=1, keepdims=True)
        flipped[lamps, :, 1] = view.eye[2] + middle * (1.3 + np.sign(z - middle))
    paint(mirror, flipped, colours, view.of(half, ImageSize(width, height)))
    blurred = cv2.blur(mirror, (3, max(3, height // 12 * 2 + 1)))
    ground = canvas[view.horizon :]
    shine = cv2.resize(blurred, (view.size.width, len(ground)), interpolation=cv2.INTER_LINEAR)
    slope = (np.arange(view.horizon, view.size.height) - view.K[1, 2]) / view.K[1, 1]
    grazing = 1 - slope / np.hypot(1, slope)
    weight = 255 * _ROUGH * np.sqrt(0.02 + 0.98 * grazing**5)
    weights = np.empty_like(ground)
    fill_rows(weights, np.repeat(weight[:, None], 4, axis=1))
    cv2.add(cv2.multiply(ground, 255 - weights, scale=1 / 255), cv2.multiply(shine, weights, scale=1 / 255), dst=ground)
    ground[..., 3] = 0


def _row_distances(view: View) -> FloatArray:
    """(rows below the horizon,) distance of the ground, m."""
    slope = (np.arange(view.horizon, view.size.height) - view.K[1, 2]) / view.K[1, 1]
    return np.asarray(view.eye[2] / np.maximum(slope, 1e-4))


def _markings(drive: Drive, view: View) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Polygons (M, 4, 3) of the ground in camera coordinates, their colours (M, 3) 0..255 and distances (M,)."""
    ground = drive.ground
    middle = ground.middle - view.eye[:2]
    distance = np.hypot(middle[:, 0], middle[:, 1])
    ahead, across = middle @ view.forward, np.abs(middle[:, 0] * view.forward[1] - middle[:, 1] * view.forward[0])
    slack = ground.radius * np.hypot(1, view.tan_x)
    pick = (distance < ground.reach) & (ahead > -ground.radius) & (across < view.tan_x * ahead + slack)
    return view.to_camera(_flat(ground.corners[pick])), ground.colours[pick], distance[pick]


def _shadows(drive: Drive, scene: Scene, view: View, *, even: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Shadows of sun and of sky: polygons (M, 4, 3) in camera coordinates, illuminance (M, 3) lx, distance (M,)."""
    light, n = drive.light, len(scene.chosen)
    c, s = np.cos(scene.yaw)[:, None], np.sin(scene.yaw)[:, None]
    half = 0.52 * scene.sizes[:, :2]

    def placed(x: FloatArray, y: FloatArray, cast: FloatArray | float) -> FloatArray:
        xy = np.stack([x * c - y * s, x * s + y * c], axis=-1) + scene.xy[:, None] + cast
        return view.to_camera(_flat(xy))

    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    contact = placed(signs[:, 0] * half[:, :1], signs[:, 1] * half[:, 1:], 0.0)
    below = np.tile(_CONTACT * light.diffuse, (n, 1))
    sun = np.linalg.norm(light.sun[:2])
    if not even or light.direct.mean() * light.sun[2] < 0.1 * light.diffuse.mean():
        return contact, below, scene.distance
    # The shadow of a box is the hexagon around its footprint and the same cast away from the sun: two quadrilaterals.
    length = np.minimum(scene.sizes[:, 2] * sun / light.sun[2], _LONGEST_SHADOW)
    cast = -light.sun[:2] / sun * length[:, None]
    a = np.where(cast[:, :1] * c + cast[:, 1:] * s > 0, 1, -1) * half[:, :1]
    b = np.where(cast[:, 1:] * c - cast[:, :1] * s > 0, 1, -1) * half[:, 1:]
    far = np.array([0, 0, 1, 1])[None, :, None] * cast[:, None]
    first = placed(np.concatenate([-a, a, a, a], axis=1), np.concatenate([-b, -b, -b, b], axis=1), far)
    second = placed(np.concatenate([-a, -a, -a, a], axis=1), np.concatenate([-b, b, b, b], axis=1), far)
    shaded = np.tile(light.diffuse, (2 * n, 1))
    return (
        np.concatenate([first, second, contact]),
        np.concatenate([shaded, below]),
        np.tile(scene.distance, 3),
    )


def _flat(xy: FloatArray) -> FloatArray:
    """Places (..., 2) on the ground as points (..., 3)."""
    return np.concatenate([xy, np.zeros((*xy.shape[:-1], 1))], axis=-1)
