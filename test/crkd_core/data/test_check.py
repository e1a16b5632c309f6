"""Damaged files of every kind are found by reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crkd_core.data.check import damages

CHANNELS = {"camera": "CAM_FRONT", "radar": "RADAR_FRONT", "lidar": "LIDAR_TOP"}


@pytest.mark.parametrize(
    ("modality", "damaged", "message"),
    [
        ("camera", b"", "not a JPEG or PNG image, or damaged (0 bytes)"),
        ("camera", b"\xff\xd8\xff\xd9", "not a JPEG or PNG image, or damaged (4 bytes)"),
        ("radar", b"", "not a .pcd file, or truncated: no DATA line in 0 bytes"),
        ("lidar", b"", "empty; copy the file again"),
        ("lidar", b"\xff" * 40, "damaged: coordinates or intensities that are no numbers; copy the file again"),
        ("camera", None, "cannot be read: No such file or directory"),
        ("lidar", None, "cannot be read: No such file or directory"),
    ],
)
def test_a_damaged_file_is_named_and_those_beside_it_pass(
    tiny_set: Any, modality: str, damaged: bytes | None, message: str
) -> None:
    paths: list[Path] = tiny_set.files(CHANNELS[modality], key=True)
    if damaged is None:
        paths[1].unlink()
    else:
        paths[1].write_bytes(damaged)
    found = list(damages([(modality, path) for path in paths], jobs=1))
    assert found == [None, f"{paths[1]}: {message}", None, None]
