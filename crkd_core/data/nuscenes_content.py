"""What the index keeps of a nuScenes data set: columns per scene, and their compact, versioned cache file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the cache file: raise it whenever a struct below changes."""


class _Columns(msgspec.Struct, frozen=True, eq=False, gc=False):
    pass


class Track(_Columns, frozen=True):
    """All records of one sensor in one scene, oldest first.

    File names are fixed-width UTF-8: millions of them cost no Python object, and forked workers share their memory.
    """

    modality: str
    image_size: tuple[int, int]
    """(width, height) of the first record; (0, 0) of a sensor that is no camera."""
    stamps: NDArray[np.int64]
    """(n,) ns."""
    key: NDArray[np.bool_]
    """(n,) whether the record is a key frame."""
    poses: NDArray[np.float64]
    """(n, 7): quaternion (w, x, y, z) and translation of the vehicle in the world at each stamp."""
    calibrations: NDArray[np.int32]
    """(n,) positions in ``Content.calibrations``."""
    files: NDArray[np.bytes_]
    """(n,) paths relative to the data root."""


class AnnotationColumns(_Columns, frozen=True):
    """All annotations of one scene, in the order of its samples."""

    tokens: NDArray[np.bytes_]
    instances: NDArray[np.bytes_]
    """(n,) tokens."""
    categories: NDArray[np.int32]
    """(n,) positions in ``Content.categories``."""
    labels: NDArray[np.int8]
    """(n,) detection class, -1 outside the ten."""
    attributes: NDArray[np.int64]
    """(n,) bit i is set where the object has ``Content.attributes[i]``."""
    visibilities: NDArray[np.int8]
    """(n,) positions in ``Content.visibilities``, -1 unknown."""
    translations: NDArray[np.float64]
    """(n, 3) m, world."""
    sizes_wlh: NDArray[np.float64]
    """(n, 3) width, length, height, m."""
    rotations: NDArray[np.float64]
    """(n, 4) quaternions (w, x, y, z), world."""
    velocities: NDArray[np.float64]
    """(n, 3) m/s, world; NaN where unknown."""
    num_lidar_pts: NDArray[np.int32]
    num_radar_pts: NDArray[np.int32]


class SampleColumns(_Columns, frozen=True):
    """One sample."""

    token: str
    stamp: int
    """ns."""
    key: dict[str, int]
    """channel -> row of the key frame in its track."""
    annotations: tuple[int, int]
    """First row and end row in the scene's annotations."""


class SceneColumns(_Columns, frozen=True):
    """One scene."""

    token: str
    name: str
    description: str
    location: str
    vehicle: str
    tracks: dict[str, Track]
    samples: list[SampleColumns]
    annotations: AnnotationColumns


class CalibrationColumns(_Columns, frozen=True):
    """One mounting of one sensor."""

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    intrinsics: tuple[tuple[float, float, float], ...]


class Content(_Columns, frozen=True):
    """Everything the tables say that the project uses."""

    scenes: list[SceneColumns]
    calibrations: list[CalibrationColumns]
    categories: list[str]
    attributes: list[str]
    visibilities: list[str]


class _CacheFile(msgspec.Struct, frozen=True):
    format: int
    tables: list[tuple[str, int, int]]
    content: msgspec.Raw


def read_cache(path: Path, tables: list[tuple[str, int, int]]) -> Content | None:
    """The cached content, or None (with a log message) if there is none for exactly these tables.

    Args:
        path: the cache file.
        tables: state of the tables, as of ``nuscenes_tables.table_state``.
    """
    try:
        file = msgspec.msgpack.decode(path.read_bytes(), type=_CacheFile)
        if file.format != FORMAT:
            logger.info("%s: of another version of this program; building the index again", path)
            return None
        if file.tables != tables:
            logger.info("%s: the tables have changed since; building the index again", path)
            return None
        return msgspec.msgpack.decode(file.content, type=Content, dec_hook=_array)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError, TypeError) as error:
        logger.warning("%s: unusable (%s); building the index again", path, error)
        return None


def write_cache(path: Path, tables: list[tuple[str, int, int]], content: Content) -> None:
    """Write the cache file in one step; a place that cannot be written to is only a warning."""
    raw = msgspec.Raw(msgspec.msgpack.encode(content, enc_hook=_plain))
    data = msgspec.msgpack.encode(_CacheFile(FORMAT, tables, raw))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        logger.warning("%s: index not cached: %s", path, error)


def _plain(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    raise NotImplementedError(f"cannot cache {type(value)}")


def _array(_: Any, value: Any) -> NDArray[Any]:
    dtype, shape, data = value
    return np.frombuffer(data, dtype=dtype).reshape(shape)
