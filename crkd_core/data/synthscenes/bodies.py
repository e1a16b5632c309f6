"""Actors and scenery as a camera sees them: which are in view, in what order they are painted, how they are lit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.lamps import COLOUR, LUMINANCE, Lamps
from crkd_core.data.synthscenes.light import Light
from crkd_core.data.synthscenes.painting import Layer, View
from crkd_core.data.synthscenes.projection import NEAR, painting_levels, part_levels
from crkd_core.data.synthscenes.templates import Glow
from crkd_core.data.synthscenes.world import Drive, States
from crkd_core.types import FloatArray

_FAR = 110.0  # m
_MARK_PIXELS = 11.0  # bodies that look smaller than this keep only their faces
_BEAM = (0.5, 1.1)  # m; heights in and above the low beams of near vehicles
_BOUNCE = 0.2  # of the ground's light comes up from it
_SPRAY = 0.0012  # optical depth behind a car, 1.9 m wide, per mm/h and (m/s)^2; at most 1


@dataclass(frozen=True)
class Scene:
    """The n bodies in a camera's view.

    Attributes:
        chosen: (n,) their indices.
        xy: (n, 2) world, m.
        relative: (n, 2) the same from the camera.
        yaw: (n,) world, rad.
        velocity: (n, 2) over ground, m/s.
        sizes: (n, 3) m.
        distance: (n,) from the camera, m.
        rank: (n,) position in painting order, far to near.
    """

    chosen: NDArray[np.int64]
    xy: FloatArray
    relative: FloatArray
    yaw: FloatArray
    velocity: FloatArray
    sizes: FloatArray
    distance: FloatArray
    rank: NDArray[np.int64]


def visible(drive: Drive, states: States, view: View) -> Scene:
    """The bodies whose discs touch the field of view."""
    relative = states.xy - view.eye[:2]
    depth = relative @ view.forward
    across = np.abs(relative[:, 0] * view.forward[1] - relative[:, 1] * view.forward[0])
    # A disc touches the field of view: its middle is within radius of the wedge |across| <= tan * depth.
    radius, slack = drive.radii, drive.radii * np.hypot(1, view.tan_x)
    inside = (depth > NEAR - radius) & (across < view.tan_x * depth + slack) & (np.hypot(depth, across) - radius < _FAR)
    chosen = np.flatnonzero(inside)
    relative, yaw, sizes = relative[chosen], states.yaw[chosen], drive.sizes[chosen]
    distance = np.hypot(relative[:, 0], relative[:, 1])
    rank = np.empty(len(chosen), dtype=np.int64)
    order = np.lexsort((-distance, painting_levels(relative, yaw, sizes[:, :2] / 2)))
    rank[order] = np.arange(len(chosen))
    return Scene(chosen, states.xy[chosen], relative, yaw, states.velocity[chosen], sizes, distance, rank)


def hazy(light: Light, luminance: FloatArray, distance: FloatArray) -> FloatArray:
    """Luminances (M, 3) seen through air over distances (M,)."""
    clear = np.exp(-light.extinction * distance)[:, None]
    return np.asarray(luminance * clear + light.sky_low * (1 - clear))


def layer(drive: Drive, scene: Scene, lamps: Lamps | None, view: View) -> Layer:
    """Faces and marks that look at the camera, in painting order."""
    shapes, light = drive.shapes, drive.light
    eye = _eye_in_bodies(scene, view)
    quads, body = _quads(drive, scene, view)
    facing = ((eye[body] - shapes.corners[quads, 0]) * shapes.normals[quads]).sum(axis=1) > 1e-4
    quads, body = quads[facing], body[facing]
    parts = part_levels(shapes.part_low[scene.chosen], shapes.part_high[scene.chosen], eye)
    part = shapes.part[quads]
    order = np.lexsort((quads, part, parts[body, part], scene.rank[body]))
    quads, body = quads[order], body[order]

    corners, normals = _in_world(scene, shapes.corners[quads], shapes.normals[quads], body)
    albedo = np.square(shapes.colours[quads] / 255.0)
    illuminance = _daylight(light, normals)
    if lamps is not None:
        illuminance += _by_lamps(lamps, scene, shapes.corners[quads, :, 2].mean(axis=1), shapes.normals[quads], body)
    luminance = albedo * illuminance / np.pi
    if light.headlights:
        _switch_on(luminance, drive, quads, scene.chosen[body], (eye[body] - shapes.corners[quads, 0]))
    luminance = hazy(light, luminance, scene.distance[body] + _spray(drive, scene)[body])
    return Layer(view.to_camera(corners), luminance)


def _eye_in_bodies(scene: Scene, view: View) -> FloatArray:
    """(n, 3) the camera in the frame of each body."""
    c, s = np.cos(scene.yaw), np.sin(scene.yaw)
    x, y = scene.relative.T
    return np.stack([-(x * c + y * s), x * s - y * c, np.full(len(c), view.eye[2])], axis=1)


def _quads(drive: Drive, scene: Scene, view: View) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Quadrilaterals of the bodies in view that are large enough to matter, and the position of each one's body."""
    shapes = drive.shapes
    place = np.full(len(drive.sizes), -1)
    place[scene.chosen] = np.arange(len(scene.chosen))
    body = place[shapes.body]
    pixels = view.K[0, 0] * scene.sizes[:, 2] / np.maximum(scene.distance, 1.0)
    large = np.append(pixels > _MARK_PIXELS * drive.config.supersampling, False)  # place -1 is not in view
    always = ~shapes.mark | ((shapes.glow > 0) if drive.light.headlights else False)
    quads = np.flatnonzero((body >= 0) & (always | large[body]))
    return quads, body[quads]


