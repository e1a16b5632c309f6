"""Every file that frames are read from, read once to find the damaged ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from crkd_core.data.errors import DataError
from crkd_core.data.images import decoded
from crkd_core.data.parallel import in_order
from crkd_core.data.radar_pcd import read_lidar_bin, read_radar_pcd
from crkd_core.types import CameraImage

SensorFile = tuple[str, Path]
"""Modality and path."""


def damages(files: Sequence[SensorFile], *, jobs: int) -> Iterator[str | None]:
    """What is wrong with each file, None if nothing is seen to be, in order; on ``jobs`` processes, 1: this one.

    Raises:
        DataError: a process has died.
    """
    if jobs == 1:
        return map(_damage, files)
    return in_order(_damage, files, jobs=jobs, name=_name, part=8)


def _damage(file: SensorFile) -> str | None:
    modality, path = file
    try:
        if modality == "camera":
            _read_image(path)
        elif modality == "radar":
            read_radar_pcd(path)
        else:
            read_lidar_bin(path)
    except DataError as error:
        return str(error)
    return None


def _read_image(path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    decoded(CameraImage(content, np.eye(3), np.eye(4), np.eye(4), 0), str(path))


def _name(file: SensorFile) -> str:
    return str(file[1])
