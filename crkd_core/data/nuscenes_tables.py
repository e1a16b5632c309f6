"""The JSON tables of a nuScenes data set, decoded into typed rows of only the fields that are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from crkd_core.data.errors import DataError

Vector3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class _Row(msgspec.Struct, frozen=True, gc=False):
    pass


class SceneRow(_Row, frozen=True):
    """``scene.json``."""

    token: str
    name: str
    log_token: str
    description: str = ""


class LogRow(_Row, frozen=True):
    """``log.json``."""

    token: str
    vehicle: str = ""
    location: str = ""


class SampleRow(_Row, frozen=True):
    """``sample.json``; the timestamp in microseconds, as in every table."""

    token: str
    timestamp: int
    scene_token: str


class SampleDataRow(_Row, frozen=True):
    """``sample_data.json``."""

    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: int
    is_key_frame: bool
    filename: str
    width: int | None = 0
    height: int | None = 0


class EgoPoseRow(_Row, frozen=True):
    """``ego_pose.json``."""

    token: str
    rotation: Quaternion
    translation: Vector3


class CalibratedSensorRow(_Row, frozen=True):
    """``calibrated_sensor.json``."""

    token: str
    sensor_token: str
    translation: Vector3
    rotation: Quaternion
    camera_intrinsic: tuple[Vector3, ...] = ()


class SensorRow(_Row, frozen=True):
    """``sensor.json``."""

    token: str
    channel: str
    modality: str


class AnnotationRow(_Row, frozen=True):
    """``sample_annotation.json``; size is width, length, height."""

    token: str
    sample_token: str
    instance_token: str
    translation: Vector3
    size: Vector3
    rotation: Quaternion
    attribute_tokens: tuple[str, ...] = ()
    visibility_token: str | None = ""
    prev: str = ""
    next: str = ""
    num_lidar_pts: int = 0
    num_radar_pts: int = 0


class InstanceRow(_Row, frozen=True):
    """``instance.json``."""

    token: str
    category_token: str


class NamedRow(_Row, frozen=True):
    """``category.json`` and ``attribute.json``."""

    token: str
    name: str


class VisibilityRow(_Row, frozen=True):
    """``visibility.json``."""

    token: str
    level: str


TABLES = (
    "scene",
    "log",
    "sample",
    "sample_data",
    "ego_pose",
    "calibrated_sensor",
    "sensor",
    "sample_annotation",
    "instance",
    "category",
    "attribute",
    "visibility",
)
"""The tables that are read; nuScenes has one more (``map``)."""

RowT = TypeVar("RowT", bound=_Row)

_PART_BYTES = 1 << 24
_TAIL_BYTES = 1 << 16
_BORDER = re.compile(rb"\}\s*,\s*\{")
"""Between two rows, which hold no objects themselves."""


def version_folder(root: Path, version: str) -> Path:
    """The folder of the tables, ``<root>/<version>``.

    Raises:
        DataError: no root, no such version (names those there are), or a table missing.
    """
    if not root.is_dir():
        raise DataError(f"data root {root}: {'not a folder' if root.exists() else 'no such folder'}")
    folder = root / version
    if not folder.is_dir():
        found = sorted(p.name for p in root.iterdir() if (p / "sample.json").is_file())
        others = f"found {', '.join(found)}" if found else "the root holds no nuScenes tables; is it the right folder?"
        raise DataError(f"data root {root}: no version '{version}'; {others}")
    missing = [name for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise DataError(f"{folder}: table missing: {', '.join(f'{name}.json' for name in missing)}")
    return folder


def table_state(folder: Path) -> list[tuple[str, int, int]]:
    """(name, size, modification time in ns) of every table: equal states mean equal tables."""
    states = [(name, (folder / f"{name}.json").stat()) for name in TABLES]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in states]


def read_table(folder: Path, name: str, row: type[RowT]) -> Iterator[list[RowT]]:
    """All rows of one table, some at a time: of a table of a gigabyte, never more than a few megabytes are in memory.

    Raises:
        DataError: unreadable, not JSON (names line and byte), or without the expected fields (names row and field).
    """
    path = folder / f"{name}.json"
    decoder = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]
    given = 0
    try:
        for part in _parts(path):
            rows = decoder.decode(part)
            yield rows
            given += len(rows)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A damaged table, or a text in it that looks like the border between two rows: the whole of it tells.
        yield _decoded(path, decoder)[given:]


def read_rows(folder: Path, name: str, row: type[RowT]) -> list[RowT]:
    """All rows of one table at once, for the small ones; raises as ``read_table``."""
    return [found for rows in read_table(folder, name, row) for found in rows]


def _parts(path: Path) -> Iterator[bytes]:
    """The table cut between rows into JSON lists of about ``_PART_BYTES``."""
    opening, rest = b"", b""
    with path.open("rb") as file:
        while block := file.read(_PART_BYTES):
            rest += block
            borders = list(_BORDER.finditer(rest, max(0, len(rest) - _TAIL_BYTES)))
            if borders:
                yield opening + rest[: borders[-1].start() + 1] + b"]"
                opening, rest = b"[", rest[borders[-1].end() - 1 :]
    yield opening + rest


def _decoded(path: Path, decoder: msgspec.json.Decoder[list[RowT]]) -> list[RowT]:
    content = path.read_bytes()
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        offset = _byte_offset(str(error), default=len(content))
        line = content.count(b"\n", 0, offset) + 1
        raise DataError(f"{path}, line {line}: {error}; copy the table again") from None


def _byte_offset(message: str, default: int) -> int:
    digits = message.rpartition("(byte ")[2].rstrip(")")
    return int(digits) if digits.isdigit() else default
