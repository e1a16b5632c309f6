"""Street lamps, headlights and tail lights: where they are and how much light they throw on what is around.

Light passes through bodies (no lamp casts a shadow); within the first metres that is the only thing left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.templates import Glow
from crkd_core.data.synthscenes.world import Drive, EgoTrack, States
from crkd_core.types import FloatArray

_STREET, _HEAD, _TAIL = 1200.0, 16_000.0, 10.0  # cd: below a lamp of 4500 lm; a low beam's brightest; a pair of tails
_GLARE = 0.025  # of a low beam's brightest goes above its cut-off
_STREET_REACH, _HEAD_REACH, _TAIL_REACH = 45.0, 40.0, 15.0  # m from the camera
_HEAD_HEIGHT, _TAIL_HEIGHT = 0.65, 0.8  # m
LUMINANCE = {Glow.HEAD: 3000.0, Glow.TAIL: 50.0, Glow.WINDOW: 10.0, Glow.STREET: 4000.0}
"""cd/m2 of what glows, as seen from above a low beam; 300 cd, 5 cd and 300 cd over the area drawn for lamps."""
COLOUR = {Glow.HEAD: (1.0, 0.96, 0.88), Glow.TAIL: (1.0, 0.06, 0.05), Glow.WINDOW: (1.0, 0.78, 0.48)}
"""Linear RGB of what glows; street lamps have that of the drive's light."""


@dataclass(frozen=True)
class Lamps:
    """L lamps.

    Attributes:
        places: (L, 3) world, m.
        heading: (L, 2) unit vector along the beam, world; 0 for street lamps.
        low_beam: (L,) a headlight; else a tail light, or a street lamp, which shines down all around.
        intensity: (L, 3) cd, RGB.
    """

    places: FloatArray
    heading: FloatArray
    low_beam: NDArray[np.bool_]
    intensity: FloatArray

    def towards(self, points: FloatArray, spread: FloatArray | float = 0.0) -> tuple[FloatArray, FloatArray]:
        """Vectors (P, L, 3) from points (P, 1 or L, 3) to the lamps, and the share of their intensity / r^3 (P, L).

        Light that falls on something large, ``spread`` (P, 1) to either side, m, is weaker on average than at a point.
        """
        vectors = (self.places - points).astype(np.float32)
        x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        squared = np.maximum(x * x + y * y + z * z + np.square(spread, dtype=np.float32), np.float32(0.25))
        c, s = self.heading.T.astype(np.float32)
        ahead, aside = -(x * c + y * s), x * s - y * c
        far = np.maximum(ahead, 0.3)
        azimuth, elevation = aside / far, -z / far
        across = np.exp(-((azimuth / 0.22) ** 2)) + 0.12 * np.exp(-((azimuth / 0.7) ** 2))
        below = np.exp(np.minimum(elevation, 0.0) / 0.06) / (1 + np.exp(np.clip(elevation / 0.005, -50, 50)))
        beam = np.where(ahead > 0.3, across * (below + _GLARE), 0.0)
        distance = np.sqrt(squared)
        down = np.clip(1.5 * z / distance, 0.0, 1.0)  # street lamps throw little sideways
        even = np.where(self.heading.any(axis=1), np.maximum(ahead / distance, 0.0) ** 3, down)
        share = np.where(self.low_beam, beam, even) / (squared * distance)
        return vectors.astype(np.float64), share.astype(np.float64)

    def on_ground(self, points: FloatArray) -> FloatArray:
        """(P, 3) illuminance of level ground at points (P, 3), lx RGB."""
        vectors, share = self.towards(points[:, None])
        return np.asarray((share * np.maximum(vectors[..., 2], 0.0)) @ self.intensity)

    def on_bodies(self, xy: FloatArray, yaw: FloatArray, sizes: FloatArray, height: float) -> FloatArray:
        """(N, 6, 3) illuminance of faces towards +x, -x, +y, -y, +z, -z of bodies, lx RGB.

        It is taken half way from the middle of a body to where it is nearest to each lamp.

        Args:
            xy: (N, 2) middles, world, m.
            yaw: (N,), rad.
            sizes: (N, 3), m.
            height: above ground, m; of lower bodies their upper half counts.
        """
        c, s = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        offset, half = self.places[None, :, :2] - xy[:, None], sizes[:, None] / 4
        x = np.clip(offset[..., 0] * c + offset[..., 1] * s, -half[..., 0], half[..., 0])
        y = np.clip(offset[..., 1] * c - offset[..., 0] * s, -half[..., 1], half[..., 1])
        z = np.broadcast_to(np.minimum(3.0 * half[..., 2], height), x.shape)
        points = np.stack([xy[:, :1] + x * c - y * s, xy[:, 1:] + x * s + y * c, z], axis=2)
        vectors, share = self.towards(points, sizes[:, :1] / 4)
        x = vectors[..., 0] * c + vectors[..., 1] * s
        y = vectors[..., 1] * c - vectors[..., 0] * s
        axes = (x, -x, y, -y, vectors[..., 2], -vectors[..., 2])
        return np.stack([(share * np.maximum(side, 0.0)) @ self.intensity for side in axes], axis=1)


def lamps_around(drive: Drive, states: States, track: EgoTrack, eye: FloatArray) -> Lamps:
    """All lamps that light what a camera at ``eye`` (3,) sees; ``track`` holds the vehicle at that one time."""
    light, sizes = drive.light, drive.sizes
    distance = np.hypot(*(states.xy - eye[:2]).T)
    along = np.stack([np.cos(states.yaw), np.sin(states.yaw)], axis=1)
    lit = drive.lights_on & (distance < _HEAD_REACH)
    dark = drive.lights_on & (distance < _TAIL_REACH)
    poles = drive.poles & (distance < _STREET_REACH) & bool(light.lamp.any())
    pose, own = track.pose(0), drive.config.vehicle
    forward = pose[:2, 0]
    nose = pose[:2, 3] + (own.middle + own.length / 2) * forward
    flat = np.concatenate(
        [
            nose[None],
            states.xy[lit] + along[lit] * sizes[lit, :1] / 2,
            states.xy[dark] - along[dark] * sizes[dark, :1] / 2,
            states.xy[poles],
        ]
    )
    counts = 1 + int(lit.sum()), int(dark.sum()), int(poles.sum())
    height = np.concatenate(
        [np.full(counts[0], _HEAD_HEIGHT), np.full(counts[1], _TAIL_HEIGHT), 0.96 * sizes[poles, 2]]
    )
    colours = (_HEAD * np.array(COLOUR[Glow.HEAD]), _TAIL * np.array(COLOUR[Glow.TAIL]), _STREET * light.lamp)
    places = np.concatenate([flat, height[:, None]], axis=1)
    return Lamps(
        places=places,
        heading=np.concatenate([forward[None], along[lit], -along[dark], np.zeros((counts[2], 2))]),
        low_beam=np.arange(len(flat)) < counts[0],
        intensity=np.repeat(np.array(colours), counts, axis=0),
    )
