"""Write simulated drives as a data set in nuScenes v1.0 format."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from crkd_core.data.new_folder import new_folder
from crkd_core.data.parallel import in_order
from crkd_core.data.radar_pcd import radar_pcd_bytes
from crkd_core.data.synthscenes.cameras import render
from crkd_core.data.synthscenes.config import TRAINING_SEEDS
from crkd_core.data.synthscenes.lidar import lidar_sweep
from crkd_core.data.synthscenes.radar import radar_sweep
from crkd_core.data.synthscenes.tables import (
    TABLE_NAMES,
    Event,
    Tables,
    map_filename,
    scene_events,
    scene_rows,
    shared_rows,
)
from crkd_core.data.synthscenes.world import Drive, DriveKey, SynthError, check_drive, make_drive

_PART_S = 1.0  # of a drive, what a process takes at a time
_MAP_RESOLUTION = 0.1  # m per pixel, the devkit's default

_logger = logging.getLogger(__name__)


def split_of(seed: int) -> str:
    """The split in ``splits.json`` that names a drive's scene: ``synth_train`` or ``synth_val``."""
    return "synth_train" if seed in TRAINING_SEEDS else "synth_val"


def write_nuscenes(
    root: Path,
    drives: Sequence[DriveKey],
    *,
    version: str = "v1.0-mini",
    scene_names: Sequence[str] | None = None,
    sweeps: bool = True,
    lidar_sweeps: bool = False,
    jpeg_quality: int = 90,
    jobs: int = 1,
    progress: bool = True,
) -> int:
    """Write drives below ``root``: all 13 tables, map masks, key frames, and the sweeps between them.

    The same drives always give the same bytes. Everything is written to a folder beside ``root`` and renamed when it is
    complete, so that a killed run leaves no half data set under that name.

    Args:
        root: the new data set; must not exist.
        drives: at least one; one scene each, all with the sensors of the first.
        version: name of the folder of tables.
        scene_names: one per drive; default ``scene-<seed>``, four digits.
        sweeps: also write images and radar sweeps between key frames, at the sensors' true rates.
        lidar_sweeps: the same for the LiDAR (20 Hz, 0.7 MB each).
        jpeg_quality: 1 to 100.
        jobs: processes that simulate; 1: this one.
        progress: show a bar on stderr.

    Returns:
        The number of key frames.

    Raises:
        SynthError: the arguments do not fit together.
        DataError: ``root`` exists or cannot be written, or a process has died.
    """
    names = [f"scene-{drive.seed:04d}" for drive in drives] if scene_names is None else list(scene_names)
    _check(version, drives, names, jobs, jpeg_quality)
    splits: dict[str, list[str]] = {}
    for drive, name in zip(drives, names, strict=True):
        splits.setdefault(split_of(drive.seed), []).append(name)
    with new_folder(root) as partial:
        scenes = [
            _Scene(drive, name, partial, sweeps, lidar_sweeps, jpeg_quality)
            for drive, name in zip(drives, names, strict=True)
        ]
        parts = [(scene, k) for scene in scenes for k in range(scene.parts)]
        done = map(_write_part, parts) if jobs == 1 else in_order(_write_part, parts, jobs=jobs, name=_name)
        tables: Tables = {name: [] for name in TABLE_NAMES} | shared_rows(drives[0].config)
        for rows_of in tqdm(done, total=len(parts), desc="SynthScenes", unit="part", disable=not progress):
            for table, rows in rows_of.items():
                tables[table] += rows
        _write_tables(partial / version, tables, splits)
    _logger.info("%s: %d scenes written", root, len(drives))
    return len(tables["sample"])


