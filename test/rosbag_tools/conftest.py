"""A data set in nuScenes format, small enough to know by heart: one scene, three sensors, two key frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from crkd_core.data.radar_pcd import radar_pcd_bytes
from crkd_core.data.synthscenes import DriveKey, SynthConfig
from crkd_core.data.synthscenes.writer import write_nuscenes
from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE

START_US = 1_600_000_000_000_000
SPEED = 10.0
YAW_RATE = 0.2
K = [[500.0, 0.0, 32.0], [0.0, 500.0, 24.0], [0.0, 0.0, 1.0]]
# Channel, modality, file type, offset to the key frame (microseconds), period.
SENSORS = [
    ("CAM_FRONT", "camera", "jpg", 5_000, 100_000),
    ("LIDAR_TOP", "lidar", "pcd.bin", 0, 50_000),
    ("RADAR_FRONT", "radar", "pcd", 17_000, 100_000),
]


def vehicle_pose(seconds: float) -> tuple[list[float], list[float]]:
    """Quaternion (w, x, y, z) and translation of a vehicle driving a circle to the left."""
    yaw = 0.5 + YAW_RATE * seconds
    radius = SPEED / YAW_RATE
    translation = [100 + radius * float(np.sin(yaw)), 200 - radius * float(np.cos(yaw)), 0.0]
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))], translation


def write_tiny(root: Path) -> None:
    """Write tables and files below ``root``."""
    tables: dict[str, list[dict[str, Any]]] = {
        "scene": [{"token": "sc", "name": "scene-tiny", "log_token": "lg", "description": "", "nbr_samples": 2}],
        "log": [{"token": "lg", "vehicle": "v", "location": "l"}],
        "sample": [{"token": f"sample{i}", "timestamp": START_US + i * 500_000, "scene_token": "sc"} for i in range(2)],
        "category": [
            {"token": "c0", "name": "vehicle.car"},
            {"token": "c1", "name": "static_object.bicycle_rack"},
        ],
        "attribute": [{"token": "at", "name": "vehicle.moving"}],
        "visibility": [{"token": "4", "level": "v80-100"}],
        "instance": [{"token": "i0", "category_token": "c0"}, {"token": "i1", "category_token": "c1"}],
        "sample_annotation": _annotations(),
        "sensor": [{"token": f"s{c}", "channel": c, "modality": m} for c, m, *_ in SENSORS],
        "calibrated_sensor": [
            {
                "token": f"k{channel}",
                "sensor_token": f"s{channel}",
                "translation": [1.0 + i, 0.1 * i, 1.5],
                "rotation": [0.5, -0.5, 0.5, -0.5] if modality == "camera" else [0.70710678, 0.0, 0.0, -0.70710678],
                "camera_intrinsic": K if modality == "camera" else [],
            }
            for i, (channel, modality, *_) in enumerate(SENSORS)
        ],
        "map": [],
        "sample_data": [],
        "ego_pose": [],
    }
    rng = np.random.default_rng(0)
    for channel, modality, suffix, offset, period in SENSORS:
        for us in range(offset, 600_000, period):
            key = (us - offset) % 500_000 == 0
            name = f"{'samples' if key else 'sweeps'}/{channel}/{channel}__{START_US + us}.{suffix}"
            token = f"{channel}{us}"
            rotation, translation = vehicle_pose(us * 1e-6)
            tables["ego_pose"].append(
                {"token": token, "timestamp": START_US + us, "rotation": rotation, "translation": translation}
            )
            tables["sample_data"].append(
                {
                    "token": token,
                    "sample_token": f"sample{int(us >= 250_000)}",
                    "ego_pose_token": token,
                    "calibrated_sensor_token": f"k{channel}",
                    "timestamp": START_US + us,
                    "is_key_frame": key,
                    "filename": name,
                    "width": 64 if modality == "camera" else 0,
                    "height": 48 if modality == "camera" else 0,
                }
            )
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(_content(modality, rng))
    (root / "v1.0-mini").mkdir()
    for table, rows in tables.items():
        (root / "v1.0-mini" / f"{table}.json").write_text(json.dumps(rows))


def _annotations() -> list[dict[str, Any]]:
    common = {"rotation": [1.0, 0.0, 0.0, 0.0], "visibility_token": "4", "prev": "", "next": ""}
    car = {
        **common,
        "instance_token": "i0",
        "size": [1.9, 4.5, 1.6],
        "attribute_tokens": ["at"],
        "num_lidar_pts": 12,
        "num_radar_pts": 3,
    }
    rack = {
        **common,
        "token": "rack0",
        "sample_token": "sample0",
        "instance_token": "i1",
        "translation": [90.0, 200.0, 1.0],
        "size": [2.0, 6.0, 1.2],
        "attribute_tokens": [],
        "num_lidar_pts": 1,
        "num_radar_pts": 0,
    }
    return [
        {**car, "token": "car0", "sample_token": "sample0", "translation": [130.0, 170.0, 0.8], "next": "car1"},
        {**car, "token": "car1", "sample_token": "sample1", "translation": [132.0, 170.0, 0.8], "prev": "car0"},
        rack,
    ]


def _content(modality: str, rng: np.random.Generator) -> bytes:
    if modality == "camera":
        return cv2.imencode(".jpg", rng.integers(0, 256, size=(48, 64, 3), dtype=np.uint8))[1].tobytes()
    if modality == "lidar":
        points = np.zeros(50, dtype=LIDAR_DTYPE)
        points["x"], points["ring"] = rng.normal(size=50), np.arange(50) % 32
        return points.tobytes()
    radar = np.zeros(int(rng.integers(1, 20)), dtype=RADAR_DTYPE)
    radar["x"], radar["rcs"], radar["vx_rms"] = rng.normal(size=len(radar)), 7.5, 3
    return radar_pcd_bytes(radar)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The root of the tiny data set, version ``v1.0-mini``, scene ``scene-tiny``."""
    root = tmp_path / "tiny"
    write_tiny(root)
    return root


@pytest.fixture(scope="session")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a simulated drive of a second with all its sweeps, version ``v1.0-mini``; not to be changed."""
    root = tmp_path_factory.mktemp("synth") / "root"
    drive = DriveKey(3, SynthConfig(image_width=160), duration_s=1.1)
    write_nuscenes(root, [drive], version="v1.0-mini", progress=False)
    return root
