"""Tables of a data set of any size in nuScenes format, with nothing in its files: to measure what an index costs.

Rates, names and numbers of a row's digits are nuScenes'; 850 scenes have the size of v1.0-trainval.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY

VERSION = "v1.0-dummy"
KEY_FRAMES = 40.18
"""Key frames of a scene (trainval: 34,149 in 850 scenes)."""
OBJECTS, ANNOTATIONS_OF_OBJECT = 76, 18
"""Objects of a scene and annotations of each (trainval: 64,386 and 1,166,187)."""
PERIOD_US = {"camera": 83_333, "radar": 77_000, "lidar": 50_000}
SUFFIX = {"camera": "jpg", "radar": "pcd", "lidar": "pcd.bin"}
CHANNELS = {
    **dict.fromkeys(
        ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"), "camera"
    ),
    **dict.fromkeys(
        ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT"), "radar"
    ),
    "LIDAR_TOP": "lidar",
}
_KEY_PERIOD_US = 500_000
_START_US = 1_532_402_927_600_000


def write_dummy_set(root: Path, *, scenes: int, seed: int = 0, files: bool = True) -> None:
    """Write ``<root>/v1.0-dummy`` and, if wanted, an empty file for each measurement.

    Args:
        root: folder; it is made.
        scenes: 850 for trainval's size: 2.7 GB of tables, 2.6 million files.
        seed: of the numbers.
        files: whether there are files; if not, their folders are empty.
    """
    folder = root / VERSION
    folder.mkdir(parents=True)
    for part in ("samples", "sweeps"):
        for channel in CHANNELS:
            (root / part / channel).mkdir(parents=True)
    _write_descriptions(folder, scenes)
    rng = np.random.default_rng(seed)
    frames = np.diff(np.round(np.arange(scenes + 1) * KEY_FRAMES)).astype(int).tolist()
    _write(folder / "sample.json", (row for s, n in enumerate(frames) for row in _samples(s, n)))
    _write(folder / "ego_pose.json", (row for s, n in enumerate(frames) for row in _poses(s, n, rng)))
    _write(folder / "sample_data.json", (row for s, n in enumerate(frames) for row in _records(s, n)))
    _write(folder / "sample_annotation.json", (row for s, n in enumerate(frames) for row in _annotations(s, n, rng)))
    _write(folder / "instance.json", (row for s in range(scenes) for row in _instances(s)))
    if files:
        for scene, n in enumerate(frames):
            for _, _, _, _, name in _measurements(scene, n):
                os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY))


def _token(table: int, scene: int, row: int) -> str:
    """32 hexadecimal digits in no order, as real ones."""
    return f"{(table << 48 | scene << 32 | row) * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def _write(path: Path, rows: Iterable[str]) -> None:
    with path.open("w") as file:
        file.write("[\n")
        for i, row in enumerate(rows):
            file.write(f",\n{row}" if i else row)
        file.write("\n]")


def _measurements(scene: int, key_frames: int) -> Iterator[tuple[int, str, int, bool, str]]:
    """(row within the scene, channel, time in microseconds, whether it is a key frame, file) of each record."""
    start, row = _START_US + scene * 60_000_000, 0
    for c, (channel, modality) in enumerate(CHANNELS.items()):
        period, next_key = PERIOD_US[modality], 0
        for time in range(0, (key_frames - 1) * _KEY_PERIOD_US + period, period):
            key = time >= next_key * _KEY_PERIOD_US and next_key < key_frames
            next_key += key
            stamp = start + 1000 * c + time
            name = f"n015-2018-07-24-11-{scene // 13:02d}-45+0800__{channel}__{stamp}.{SUFFIX[modality]}"
            yield row, channel, stamp, key, f"{'samples' if key else 'sweeps'}/{channel}/{name}"
            row += 1


def _instances(scene: int) -> Iterator[str]:
    for o in range(OBJECTS):
        category = _token(5, 0, o % len(CLASS_OF_CATEGORY))
        yield f'{{\n"token": "{_token(4, scene, o)}",\n"category_token": "{category}"\n}}'


def _samples(scene: int, n: int) -> Iterator[str]:
    for i in range(n):
        prev, following = (_token(1, scene, i - 1) if i else ""), (_token(1, scene, i + 1) if i < n - 1 else "")
        stamp = _START_US + scene * 60_000_000 + i * _KEY_PERIOD_US
        yield (
            f'{{\n"token": "{_token(1, scene, i)}",\n"timestamp": {stamp},\n'
            f'"prev": "{prev}",\n"next": "{following}",\n"scene_token": "{_token(0, scene, 0)}"\n}}'
        )


def _poses(scene: int, n: int, rng: np.random.Generator) -> Iterator[str]:
    numbers = rng.normal(size=(len(PERIOD_US) * 2000, 6)).tolist()
    for row, _, stamp, _, _ in _measurements(scene, n):
        q0, q1, q2, q3, x, y = numbers[row]
        yield (
            f'{{\n"token": "{_token(2, scene, row)}",\n"timestamp": {stamp},\n'
            f'"rotation": [\n{q0},\n{q1},\n{q2},\n{q3}\n],\n"translation": [\n{1000 + x},\n{500 + y},\n0.0\n]\n}}'
        )


def _records(scene: int, n: int) -> Iterator[str]:
    channels = list(CHANNELS)
    for row, channel, stamp, key, name in _measurements(scene, n):
        sample = min(n - 1, (stamp - _START_US - scene * 60_000_000) // _KEY_PERIOD_US)
        suffix, token = SUFFIX[CHANNELS[channel]], _token(2, scene, row)
        height, width = (900, 1600) if suffix == "jpg" else (0, 0)
        yield (
            f'{{\n"token": "{token}",\n"sample_token": "{_token(1, scene, sample)}",\n"ego_pose_token": "{token}",\n'
            f'"calibrated_sensor_token": "{_token(3, scene, channels.index(channel))}",\n"timestamp": {stamp},\n'
            f'"fileformat": "{suffix[:3]}",\n"is_key_frame": {"true" if key else "false"},\n"height": {height},\n'
            f'"width": {width},\n"filename": "{name}",\n"prev": "{_token(2, scene, row - 1)}",\n'
            f'"next": "{_token(2, scene, row + 1)}"\n}}'
        )


def _annotations(scene: int, n: int, rng: np.random.Generator) -> Iterator[str]:
    length = min(n, ANNOTATIONS_OF_OBJECT)
    starts = rng.integers(n - length + 1, size=OBJECTS).tolist()
    for o, start in enumerate(starts):
        x, y, width, turn = rng.uniform(0.5, 1, size=4).tolist()
        for i in range(length):
            token = _token(6, scene, o * length + i)
            prev = _token(6, scene, o * length + i - 1) if i else ""
            following = _token(6, scene, o * length + i + 1) if i < length - 1 else ""
            yield (
                f'{{\n"token": "{token}",\n"sample_token": "{_token(1, scene, start + i)}",\n'
                f'"instance_token": "{_token(4, scene, o)}",\n"visibility_token": "{1 + o % 4}",\n'
                f'"attribute_tokens": [\n"{_token(7, 0, o % 8)}"\n],\n'
                f'"translation": [\n{1000 * x + i:.3f},\n{1000 * y:.3f},\n1.064\n],\n'
                f'"size": [\n{2 * width:.3f},\n{4 * width:.3f},\n1.7\n],\n'
                f'"rotation": [\n{turn},\n0.0,\n0.0,\n{1 - turn}\n],\n"prev": "{prev}",\n"next": "{following}",\n'
                f'"num_lidar_pts": {o},\n"num_radar_pts": {o % 5}\n}}'
            )


def _write_descriptions(folder: Path, scenes: int) -> None:
    """The small tables."""
    sensors = [
        {"token": _token(8, 0, c), "channel": channel, "modality": modality}
        for c, (channel, modality) in enumerate(CHANNELS.items())
    ]
    K = [[1266.417203046554, 0.0, 816.2670197447984], [0.0, 1266.417203046554, 491.50706579294757], [0.0, 0.0, 1.0]]
    tables: dict[str, list[dict[str, Any]]] = {
        "sensor": sensors,
        "scene": [
            {"token": _token(0, s, 0), "name": f"scene-{s:04d}", "log_token": _token(9, 0, s // 13), "description": ""}
            for s in range(scenes)
        ],
        "log": [
            {"token": _token(9, 0, i), "vehicle": "n015", "location": "nowhere"} for i in range((scenes - 1) // 13 + 1)
        ],
        "calibrated_sensor": [
            {
                "token": _token(3, s, c),
                "sensor_token": sensor["token"],
                "translation": [1.70079118954, 0.0159456324149, 1.51095763913],
                "rotation": [0.4998015430569128, -0.5030316162024876, 0.4997798114386805, -0.49737083824542755],
                "camera_intrinsic": K if sensor["modality"] == "camera" else [],
            }
            for s in range(scenes)
            for c, sensor in enumerate(sensors)
        ],
        "category": [{"token": _token(5, 0, i), "name": name} for i, name in enumerate(CLASS_OF_CATEGORY)],
        "attribute": [{"token": _token(7, 0, i), "name": f"attribute.{i}"} for i in range(8)],
        "visibility": [{"token": str(i), "level": f"level {i}"} for i in range(1, 5)],
        "map": [],
    }
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
