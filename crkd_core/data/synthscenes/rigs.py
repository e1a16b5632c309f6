"""Own vehicles: cameras, radars and their mountings from a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from crkd_core.cli import UserError
from crkd_core.data.synthscenes.config import CameraMount, RadarMount, SynthConfig, Vehicle


class RigError(UserError):
    """A rig file that cannot be used."""


class Rig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a vehicle carries; the form of a rig file. Places are in base_link (x forward, y left, z up), m."""

    cameras: tuple[CameraMount, ...]
    radars: tuple[RadarMount, ...]
    lidar_translation: tuple[float, float, float]
    """LIDAR_TOP, also the origin of the network's BEV frame. A vehicle without a LiDAR names a place for that."""
    vehicle: Vehicle
    camera_hz: int = 12
    radar_hz: int = 13


def with_rig(config: SynthConfig, path: Path) -> SynthConfig:
    """A configuration with the vehicle of a rig file.

    Raises:
        RigError: the file cannot be read, or what it says does not fit together.
    """
    rig = _read(path)
    _check(path, rig, config.keyframe_hz)
    values = {name: getattr(rig, name) for name in rig.__struct_fields__}
    return msgspec.structs.replace(config, **values)


def _read(path: Path) -> Rig:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=Rig)
    except OSError as error:
        raise RigError(f"rig {path}: cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        text = " ".join(str(error).split())
        raise RigError(f"rig {path}: {text}; see config/rigs/ for an example") from None


def _check(path: Path, rig: Rig, keyframe_hz: int) -> None:
    if not rig.cameras and not rig.radars:
        raise RigError(f"rig {path}: expected at least one camera or radar, got none")
    _check_names(path, [c.name for c in rig.cameras], "CAM_")
    _check_names(path, [r.name for r in rig.radars], "RADAR_")
    for camera in rig.cameras:
        (width, height), (column, row) = camera.sensor, camera.principal
        if width < 64 or height < 64:
            raise RigError(
                f"rig {path}: {camera.name}: sensor: expected at least 64 x 64 pixels, got {width} x {height}"
            )
        if camera.focal <= 0 or not (0 < column < width and 0 < row < height):
            raise RigError(
                f"rig {path}: {camera.name}: expected a focal length > 0 and a principal point inside the image of "
                f"{width} x {height}, got {camera.focal:g} and ({column:g}, {row:g})"
            )
        if width * rig.cameras[0].sensor.height != height * rig.cameras[0].sensor.width:
            raise RigError(
                f"rig {path}: {camera.name}: expected the aspect ratio of {rig.cameras[0].name}, got {width} x {height}"
            )
    if rig.camera_hz < keyframe_hz or rig.camera_hz % keyframe_hz or rig.radar_hz < 1:
        raise RigError(
            f"rig {path}: expected camera_hz, a multiple of {keyframe_hz} (the rate of key frames), and radar_hz of "
            f"1 or more, got {rig.camera_hz} and {rig.radar_hz}"
        )
    if min(rig.vehicle.length, rig.vehicle.width) <= 0:
        raise RigError(f"rig {path}: vehicle: expected length and width > 0, got {rig.vehicle}")


def _check_names(path: Path, names: Sequence[str], prefix: str) -> None:
    for name in names:
        if not name.startswith(prefix) or not name.isidentifier():
            raise RigError(f"rig {path}: expected a name such as {prefix}FRONT, got '{name}'")
    if len(set(names)) < len(names):
        raise RigError(f"rig {path}: expected different names, got {', '.join(names)}")
