"""A tiny data set in nuScenes format: two scenes, three sensors, a vehicle that drives and turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from crkd_core.data.radar_pcd import radar_pcd_bytes
from crkd_core.types import RADAR_DTYPE

VERSION = "v1.0-tiny"
PERIOD_US = {"CAM_FRONT": 100_000, "RADAR_FRONT": 75_000, "LIDAR_TOP": 50_000}
MODALITY = {"CAM_FRONT": "camera", "RADAR_FRONT": "radar", "LIDAR_TOP": "lidar"}
START_US = 1_600_000_000_000_000
KEY_PERIOD_US = 500_000


class TinySet:
    """Writes the data set and lets a test damage it.

    Attributes:
        root: data root.
        tables: the rows written, by table.
    """

    version = VERSION

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
        self._add_descriptions()
        self._add_scene("scene-0001", START_US, samples=3)
        self._add_scene("scene-0002", START_US + 60_000_000, samples=1)
        self._add_objects()
        for name in self.tables:
            self.write(name)

    def write(self, table: str) -> None:
        """Write one table from ``tables``."""
        path = self.root / self.version / f"{table}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.tables[table], indent=1))

    def files(self, channel: str, *, key: bool) -> list[Path]:
        """The files of one sensor, oldest first."""
        rows = [r for r in self.tables["sample_data"] if f"/{channel}/" in r["filename"] and r["is_key_frame"] == key]
        return [self.root / r["filename"] for r in sorted(rows, key=lambda r: r["timestamp"])]

    def _add_descriptions(self) -> None:
        names = ["vehicle.car", "animal", "human.pedestrian.adult", "movable_object.trafficcone"]
        self.tables["category"] = [{"token": f"category-{n}", "name": n, "description": ""} for n in names]
        attributes = ["vehicle.moving", "vehicle.parked"]
        self.tables["attribute"] = [{"token": f"attribute-{n}", "name": n} for n in attributes]
        self.tables["visibility"] = [{"token": "4", "level": "v80-100"}]
        self.tables["log"] = [{"token": "log", "vehicle": "n000", "location": "nowhere"}]
        self.tables["map"] = [{"token": "map", "log_tokens": ["log"], "category": "", "filename": ""}]
        for channel, modality in MODALITY.items():
            K = [[100.0, 0.0, 80.0], [0.0, 100.0, 45.0], [0.0, 0.0, 1.0]]
            self.tables["sensor"].append({"token": f"sensor-{channel}", "channel": channel, "modality": modality})
            self.tables["calibrated_sensor"].append(
                {
                    "token": f"calibration-{channel}",
                    "sensor_token": f"sensor-{channel}",
                    "translation": [1, 0.0, 1.5],
                    # LIDAR_TOP: x right, y forward, as in nuScenes.
                    "rotation": [2**-0.5, 0.0, 0.0, -(2**-0.5)] if modality == "lidar" else [1.0, 0.0, 0.0, 0.0],
                    "camera_intrinsic": K if modality == "camera" else [],
                }
            )

    def _add_scene(self, name: str, start: int, *, samples: int) -> None:
        self.tables["scene"].append({"token": name, "name": name, "description": "", "log_token": "log"})
        tokens = [f"{name}-{i}" for i in range(samples)]
        # Newest first in the table: the index must not rely on its order.
        for i in reversed(range(samples)):
            stamp = start + i * KEY_PERIOD_US
            self.tables["sample"].append({"token": tokens[i], "timestamp": stamp, "scene_token": name})
        for channel, period in PERIOD_US.items():
            for step in range((samples - 1) * KEY_PERIOD_US // period + 1):
                self._add_record(channel, tokens, start, step * period)
            for i in range(1, samples):
                if i * KEY_PERIOD_US % period:
                    self._add_record(channel, tokens, start, i * KEY_PERIOD_US)

    def _add_record(self, channel: str, tokens: list[str], start: int, offset: int) -> None:
        key = offset % KEY_PERIOD_US == 0
        stamp, seconds = start + offset, 1e-6 * offset
        suffix = {"camera": "jpg", "radar": "pcd", "lidar": "pcd.bin"}[MODALITY[channel]]
        filename = f"{'samples' if key else 'sweeps'}/{channel}/{channel}_{stamp}.{suffix}"
        token = f"{channel}-{stamp}"
        yaw = 0.2 * seconds
        self.tables["ego_pose"].append(
            {
                "token": token,
                "timestamp": stamp,
                "translation": [100 + 10 * seconds, 50.0, 0.0],
                "rotation": [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)],
            }
        )
        self.tables["sample_data"].insert(
            0,
            {
                "token": token,
                "sample_token": tokens[offset // KEY_PERIOD_US],
                "ego_pose_token": token,
                "calibrated_sensor_token": f"calibration-{channel}",
                "timestamp": stamp,
                "is_key_frame": key,
                "filename": filename,
                "width": 160 if suffix == "jpg" else 0,
                "height": 90 if suffix == "jpg" else 0,
            },
        )
        path = self.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_measurement(channel, offset))

    def _add_objects(self) -> None:
        """A car in all three samples of the first scene, 2 m/s along x; an animal and a cone in the first one."""
        for kind, count in (("vehicle.car", 3), ("animal", 1), ("movable_object.trafficcone", 1)):
            self.tables["instance"].append({"token": f"object-{kind}", "category_token": f"category-{kind}"})
            for i in range(count):
                self.tables["sample_annotation"].append(
                    {
                        "token": f"{kind}-{i}",
                        "sample_token": f"scene-0001-{i}",
                        "instance_token": f"object-{kind}",
                        "visibility_token": "4",
                        "attribute_tokens": ["attribute-vehicle.parked"] if kind == "vehicle.car" else [],
                        "translation": [120.0 + i, 50.0, 1.0],
                        "size": [2.0, 4.0, 1.5],
                        "rotation": [1, 0, 0, 0],
                        "prev": f"{kind}-{i - 1}" if i > 0 else "",
                        "next": f"{kind}-{i + 1}" if i < count - 1 else "",
                        "num_lidar_pts": 5 if kind == "vehicle.car" else 0,
                        "num_radar_pts": 2 if kind == "vehicle.car" else 0,
                    }
                )


_TABLES = (
    *("attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map"),
    *("sample", "sample_annotation", "sample_data", "scene", "sensor", "visibility"),
)


def _measurement(channel: str, offset: int) -> bytes:
    if MODALITY[channel] == "camera":
        shade = np.full((90, 160, 3), 40 + offset // 10_000 % 200, dtype=np.uint8)
        return bytes(cv2.imencode(".jpg", shade)[1].tobytes())
    if MODALITY[channel] == "lidar":
        return np.arange(10, dtype="<f4").tobytes()
    points = np.zeros(2, dtype=RADAR_DTYPE)
    points["x"], points["vx_comp"], points["rcs"] = [10.0, 20.0], [0.0, 2.0], [1.0, offset * 1e-3]
    return radar_pcd_bytes(points)
