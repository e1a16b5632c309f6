"""The thirteen tables of nuScenes v1.0 for simulated drives, as plain rows ready for JSON."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from datetime import datetime, timezone
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.config import (
    SynthConfig,
    camera_intrinsics,
    camera_mounting,
    lidar_mounting,
    radar_mounting,
)
from crkd_core.data.synthscenes.frames import (
    annotated,
    camera_stamps,
    keyframe_stamps,
    lidar_stamps,
    radar_history,
    radar_points_in_boxes,
    radar_stamps,
    visibility,
)
from crkd_core.data.synthscenes.lidar import scan
from crkd_core.data.synthscenes.world import Drive
from crkd_core.geometry.transforms import quaternion_from_rotation
from crkd_core.types import DETECTION_CLASSES, FloatArray

Tables = dict[str, list[dict[str, Any]]]

TABLE_NAMES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility",
)  # fmt: skip

CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}
_ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
_VISIBILITY = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}
_MOVING = 0.25  # m/s; slower counts as standing


class Event(NamedTuple):
    """One file of the data set: a sensor's measurement at a stamp (ns), and its path below the root."""

    channel: str
    stamp: int
    filename: str
    keyframe: bool


def token(*words: object) -> str:
    """A stable 32-digit token: the md5 digest of a name."""
    return hashlib.md5("/".join(str(w) for w in words).encode(), usedforsecurity=False).hexdigest()


def scene_events(drive: Drive, name: str, *, sweeps: bool, lidar_sweeps: bool) -> dict[str, list[Event]]:
    """Every measurement that is written, by channel, oldest first."""
    keyframes = keyframe_stamps(drive)
    grids: list[tuple[str, str, list[int], list[int], bool]] = []
    for camera in drive.config.cameras:
        lead = round(camera.lead_ms * 1e6)
        grids.append((camera.name, "jpg", camera_stamps(drive, camera), [k - lead for k in keyframes], sweeps))
    grids += [(r.name, "pcd", radar_stamps(drive, r), keyframes, sweeps) for r in drive.config.radars]
    grids.append(("LIDAR_TOP", "pcd.bin", lidar_stamps(drive), keyframes, lidar_sweeps))
    events: dict[str, list[Event]] = {}
    for channel, suffix, stamps, wanted, every in grids:
        grid = np.array(stamps)
        chosen = {int(np.abs(grid - k).argmin()) for k in wanted}
        events[channel] = [
            Event(channel, stamp, _filename(name, channel, stamp, suffix, keyframe=i in chosen), i in chosen)
            for i, stamp in enumerate(stamps)
            if every or i in chosen
        ]
    return events


def _filename(name: str, channel: str, stamp: int, suffix: str, *, keyframe: bool) -> str:
    folder = "samples" if keyframe else "sweeps"
    return f"{folder}/{channel}/{_log_name(name)}__{channel}__{stamp // 1000}.{suffix}"


def _log_name(scene: str) -> str:
    return f"synth-{scene}"


def shared_rows(config: SynthConfig) -> Tables:
    """The tables that all scenes share."""
    channels = [(c.name, "camera") for c in config.cameras] + [(r.name, "radar") for r in config.radars]
    return {
        "category": [{"token": token("category", c), "name": c, "description": ""} for c in CATEGORIES.values()],
        "attribute": [{"token": token("attribute", a), "name": a, "description": ""} for a in _ATTRIBUTES],
        "visibility": [{"token": t, "level": level, "description": ""} for t, level in _VISIBILITY.items()],
        "sensor": [
            {"token": token("sensor", channel), "channel": channel, "modality": modality}
            for channel, modality in [*channels, ("LIDAR_TOP", "lidar")]
        ],
    }


