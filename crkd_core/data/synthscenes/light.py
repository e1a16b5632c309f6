"""Daylight, twilight and street lighting in photometric units, from the conditions of a drive.

Colours are linear RGB, balanced so that the sun high in a clear sky is white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.types import FloatArray

_SOLAR = 128_000.0  # lx, above the atmosphere
_DEPTH = np.array([0.15, 0.20, 0.33])  # optical depth of a clear vertical atmosphere: aerosol and Rayleigh, RGB
_DISC = 6.8e-5  # sr, solid angle of the sun
_SKY_GLOW = 0.2  # lx on the ground at night in a town, without street lamps
_LAMPS_ON, _HEADLIGHTS_ON = 60.0, 1500.0  # lx on the ground below which they are switched on
_UNLIT = 0.15  # share of roads without street lighting
_LAMP_COLOURS = np.array([[1.0, 0.56, 0.22], [1.0, 0.76, 0.48], [0.95, 1.0, 1.0]])  # sodium, warm and cool LED


@dataclass(frozen=True)
class Light:
    """Light of one drive.

    Attributes:
        sun: (3,) unit vector towards the sun, world.
        direct: (3,) illuminance by the sun of a surface that faces it, lx; 0 when it is down or behind clouds.
        diffuse: (3,) illuminance of the ground by the sky, lx.
        sky_top, sky_low: (3,) luminance of the zenith and of the horizon (also of haze), cd/m2.
        extinction: 1/m.
        lamp: (3,) colour of street lamps, 0 where there are none or by day.
        headlights: traffic drives with lights on.
    """

    sun: FloatArray
    direct: FloatArray
    diffuse: FloatArray
    sky_top: FloatArray
    sky_low: FloatArray
    extinction: float
    lamp: FloatArray
    headlights: bool

    @property
    def ground(self) -> FloatArray:
        """(3,) illuminance of the open ground without any lamp, lx."""
        return self.diffuse + self.direct * max(0.0, float(self.sun[2]))

    @property
    def disc(self) -> FloatArray:
        """(3,) luminance of the sun itself, cd/m2."""
        return self.direct / _DISC

    @property
    def lamps(self) -> bool:
        """Whether lamps count beside daylight, so that light differs from place to place."""
        return self.headlights and float(self.ground.mean()) < _LAMPS_ON


def make_light(seed: int, conditions: Conditions) -> Light:
    """The light of a drive under these conditions."""
    rng = np.random.default_rng([seed, 17])
    unlit, colour, warm = rng.uniform() < _UNLIT, _LAMP_COLOURS[rng.integers(3)], float(rng.uniform(-1, 1))
    elevation, cloud = np.rad2deg(conditions.sun_elevation), conditions.cloud
    direct = _direct(elevation) * np.clip((0.75 - cloud) / 0.3, 0.0, 1.0)
    grey = np.array([0.97, 1.0, 1.03]) + 0.03 * warm * np.array([1.0, 0.0, -1.0])
    blue, pale = np.array([0.55, 0.85, 1.45]), np.array([0.93, 1.0, 1.1])
    # Near sunrise and sunset the horizon takes the colour of what the atmosphere lets through.
    low_sun = float(np.clip(1 - abs(elevation - 1.0) / 9.0, 0.0, 1.0))
    pale = (1 - 0.7 * low_sun) * pale + 0.7 * low_sun * np.array([1.45, 0.95, 0.6])
    sky = _sky_illuminance(elevation, cloud)
    glow = _SKY_GLOW * (1 + cloud) * np.array([1.15, 1.0, 0.85])
    tint = (1 - cloud) * (0.5 * blue + 0.5 * pale) + cloud * grey
    # The zenith is darker than the horizon under a clear sky, brighter under clouds (CIE standard skies).
    top = sky / np.pi * ((1 - cloud) * 0.8 * blue + cloud * 1.15 * grey)
    low = sky / np.pi * ((1 - cloud) * 1.2 * pale + cloud * 0.85 * grey)
    ground = sky + float(direct.mean()) * max(0.0, float(conditions.sun[2]))
    return Light(
        sun=conditions.sun,
        direct=direct,
        diffuse=sky * tint + glow,
        sky_top=top + 0.4 * glow / np.pi,
        sky_low=low + glow / np.pi,
        extinction=conditions.extinction,
        lamp=colour if ground < _LAMPS_ON and not unlit else np.zeros(3),
        headlights=ground < _HEADLIGHTS_ON or conditions.rain > 0 or conditions.visibility < 500,
    )


def _direct(elevation_deg: float) -> FloatArray:
    """(3,) direct normal illuminance under a clear sky, lx; air mass by Kasten and Young (1989)."""
    if elevation_deg <= -0.3:
        return np.zeros(3)
    height = max(elevation_deg, 0.0)
    mass = 1 / (np.sin(np.deg2rad(height)) + 0.50572 * (height + 6.07995) ** -1.6364)
    return np.asarray(_SOLAR * np.exp(-_DEPTH * (mass - 1.0) - _DEPTH.mean()))


def _sky_illuminance(elevation_deg: float, cloud: float) -> float:
    """Illuminance of the ground by the sky, lx.

    By day as in the IES Lighting Handbook (clear 0.8 + 15.5 sin(h)^0.5 klx, overcast 0.3 + 21 sin(h) klx); twilight
    from tabulated horizontal illuminances at 0, -6, -12 and -18 degrees.
    """
    if elevation_deg >= 0:
        height = np.sin(np.deg2rad(elevation_deg))
        return float((1 - cloud) * (800 + 15_500 * np.sqrt(height)) + cloud * (300 + 21_000 * height))
    clear = 10 ** np.interp(elevation_deg, [-18, -12, -6, 0], [-3.2, -2.1, 0.53, 2.9])
    return float(clear * (1 - 0.62 * cloud))