def _in_world(
    scene: Scene, corners: FloatArray, normals: FloatArray, body: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray]:
    """Corners (M, 4, 3) and normals (M, 3) of bodies in the world."""
    c, s = np.cos(scene.yaw)[body], np.sin(scene.yaw)[body]
    x = corners[..., 0] * c[:, None] - corners[..., 1] * s[:, None] + scene.xy[body, :1]
    y = corners[..., 0] * s[:, None] + corners[..., 1] * c[:, None] + scene.xy[body, 1:]
    turned = np.stack([normals[:, 0] * c - normals[:, 1] * s, normals[:, 0] * s + normals[:, 1] * c, normals[:, 2]], 1)
    return np.stack([x, y, corners[..., 2]], axis=-1), turned


def _daylight(light: Light, normals: FloatArray) -> FloatArray:
    """(M, 3) illuminance of faces by sun, sky and bright ground, lx."""
    up = 0.5 + 0.5 * normals[:, 2:]
    sun = np.maximum(normals @ light.sun, 0.0)[:, None]
    return np.asarray(light.diffuse * up + _BOUNCE * light.ground * (1 - up) + light.direct * sun)


def _by_lamps(
    lamps: Lamps, scene: Scene, height: FloatArray, normals: FloatArray, body: NDArray[np.int64]
) -> FloatArray:
    """(M, 3) illuminance of faces at heights (M,), lx: between that in and that above the low beams.

    A body's light is known for its six axes; a face takes from them by the squares of its normal in the body's frame.
    """
    low, high = _BEAM
    share = np.clip((height - low) / (high - low), 0.0, 1.0)[:, None]
    side = np.arange(0, 6, 2) + (normals < 0)
    weight = np.square(normals)[..., None]
    below, above = (
        (weight * lamps.on_bodies(scene.xy, scene.yaw, scene.sizes, at)[body[:, None], side]).sum(axis=1)
        for at in _BEAM
    )
    return np.asarray(below + share * (above - below))


def _switch_on(
    luminance: FloatArray, drive: Drive, quads: NDArray[np.int64], owner: NDArray[np.int64], to_eye: FloatArray
) -> None:
    """Give lamps that are on their own luminance, in place."""
    glow, normals = drive.shapes.glow[quads], drive.shapes.normals[quads]
    cosine = (to_eye * normals).sum(axis=1) / np.linalg.norm(to_eye, axis=1)
    for kind in (Glow.HEAD, Glow.TAIL):
        lit = (glow == kind) & drive.lights_on[owner]
        narrow = cosine[lit] ** (6 if kind == Glow.HEAD else 1)
        luminance[lit] = LUMINANCE[kind] * narrow[:, None] * np.array(COLOUR[kind])
    if drive.light.lamps:
        luminance[glow == Glow.WINDOW] = LUMINANCE[Glow.WINDOW] * np.array(COLOUR[Glow.WINDOW])
        if drive.light.lamp.any():
            luminance[glow == Glow.STREET] = LUMINANCE[Glow.STREET] * drive.light.lamp


def _spray(drive: Drive, scene: Scene) -> FloatArray:
    """(n,) metres of air that hide as much as the spray a vehicle throws up behind it on a wet road."""
    if not drive.conditions.wet:
        return np.zeros(len(scene.chosen))
    along = np.stack([np.cos(scene.yaw), np.sin(scene.yaw)], axis=1)
    away = np.maximum((scene.relative * along).sum(axis=1) / np.maximum(scene.distance, 1.0), 0.0) ** 3
    wheels = np.square(scene.sizes[:, 1] / 1.9)
    depth = _SPRAY * drive.conditions.rain * (scene.velocity**2).sum(axis=1) * away * wheels
    return np.asarray(np.minimum(depth, 1.0) / drive.light.extinction)