def scene_rows(drive: Drive, name: str, events: dict[str, list[Event]]) -> Tables:
    """The rows of one scene in all other tables."""
    keyframes = keyframe_stamps(drive)
    samples = [token("sample", name, drive.seed, stamp) for stamp in keyframes]
    scene, log = token("scene", name, drive.seed), token("log", name, drive.seed)
    begin = datetime.fromtimestamp(drive.start_ns / 1e9, tz=timezone.utc)
    tables: Tables = {
        "log": [
            {"token": log, "logfile": _log_name(name), "vehicle": "synth", "date_captured": begin.date().isoformat(),
             "location": "synthscenes"}
        ],
        "map": [
            {"token": token("map", name, drive.seed), "category": "semantic_prior", "log_tokens": [log],
             "filename": map_filename(drive, name)}
        ],
        "scene": [
            {"token": scene, "name": name, "log_token": log, "nbr_samples": len(samples),
             "first_sample_token": samples[0], "last_sample_token": samples[-1],
             "description": f"{drive.conditions.describe()}; SynthScenes seed {drive.seed}, configuration "
                            f"{drive.config.config_hash()}"}
        ],
        "sample": [
            {"token": t, "timestamp": stamp // 1000, "scene_token": scene}
            for t, stamp in zip(samples, keyframes, strict=True)
        ],
        "calibrated_sensor": _calibration_rows(drive, name),
    }  # fmt: skip
    _link(tables["sample"])
    tables |= _data_rows(drive, name, events, np.array(keyframes), samples)
    tables |= _annotation_rows(drive, name, keyframes, samples)
    return tables


def map_filename(drive: Drive, name: str) -> str:
    """Where a scene's map mask lies below the root."""
    return f"maps/{token('map', name, drive.seed)}.png"


def _calibration_rows(drive: Drive, name: str) -> list[dict[str, Any]]:
    size = drive.config.image_size()
    mountings: list[tuple[str, FloatArray, list[list[float]]]] = [
        (c.name, camera_mounting(c), camera_intrinsics(c, size).tolist()) for c in drive.config.cameras
    ]
    mountings += [(r.name, radar_mounting(r), []) for r in drive.config.radars]
    mountings.append(("LIDAR_TOP", lidar_mounting(drive.config), []))
    return [
        {"token": token("calibrated_sensor", name, drive.seed, channel), "sensor_token": token("sensor", channel),
         "translation": T[:3, 3].tolist(), "rotation": quaternion_from_rotation(T[:3, :3]).tolist(),
         "camera_intrinsic": K}
        for channel, T, K in mountings
    ]  # fmt: skip


def _data_rows(
    drive: Drive, name: str, events: dict[str, list[Event]], keyframes: NDArray[np.int64], samples: list[str]
) -> Tables:
    poses: list[dict[str, Any]] = []
    data: list[dict[str, Any]] = []
    size = drive.config.image_size()
    cameras = {c.name for c in drive.config.cameras}
    for channel, row_events in events.items():
        rows = []
        for event in row_events:
            key = token("sample_data", name, drive.seed, channel, event.stamp)
            T = drive.ego_pose(event.stamp)
            poses.append(
                {"token": key, "timestamp": event.stamp // 1000, "translation": T[:3, 3].tolist(),
                 "rotation": quaternion_from_rotation(T[:3, :3]).tolist()}
            )  # fmt: skip
            rows.append(
                {"token": key, "sample_token": samples[int(np.abs(keyframes - event.stamp).argmin())],
                 "ego_pose_token": key, "timestamp": event.stamp // 1000, "is_key_frame": event.keyframe,
                 "calibrated_sensor_token": token("calibrated_sensor", name, drive.seed, channel),
                 "fileformat": "jpg" if channel in cameras else "pcd", "filename": event.filename,
                 "width": size.width if channel in cameras else 0, "height": size.height if channel in cameras else 0}
            )  # fmt: skip
        _link(rows)
        data += rows
    return {"ego_pose": poses, "sample_data": data}


def _annotation_rows(drive: Drive, name: str, keyframes: list[int], samples: list[str]) -> Tables:
    chains: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for stamp, sample in zip(keyframes, samples, strict=True):
        boxes, pick = annotated(drive, stamp)
        result = scan(drive, stamp)
        lidar, seen = result.hits()[pick], visibility(result, pick)
        radar = radar_points_in_boxes([s[0] for s in radar_history(drive, stamp, 1).values()], boxes)
        centers, sizes, rotations, velocities = boxes.to_nuscenes()
        for k, actor in enumerate(pick.tolist()):
            attribute = attribute_of(drive, actor, float(np.linalg.norm(velocities[k])))
            chains[actor].append(
                {"token": token("annotation", name, drive.seed, actor, stamp), "sample_token": sample,
                 "instance_token": token("instance", name, drive.seed, actor),
                 "visibility_token": str(1 + int(np.searchsorted([0.4, 0.6, 0.8], seen[k], side="right"))),
                 "attribute_tokens": [token("attribute", attribute)] if attribute else [],
                 "translation": centers[k].tolist(), "size": sizes[k].tolist(), "rotation": rotations[k].tolist(),
                 "num_lidar_pts": int(lidar[k]), "num_radar_pts": int(radar[k])}
            )  # fmt: skip
    instances = []
    for actor, chain in sorted(chains.items()):
        _link(chain)
        category = CATEGORIES[DETECTION_CLASSES[int(drive.labels[actor])]]
        instances.append(
            {"token": chain[0]["instance_token"], "category_token": token("category", category),
             "nbr_annotations": len(chain), "first_annotation_token": chain[0]["token"],
             "last_annotation_token": chain[-1]["token"]}
        )  # fmt: skip
    return {"instance": instances, "sample_annotation": [row for _, c in sorted(chains.items()) for row in c]}


def attribute_of(drive: Drive, actor: int, speed: float) -> str | None:
    """The nuScenes attribute of an actor at a speed in m/s; None for barriers and cones, which have none."""
    name, manned = drive.actors[actor].name, drive.actors[actor].manned
    if name in ("barrier", "traffic_cone"):
        return None
    if name == "pedestrian":
        return "pedestrian.moving" if speed > _MOVING else "pedestrian.standing"
    if name in ("bicycle", "motorcycle"):
        return "cycle.with_rider" if manned else "cycle.without_rider"
    if speed > _MOVING:
        return "vehicle.moving"
    return "vehicle.stopped" if manned or drive.actors[actor].profile else "vehicle.parked"


def _link(rows: list[dict[str, Any]]) -> None:
    """Set ``prev`` and ``next`` along a chain, empty at its ends."""
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""
