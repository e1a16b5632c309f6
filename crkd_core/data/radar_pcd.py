"""Sensor files of nuScenes: radar ``.pcd`` (18 named fields, 43 packed bytes a point) and LiDAR ``.pcd.bin``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.errors import DataError
from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE

_NUMPY_KIND = {"F": "f", "I": "i", "U": "u"}


def read_radar_pcd(path: Path) -> NDArray[np.void]:
    """Read a radar point cloud file.

    Args:
        path: a binary ``.pcd`` whose fields include, in any order, those of ``RADAR_DTYPE`` in its types.

    Returns:
        (N,) structured array of ``RADAR_DTYPE``, sensor frame; empty where the file marks "no returns" by a NaN in its
        first point. No validity filter is applied.

    Raises:
        DataError: missing, not such a file, truncated, or coordinates that are no numbers.
    """
    return parse_radar_pcd(_content(path), source=str(path))


def parse_radar_pcd(content: bytes, source: str) -> NDArray[np.void]:
    """``read_radar_pcd`` of a file's content; ``source`` names it in errors."""
    header, body = _split_header(content, source)
    dtype = _point_dtype(header, source)
    count = _point_count(header, source)
    expected = count * dtype.itemsize
    if len(body) < expected:
        raise DataError(
            f"{source}: truncated: expected {expected} bytes for {count} points, got {len(body)}; copy the file again"
        )
    points: NDArray[np.void] = np.frombuffer(body, dtype=dtype, count=count)
    if dtype != RADAR_DTYPE:
        in_order = np.empty(count, dtype=RADAR_DTYPE)
        for name in _names():
            in_order[name] = points[name]
        points = in_order
    if count and any(np.isnan(points[name][0]) for name in _names() if RADAR_DTYPE[name].kind == "f"):
        return np.empty(0, dtype=RADAR_DTYPE)
    if not all(np.isfinite(points[name]).all() for name in ("x", "y", "z")):
        raise DataError(f"{source}: damaged: coordinates that are no numbers; copy the file again")
    return points


def radar_pcd_bytes(points: NDArray[np.void]) -> bytes:
    """The content of a nuScenes radar file.

    Args:
        points: (N,) structured array of ``RADAR_DTYPE``. None: one NaN point, which readers take for "no returns".
    """
    if points.dtype != RADAR_DTYPE:
        raise ValueError(f"radar points: expected dtype RADAR_DTYPE, got {points.dtype}")
    if len(points) == 0:
        points = np.zeros(1, dtype=RADAR_DTYPE)
        points["x"] = np.nan
    types = [RADAR_DTYPE[name] for name in _names()]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(_names()),
        "SIZE " + " ".join(str(t.itemsize) for t in types),
        "TYPE " + " ".join("F" if t.kind == "f" else "I" for t in types),
        "COUNT " + " ".join("1" for _ in types),
        f"WIDTH {len(points)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(points)}",
        "DATA binary",
    ]
    # nuscenes-devkit's parser wants at least one byte after the points.
    return ("\n".join(header) + "\n").encode() + points.tobytes() + b"\n"


def read_lidar_bin(path: Path) -> NDArray[np.void]:
    """Read a LiDAR ``.pcd.bin``: (N,) structured array of ``LIDAR_DTYPE``, sensor frame.

    Raises:
        DataError: missing, empty, not a whole number of points, or numbers that are none.
    """
    content = _content(path)
    if not content:
        raise DataError(f"{path}: empty; copy the file again")
    if len(content) % LIDAR_DTYPE.itemsize:
        raise DataError(
            f"{path}: truncated: expected a multiple of {LIDAR_DTYPE.itemsize} bytes, got {len(content)}; "
            "copy the file again"
        )
    if not np.isfinite(np.frombuffer(content, dtype="<f4")).all():
        raise DataError(f"{path}: damaged: coordinates or intensities that are no numbers; copy the file again")
    points: NDArray[np.void] = np.frombuffer(content, dtype=LIDAR_DTYPE)
    return points


def _names() -> tuple[str, ...]:
    names = RADAR_DTYPE.names
    assert names is not None
    return names


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _split_header(content: bytes, source: str) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    position = 0
    while True:
        end = content.find(b"\n", position, position + 4096)
        if end < 0:
            raise DataError(f"{source}: not a .pcd file, or truncated: no DATA line in {len(content)} bytes")
        words = content[position:end].decode("ascii", errors="replace").split()
        position = end + 1
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
            if words[0] == "DATA":
                break
    if header["DATA"] != ["binary"]:
        raise DataError(f"{source}: expected 'DATA binary', got 'DATA {' '.join(header['DATA'])}'")
    return header, content[position:]


def _point_dtype(header: dict[str, list[str]], source: str) -> np.dtype[np.void]:
    names, sizes, kinds = (header.get(key, []) for key in ("FIELDS", "SIZE", "TYPE"))
    if not len(names) == len(sizes) == len(kinds) or set(header.get("COUNT", [])) - {"1"}:
        raise DataError(f"{source}: header: FIELDS, SIZE, TYPE and COUNT (all 1) do not match")
    try:
        dtype = np.dtype([(n, f"<{_NUMPY_KIND[k]}{s}") for n, k, s in zip(names, kinds, sizes, strict=True)])
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{source}: header: unknown SIZE or TYPE: {' '.join(sizes)}; {' '.join(kinds)}") from None
    for name in _names():
        if name not in names:
            raise DataError(f"{source}: field '{name}' missing (found {', '.join(names)})")
        if dtype[name] != RADAR_DTYPE[name]:
            raise DataError(f"{source}: field '{name}': expected {RADAR_DTYPE[name]}, got {dtype[name]}")
    return dtype


def _point_count(header: dict[str, list[str]], source: str) -> int:
    words = header.get("POINTS") or header.get("WIDTH") or []
    if len(words) != 1 or not words[0].isdigit():
        raise DataError(f"{source}: header: expected 'POINTS <number>', got 'POINTS {' '.join(words)}'")
    return int(words[0])
