"""Write simulated drives as a data set in nuScenes v1.0 format."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from crkd_core.data.radar_pcd import radar_pcd_bytes
from crkd_core.data.synthscenes.cameras import render
from crkd_core.data.synthscenes.config import TRAINING_SEEDS, SynthConfig
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
from crkd_core.data.synthscenes.world import Drive, SynthError, make_drive

_CHUNK = 24  # files per task of a worker process
_MAP_RESOLUTION = 0.1  # m per pixel, the devkit's default

_logger = logging.getLogger(__name__)


def split_of(seed: int) -> str:
    """The split in ``splits.json`` that names a drive's scene: ``synth_train`` or ``synth_val``."""
    return "synth_train" if seed in TRAINING_SEEDS else "synth_val"


def write_nuscenes(
    root: Path,
    drives: Sequence[Drive],
    *,
    version: str = "v1.0-mini",
    scene_names: Sequence[str] | None = None,
    sweeps: bool = True,
    lidar_sweeps: bool = False,
    jpeg_quality: int = 90,
    jobs: int = 1,
    progress: bool = True,
) -> None:
    """Write drives below ``root``: all 13 tables, map masks, key frames, and the sweeps between them.

    The same drives always give the same bytes. Everything is written to a folder beside ``root`` and renamed when it is
    complete, so that a killed run leaves no half data set under that name.

    Args:
        root: the new data set; must not exist.
        drives: at least one; one scene each.
        version: name of the folder of tables.
        scene_names: one per drive; default ``scene-<seed>``, four digits.
        sweeps: also write images and radar sweeps between key frames, at the sensors' true rates.
        lidar_sweeps: the same for the LiDAR (20 Hz, 0.7 MB each).
        jpeg_quality: 1 to 100.
        jobs: processes that simulate.
        progress: show a bar on stderr.

    Raises:
        SynthError: ``root`` exists, or the arguments do not fit together.
    """
    names = [f"scene-{drive.seed:04d}" for drive in drives] if scene_names is None else list(scene_names)
    _check(root, version, drives, names, jobs, jpeg_quality)
    with _complete_or_nothing(root) as partial:
        tables: Tables = {name: [] for name in TABLE_NAMES} | shared_rows(drives)
        tasks: list[tuple[_Source, list[Event]]] = []
        for drive, name in zip(drives, names, strict=True):
            events = scene_events(drive, name, sweeps=sweeps, lidar_sweeps=lidar_sweeps)
            for table, rows in scene_rows(drive, name, events).items():
                tables[table] += rows
            everything = sorted((e for channel in events.values() for e in channel), key=lambda e: e.stamp)
            source = (drive.seed, drive.config, drive.duration_s)
            tasks += [(source, everything[k : k + _CHUNK]) for k in range(0, len(everything), _CHUNK)]
            _write_bytes(partial / map_filename(drive, name), _map_mask(drive))
        splits: dict[str, list[str]] = {}
        for drive, name in zip(drives, names, strict=True):
            splits.setdefault(split_of(drive.seed), []).append(name)
        _write_tables(partial / version, tables, splits)
        _write_files(partial, tasks, jpeg_quality, jobs, progress=progress)
    _logger.info("%s: %d scenes written", root, len(drives))


_Source = tuple[int, SynthConfig, float]


def _check(root: Path, version: str, drives: Sequence[Drive], names: Sequence[str], jobs: int, quality: int) -> None:
    if root.exists():
        raise SynthError(f"{root} exists already, not overwriting; remove it or name another folder")
    if not version or version != Path(version).name or version in ("samples", "sweeps", "maps"):
        raise SynthError(f"version: expected the name of a folder, such as v1.0-mini, got '{version}'")
    if not drives:
        raise SynthError("drives: expected at least one, got none")
    if len(names) != len(drives) or len(set(names)) != len(names):
        raise SynthError(f"scene names: expected {len(drives)} different ones, got {', '.join(names)}")
    if jobs < 1:
        raise SynthError(f"jobs: expected at least 1, got {jobs}")
    if not 1 <= quality <= 100:
        raise SynthError(f"JPEG quality: expected 1 to 100, got {quality}")


@contextmanager
def _complete_or_nothing(root: Path) -> Iterator[Path]:
    """A folder beside ``root`` that takes its name on success and vanishes on failure."""
    partial = root.with_name(f".{root.name}.partial")
    if partial.exists():  # left by a killed run
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise SynthError(f"{root}: cannot be created: {error.strerror}") from None
    try:
        yield partial
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_tables(folder: Path, tables: Tables, splits: dict[str, list[str]]) -> None:
    for table, rows in tables.items():
        _write_bytes(folder / f"{table}.json", msgspec.json.encode(rows))
    _write_bytes(folder / "splits.json", msgspec.json.encode(splits))


def _write_files(
    root: Path, tasks: Sequence[tuple[_Source, list[Event]]], quality: int, jobs: int, *, progress: bool
) -> None:
    total = sum(len(events) for _, events in tasks)
    with tqdm(total=total, desc="SynthScenes", unit="file", disable=not progress) as bar:
        if jobs == 1:
            for source, events in tasks:
                bar.update(_simulate(root, source, events, quality))
            return
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            futures = [pool.submit(_simulate, root, source, events, quality) for source, events in tasks]
            try:
                for future in futures:
                    bar.update(future.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


@lru_cache(maxsize=2)
def _drive(source: _Source) -> Drive:
    seed, config, duration_s = source
    return make_drive(seed, config, duration_s)


def _simulate(root: Path, source: _Source, events: Sequence[Event], quality: int) -> int:
    """Write the files of some events; returns how many."""
    cv2.setNumThreads(1)  # processes share the work already
    drive = _drive(source)
    cameras = {c.name: c for c in drive.config.cameras}
    radars = {r.name: r for r in drive.config.radars}
    for event in events:
        if event.channel in cameras:
            image = render(drive, cameras[event.channel], event.stamp, drive.config.image_size())
            content = _jpeg(image, quality)
        elif event.channel in radars:
            content = radar_pcd_bytes(radar_sweep(drive, radars[event.channel], event.stamp).points)
        else:
            content = lidar_sweep(drive, event.stamp).points.tobytes()
        _write_bytes(root / event.filename, content)
    return len(events)


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
