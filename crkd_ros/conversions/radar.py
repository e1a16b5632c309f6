"""Radar returns of any message as ``RADAR_DTYPE``: named fields, and what is done where some are missing.

==================  ==================================================================================================
column              where it comes from
==================  ==================================================================================================
``x, y, z``         fields of that name, m, sensor frame; else ``range``, ``azimuth`` and ``elevation`` (rad, REP-103:
                    positive to the left and up). Without ``z`` or ``elevation`` 0: the plane of the sensor
``vx_comp,``        fields of that name, m/s, over ground; else the line-of-sight part of what the radar measured
``vy_comp``         relative to itself, with its own motion removed (``crkd_core.runtime.radar_motion``)
``vx, vy``          fields of that name, m/s, relative to the sensor; else one of ``DOPPLER`` (m/s along the line of
                    sight, positive: moving away); NaN where only ``vx_comp, vy_comp`` are given
the others          fields of that name, else ``UNKNOWN``: the code that says so, or that of an ordinary valid return
==================  ==================================================================================================

Refused: a message without a position or without a velocity. A return with a position, velocity or cross-section that
is not finite is left out. ``radar_msgs`` need not be installed: its messages are known by their attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.types import RADAR_DTYPE
from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.points import cast, points_of

Column = Callable[..., NDArray[Any]]
"""The column of a name, in that column's type of ``RADAR_DTYPE`` (or another column's)."""

DOPPLER = ("doppler", "doppler_velocity", "radial_velocity", "radial_speed")
"""Names of a radial velocity, the first one found is used."""

UNKNOWN: Mapping[str, float] = {
    "rcs": 0.0,  # dBsm: 1 m2
    "dyn_prop": 4,  # unknown
    "id": 0,
    "is_quality_valid": 1,
    "ambig_state": 3,  # unambiguous
    "x_rms": 0,
    "y_rms": 0,
    "invalid_state": 0,  # valid
    "pdh0": 1,  # false alarm less likely than 25 %
    "vx_rms": 0,
    "vy_rms": 0,
}
"""What a column holds that a radar does not report."""

_RETURN = ("range", "azimuth", "elevation", "doppler_velocity", "amplitude")
_SCAN_DTYPE = np.dtype([(name, "<f4") for name in (*_RETURN[:-1], "rcs")])
_TRACK_DTYPE = np.dtype([(name, "<f4") for name in ("x", "y", "z", "vx", "vy")] + [("dyn_prop", "i1")])
_DYN_PROPS = {1: 1, 2: 0}  # radar_msgs STATIC, DYNAMIC -> stationary, moving; all others are unknown


def radar_points_of(
    message: Any,
    *,
    source: str,
    accept_relative: bool = False,
    read: Callable[..., NDArray[np.void]] = points_of,
) -> NDArray[np.void]:
    """The returns of a ``PointCloud2``, ``radar_msgs/RadarScan`` or ``radar_msgs/RadarTracks``.

    Args:
        message: one of the three.
        source: what an error message calls it.
        accept_relative: velocities relative to the sensor will do: where the others are missing, ``vx_comp, vy_comp``
            are NaN, to be set by ``crkd_core.runtime.radar_motion.compensated``.
        read: takes the place of ``points_of``.

    Returns:
        (N,) ``RADAR_DTYPE``; a view of the message where it is packed alike.

    Raises:
        ConversionError: no position or no velocity, see the module; or see ``points_of``.
    """
    if hasattr(message, "returns"):
        points = _points_of_scan(message)
    elif hasattr(message, "tracks"):
        points = _points_of_tracks(message)
    else:
        points = read(message, source=source)
    return _radar_points(points, source=source, accept_relative=accept_relative)


def _radar_points(points: NDArray[np.void], *, source: str, accept_relative: bool) -> NDArray[np.void]:
    found = points.dtype.names or ()
    if points.dtype != RADAR_DTYPE:
        if not found and not len(points):
            return np.zeros(0, dtype=RADAR_DTYPE)  # some drivers describe no fields when they saw nothing
        points = _completed(points, found, source=source, accept_relative=accept_relative)
    velocity = ("vx_comp", "vy_comp") if {"vx_comp", "vy_comp"} <= set(found) else ("vx", "vy")
    valid = np.ones(len(points), dtype=bool)
    for name in ("x", "y", "z", "rcs", *velocity):
        valid &= np.isfinite(points[name])
    return points if valid.all() else points[valid]


def _completed(
    points: NDArray[np.void], found: tuple[str, ...], *, source: str, accept_relative: bool
) -> NDArray[np.void]:
    def column(name: str, target: str | None = None) -> NDArray[Any]:
        return cast(points[name], RADAR_DTYPE[target or name], name=name, source=source)

    out = np.zeros(len(points), dtype=RADAR_DTYPE)
    _set_positions(out, column, found, source)
    _set_velocities(out, column, found, source, accept_relative=accept_relative)
    for name, value in UNKNOWN.items():
        out[name] = column(name) if name in found else value
    return out


def _set_positions(out: NDArray[np.void], column: Column, found: tuple[str, ...], source: str) -> None:
    if {"x", "y"} <= set(found):
        out["x"], out["y"] = column("x"), column("y")
        out["z"] = column("z") if "z" in found else 0.0
        return
    if not {"range", "azimuth"} <= set(found):
        raise _missing(("x", "y"), found, source, "; 'range' and 'azimuth' will do, too")
    elevation = column("elevation", "z") if "elevation" in found else np.float32(0.0)
    distance, azimuth = column("range", "x"), column("azimuth", "x")
    flat = distance * np.cos(elevation)
    out["x"], out["y"], out["z"] = flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)


def _set_velocities(
    out: NDArray[np.void], column: Column, found: tuple[str, ...], source: str, *, accept_relative: bool
) -> None:
    doppler = next((name for name in DOPPLER if name in found), None)
    if {"vx", "vy"} <= set(found):
        out["vx"], out["vy"] = column("vx"), column("vy")
    elif doppler is not None:
        sight = np.stack([out["x"], out["y"], out["z"]], axis=1)
        along = column(doppler, "vx") / np.maximum(np.linalg.norm(sight, axis=1), 1e-6)
        out["vx"], out["vy"] = along * out["x"], along * out["y"]
    else:
        out["vx"] = out["vy"] = np.nan
    if {"vx_comp", "vy_comp"} <= set(found):
        out["vx_comp"], out["vy_comp"] = column("vx_comp"), column("vy_comp")
        return
    if not accept_relative:
        raise _missing(("vx_comp", "vy_comp"), found, source, "")
    if doppler is None and not {"vx", "vy"} <= set(found):
        others = f"; 'vx' and 'vy', or one of {', '.join(DOPPLER)}, will do, too"
        raise _missing(("vx_comp", "vy_comp"), found, source, others)
    out["vx_comp"] = out["vy_comp"] = np.nan


def _missing(wanted: tuple[str, ...], found: tuple[str, ...], source: str, instead: str) -> ConversionError:
    names = [f"'{name}'" for name in wanted if name not in found]
    plural = "s" if len(names) > 1 else ""
    listed = ", ".join(found) or "none"
    return ConversionError(f"{source}: field{plural} {', '.join(names)} missing (found {listed}){instead}")


def _points_of_scan(message: Any) -> NDArray[np.void]:
    """Range, azimuth, elevation, radial velocity; the amplitude (dB) is taken as the cross-section."""
    rows = [tuple(getattr(echo, name) for name in _RETURN) for echo in message.returns]
    return np.array(rows, dtype=_SCAN_DTYPE)


def _points_of_tracks(message: Any) -> NDArray[np.void]:
    """Centroid and relative velocity of each track."""
    rows = [
        (t.position.x, t.position.y, t.position.z, t.velocity.x, t.velocity.y, _DYN_PROPS.get(int(t.classification), 4))
        for t in message.tracks
    ]
    return np.array(rows, dtype=_TRACK_DTYPE)
