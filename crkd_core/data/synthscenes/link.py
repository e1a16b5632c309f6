"""The radar equation: how much comes back, and whether the sensor notices.

Received power falls with the fourth power of range. Constants are those of a production sensor as on the nuScenes
vehicle (Continental ARS 408-21; its data sheet states 250 m in a narrow far beam of +-9 degrees, up to 100 m to
+-45 degrees and 20 m at +-60 degrees): by R^4 the ratios of those ranges give the antenna's loss at each bearing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import RadarMount
from crkd_core.data.synthscenes.echoes import HALF_VIEW, Echoes
from crkd_core.data.synthscenes.world import Drive
from crkd_core.types import FloatArray

FAR_BEAM = float(np.deg2rad(9.0))
# dB, signal to noise of 0 dBsm at 1 m in the far beam: a car's centre of 8 dBsm is noticed half the time at 158 m, a
# pedestrian of -2.5 dBsm at 87 m.
_GAIN = 91.0
_NEAR_LOSS = 40 * np.log10(250 / 125)  # dB; outside the far beam, where nuScenes' files reach beyond the data sheet
_EDGE_LOSS = 40 * np.log10(250 / 20)  # dB; at the edge of the view
_NEAR_EDGE = float(np.deg2rad(45.0))
_FALSE_ALARM = 1e-4  # probability that noise alone passes the threshold in a cell
THRESHOLD = float(10 * np.log10(-np.log(_FALSE_ALARM)))
"""Power over noise that is noticed, dB."""
LEAST_RCS = -5.25
"""Weaker returns are kept back, dBsm: the least in nuScenes' files is -5, in steps of 0.5."""
# Rain at 77 GHz, horizontal polarisation, dB/km = k R^alpha with R in mm/h, computed from ITU-R P.838-3.
_RAIN_K, _RAIN_ALPHA = 1.132, 0.718
_GROUND_BOUNCE = 0.3  # amplitude of the way over the road next to the straight one


@dataclass(frozen=True)
class Link:
    """What weakens K sweeps besides range and bearing.

    Attributes:
        rain: two-way loss, dB/m.
        blocked: (K, 3) two-way loss of a covered part of the view, dB, and the bearings between which it is, rad.
    """

    rain: float
    blocked: FloatArray

    def signal(self, sweep: NDArray[np.int64], points: FloatArray, rcs: FloatArray, unit: FloatArray) -> FloatArray:
        """(P,) mean power over noise, dB.

        Args:
            sweep: (P,) to which sweep each target belongs.
            points: (P, 2) sensor axes, m.
            rcs: (P,) dBsm.
            unit: (P,) ``unit_signal`` of the points.
        """
        signal = rcs + unit
        if self.rain > 0:
            signal -= self.rain * np.hypot(points[:, 0], points[:, 1])
        if self.blocked[:, 0].any():
            loss, low, high = self.blocked[sweep].T
            bearing = np.arctan2(points[:, 1], points[:, 0])
            signal -= np.where((bearing >= low) & (bearing <= high), loss, 0.0)
        return signal


def unit_signal(points: FloatArray) -> FloatArray:
    """(P,) power over noise, dB, of 0 dBsm at points (P, 2) in sensor axes, in dry air and with a clean sensor."""
    square = points[:, 0] ** 2 + points[:, 1] ** 2
    off = np.abs(np.arctan2(points[:, 1], points[:, 0]))
    toward_edge = np.clip((off - _NEAR_EDGE) / (HALF_VIEW - _NEAR_EDGE), 0, 1)
    loss = np.where(off <= FAR_BEAM, 0.0, _NEAR_LOSS + (_EDGE_LOSS - _NEAR_LOSS) * toward_edge)
    return np.asarray(_GAIN - 20 * np.log10(np.maximum(square, 1.0)) - loss)


def reportable(echoes: Echoes) -> Echoes:
    """Those that are noticed and seem strong enough a reflector to be reported."""
    return echoes.picked(np.flatnonzero((echoes.level - echoes.unit > LEAST_RCS) & (echoes.level > THRESHOLD)))


def received(signal: FloatArray, uniform: FloatArray) -> FloatArray:
    """(P,) power over noise in one sweep, dB, where ``signal`` (dB) is its mean.

    Signal and noise fluctuate together as a sum of many contributions (Swerling's first case): power is exponentially
    distributed, and that it passes ``THRESHOLD`` has the probability ``_FALSE_ALARM ** (1 / (1 + signal))``.
    """
    return np.asarray(10 * np.log10(-np.log1p(-uniform) * (1 + np.exp(np.log(10) / 10 * signal))))


def ground_bounce(uniform: FloatArray) -> FloatArray:
    """(P,) dB that the way over the road adds or takes, at a phase that changes within centimetres."""
    return np.asarray(20 * np.log10(1 + _GROUND_BOUNCE**2 + 2 * _GROUND_BOUNCE * np.cos(2 * np.pi * uniform)))


def make_link(drive: Drive, scans: Sequence[tuple[RadarMount, int]]) -> Link:
    """Of a drive's weather, and of what covers its radars."""
    blocked = {m.name: blockage(drive, m) for m in drive.config.radars}
    rain = 2e-3 * _RAIN_K * drive.conditions.rain**_RAIN_ALPHA
    return Link(rain, np.array([blocked[m.name] for m, _ in scans]))


def blockage(drive: Drive, mount: RadarMount) -> tuple[float, float, float]:
    """What covers a radar for the whole drive: two-way loss, dB, and from which to which bearing, rad.

    A share ``config.radar_blockage`` of radars is covered: one half all over, by 25 to 60 dB (ice, snow, mud: it hardly
    sees anything), the other from one side to some bearing, by 10 to 30 dB (dirt).
    """
    index = [m.name for m in drive.config.radars].index(mount.name)
    u = np.random.default_rng([drive.seed, 300 + index]).random(5)
    if u[0] >= drive.config.radar_blockage:
        return 0.0, -HALF_VIEW, HALF_VIEW
    if u[1] < 0.5:
        return 25.0 + 35.0 * float(u[2]), -np.pi, np.pi
    edge = HALF_VIEW * (1.6 * float(u[3]) - 0.8)
    low, high = (-np.pi, edge) if u[4] < 0.5 else (edge, np.pi)
    return 10.0 + 20.0 * float(u[2]), low, high