def _check(version: str, drives: Sequence[DriveKey], names: Sequence[str], jobs: int, quality: int) -> None:
    if not version or version != Path(version).name or version in ("samples", "sweeps", "maps"):
        raise SynthError(f"version: expected the name of a folder, such as v1.0-mini, got '{version}'")
    if not drives:
        raise SynthError("drives: expected at least one, got none")
    for drive in drives:
        check_drive(drive)
    if len(names) != len(drives) or len(set(names)) != len(names):
        raise SynthError(f"scene names: expected {len(drives)} different ones, got {', '.join(names)}")
    if jobs < 1:
        raise SynthError(f"jobs: expected at least 1, got {jobs}")
    if not 1 <= quality <= 100:
        raise SynthError(f"JPEG quality: expected 1 to 100, got {quality}")


def _write_tables(folder: Path, tables: Tables, splits: dict[str, list[str]]) -> None:
    for table, rows in tables.items():
        _write_bytes(folder / f"{table}.json", msgspec.json.encode(rows))
    _write_bytes(folder / "splits.json", msgspec.json.encode(splits))


class _Scene(NamedTuple):
    """A drive and how to write it below ``root``."""

    drive: DriveKey
    name: str
    root: Path
    sweeps: bool
    lidar_sweeps: bool
    jpeg_quality: int

    @property
    def parts(self) -> int:
        """In how many its files are written."""
        return math.ceil(self.drive.duration_s / _PART_S)


def _name(part: tuple[_Scene, int]) -> str:
    return part[0].name


@lru_cache(maxsize=2)
def _opened(scene: _Scene) -> tuple[Drive, dict[str, list[Event]]]:
    """The drive of a scene and what is measured in it, by channel."""
    drive = make_drive(*scene.drive)
    return drive, scene_events(drive, scene.name, sweeps=scene.sweeps, lidar_sweeps=scene.lidar_sweeps)


def _write_part(part: tuple[_Scene, int]) -> Tables:
    """Write the files of the k-th part of a scene; with the first come its rows and its map."""
    cv2.setNumThreads(1)  # processes share the work already
    scene, k = part
    drive, by_channel = _opened(scene)
    events = sorted((e for channel in by_channel.values() for e in channel), key=lambda e: e.stamp)
    first, last = (len(events) * i // scene.parts for i in (k, k + 1))
    for event in events[first:last]:
        _write_bytes(scene.root / event.filename, _measured(drive, event, scene.jpeg_quality))
    if k > 0:
        return {}
    _write_bytes(scene.root / map_filename(drive, scene.name), _map_mask(drive))
    return scene_rows(drive, scene.name, by_channel)


def _measured(drive: Drive, event: Event, quality: int) -> bytes:
    """The file of an event."""
    cameras = {c.name: c for c in drive.config.cameras}
    radars = {r.name: r for r in drive.config.radars}
    if event.channel in cameras:
        return _jpeg(render(drive, cameras[event.channel], event.stamp, drive.config.image_size()), quality)
    if event.channel in radars:
        return radar_pcd_bytes(radar_sweep(drive, radars[event.channel], event.stamp).points)
    return lidar_sweep(drive, event.stamp).points.tobytes()


def _jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    done, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return encoded.tobytes()


def _map_mask(drive: Drive) -> bytes:
    """PNG of where the road is: 255 on it, 0 elsewhere, origin at the lower left, as the devkit reads it."""
    road, layout = drive.road, drive.layout
    s = np.arange(road.start, road.end, 2.0)
    right = road.place(s, -layout.walk_edge(-1)).xy
    left = road.place(s, layout.walk_edge(1)).xy
    outline = np.concatenate([right, left[::-1]])
    width, height = np.ceil((outline.max(axis=0) + 60) / _MAP_RESOLUTION).astype(int).tolist()
    mask = np.zeros((height, width), dtype=np.uint8)
    pixels = outline / _MAP_RESOLUTION
    pixels[:, 1] = height - pixels[:, 1]
    cv2.fillPoly(mask, [np.rint(pixels).astype(np.int32)], (255,))
    done, encoded = cv2.imencode(".png", mask)
    assert done
    return encoded.tobytes()


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
