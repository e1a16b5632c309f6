"""Light and weather of a drive: drawn once per drive, the same for every sensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from crkd_core.types import FloatArray

DayLight = Literal["day", "dusk", "night"]

_LOW_SUN = np.deg2rad(20.0)  # below it a clear sun stands in the view of a level camera
_CONTRAST = 0.05  # what is left of an object's contrast at the distance called the visibility (Koschmieder)


@dataclass(frozen=True)
class Conditions:
    """Light and weather of one drive.

    Attributes:
        light: by the sun's elevation: day above 4 degrees, night below -6 (the end of civil twilight), dusk between.
        sun_elevation, sun_azimuth: rad, world; below the horizon the elevation is negative.
        cloud: 0 (clear) to 1 (overcast: no direct sun, no shadows).
        rain: mm/h; 0 when it is dry. The road is wet if and only if it rains.
        visibility: m, in dry air (meteorological optical range); rain shortens it further.
    """

    light: DayLight
    sun_elevation: float
    sun_azimuth: float
    cloud: float = 0.0
    rain: float = 0.0
    visibility: float = 20_000.0

    @property
    def wet(self) -> bool:
        """Whether the road is wet."""
        return self.rain > 0

    @property
    def extinction(self) -> float:
        """Extinction of visible and near-infrared light in air, haze and rain, 1/m.

        Haze and fog by Koschmieder's law. Rain: 1.076 R^0.67 dB/km (Carbonneau and Wisely 1998).
        """
        rain_db_per_km = 1.076 * self.rain**0.67
        return float(-np.log(_CONTRAST) / self.visibility + rain_db_per_km * 1e-3 * np.log(10) / 10)

    @property
    def sun(self) -> FloatArray:
        """(3,) unit vector towards the sun, world."""
        flat = np.cos(self.sun_elevation)
        return np.array([flat * np.cos(self.sun_azimuth), flat * np.sin(self.sun_azimuth), np.sin(self.sun_elevation)])

    def describe(self) -> str:
        """In a few words, as nuScenes describes its scenes, such as ``Night, rain 8 mm/h``."""
        words = [self.light.capitalize()]
        if self.rain > 0:
            words.append(f"rain {self.rain:.2g} mm/h")
        if self.visibility < 1000:
            words.append(f"fog, visibility {self.visibility:.0f} m")
        if len(words) == 1 and self.light != "night":
            words.append(
                "overcast" if self.cloud > 0.7 else "low sun" if 0 < self.sun_elevation < _LOW_SUN else "clear"
            )
        return ", ".join(words)


class ConditionShares(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How conditions are drawn: shares of drives, and ranges. A share of 1 and an empty range fix a condition.

    nuScenes has about 12 % of its scenes at night and 20 % in rain; night and dusk are more frequent here, so that
    results by condition rest on enough drives.
    """

    dusk: float = 0.1
    night: float = 0.2
    rain: float = 0.2
    fog: float = 0.05
    rain_mm_h: tuple[float, float] = (1.0, 20.0)
    """Light to heavy rain, drawn evenly in the logarithm."""
    fog_visibility: tuple[float, float] = (150.0, 800.0)
    """m, drawn evenly in the logarithm."""
    dry_visibility: tuple[float, float] = (3_000.0, 30_000.0)
    """m, haze to clear air, drawn evenly in the logarithm."""
    day_elevation_deg: tuple[float, float] = (4.0, 60.0)
    """The sun by day: from its least to its greatest elevation, at an even time of the day."""


def draw_conditions(rng: np.random.Generator, shares: ConditionShares) -> Conditions:
    """Light and weather of one drive.

    Always draws the same number of values, so that changing one share or range changes nothing else.
    """
    which, raining, foggy, rain, visibility, height, cloud = rng.uniform(size=7)
    azimuth = float(rng.uniform(-np.pi, np.pi))
    light: DayLight = "night" if which < shares.night else "dusk" if which < shares.night + shares.dusk else "day"
    low, high = shares.day_elevation_deg
    elevation = {
        # Over half a day the sun rises and falls like a sine.
        "day": low + (high - low) * np.sin(0.5 * np.pi * height),
        "dusk": -6.0 + 10.0 * height,
        "night": -40.0 + 30.0 * height,
    }[light]
    rain_rate = _log_between(shares.rain_mm_h, rain) if raining < shares.rain else 0.0
    fog = foggy < shares.fog
    return Conditions(
        light=light,
        sun_elevation=float(np.deg2rad(elevation)),
        sun_azimuth=azimuth,
        cloud=1.0 if rain_rate > 0 or fog else float(cloud),
        rain=rain_rate,
        visibility=_log_between(shares.fog_visibility if fog else shares.dry_visibility, visibility),
    )


def _log_between(bounds: tuple[float, float], share: float) -> float:
    low, high = np.log(bounds)
    return float(np.exp(low + (high - low) * share))
