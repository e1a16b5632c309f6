"""The thirteen nuScenes tables of recorded drives, as plain rows ready for JSON."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY
from crkd_core.data.synthscenes.tables import TABLE_NAMES, Tables, token
from crkd_core.geometry.transforms import quaternion_from_rotation
from crkd_core.types import FloatArray
from crkd_ros.conversions import ObjectAnnotation, SceneDescription
from crkd_ros.conversions.scenes import Row
from rosbag_tools.recorded import RecordingError

ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
VISIBILITIES = {"1": "v0-40", "2": "v40-60", "3": "v60-80", "4": "v80-100"}


@dataclass(frozen=True)
class SensorTrack:
    """One sensor of a drive and the files made of its messages.

    Attributes:
        channel: name in the tables.
        modality: camera, radar or lidar.
        T_base_from_sensor: (4, 4).
        intrinsics: (3, 3) of a camera.
        image_size: (width, height) of a camera.
        files: stamp (ns) -> path below the data root.
        poses: stamp -> ``T_world_from_base``.
    """

    channel: str
    modality: str
    T_base_from_sensor: FloatArray
    intrinsics: FloatArray | None
    image_size: tuple[int, int]
    files: dict[int, str]
    poses: dict[int, FloatArray]


@dataclass(frozen=True)
class KeyFrame:
    """One sample.

    Attributes:
        token: its name.
        stamp: ns.
        keys: channel -> stamp of the measurement that belongs to it.
        objects: annotated in it; in the world of the poses.
    """

    token: str
    stamp: int
    keys: dict[str, int]
    objects: tuple[ObjectAnnotation, ...] = ()


@dataclass(frozen=True)
class Drive:
    """A recorded drive, ready for the tables.

    Attributes:
        description: what is known of it as a whole.
        tracks: its sensors.
        key_frames: in order of time.
    """

    description: SceneDescription
    tracks: tuple[SensorTrack, ...]
    key_frames: tuple[KeyFrame, ...]


def default_description(name: str, *, date: str, vehicle: str = "", location: str = "") -> SceneDescription:
    """What the tables say of a drive whose bag says nothing: its name, and nuScenes' own categories and attributes."""
    log = token("log", name, date)
    return SceneDescription(
        scene={"token": token("scene", name, date), "name": name, "description": "", "log_token": log},
        log={"token": log, "logfile": name, "vehicle": vehicle, "date_captured": date, "location": location},
        map={"token": token("map", name, date), "category": "semantic_prior", "filename": ""},
        sensors={},
        categories=tuple({"token": token("category", c), "name": c, "description": ""} for c in CLASS_OF_CATEGORY),
        attributes=tuple({"token": token("attribute", a), "name": a, "description": ""} for a in ATTRIBUTES),
        visibilities=tuple({"token": t, "level": level, "description": ""} for t, level in VISIBILITIES.items()),
    )


def file_name(description: SceneDescription, channel: str, stamp: int, suffix: str, *, key: bool) -> str:
    """Path of a measurement below the data root, as nuScenes names it."""
    log = description.log.get("logfile") or description.scene["name"]
    return f"{'samples' if key else 'sweeps'}/{channel}/{log}__{channel}__{stamp // 1000}.{suffix}"


def tables_of(drives: Sequence[Drive]) -> Tables:
    """All rows of all tables.

    Raises:
        RecordingError: two drives of one name, or an object of a category or attribute that is not described.
    """
    names = [drive.description.scene["name"] for drive in drives]
    if len(set(names)) < len(names):
        raise RecordingError(f"scenes: expected different names, got {', '.join(sorted(names))}; name them by --name")
    tables: Tables = {name: [] for name in TABLE_NAMES}
    for drive in drives:
        description = drive.description
        _merge(tables["log"], [description.log])
        _merge(tables["category"], description.categories)
        _merge(tables["attribute"], description.attributes)
        _merge(tables["visibility"], description.visibilities)
        _merge(
            tables["sensor"],
            [{"token": token("sensor", t.channel), "channel": t.channel, "modality": t.modality} for t in drive.tracks],
        )
        _merge_map(tables["map"], description)
        tables["scene"].append(_scene_row(drive))
        tables["sample"] += _linked(
            [
                {"token": k.token, "timestamp": k.stamp // 1000, "scene_token": description.scene["token"]}
                for k in drive.key_frames
            ]
        )
        for track in drive.tracks:
            _add_track(tables, drive, track)
        _add_annotations(tables, drive)
    return tables


def _merge(rows: list[Row], more: Iterable[Row]) -> None:
    known = {row["token"] for row in rows}
    rows += [row for row in more if row["token"] not in known]


def _merge_map(rows: list[Row], description: SceneDescription) -> None:
    row = next((row for row in rows if row["token"] == description.map["token"]), None)
    if row is None:
        rows.append({**description.map, "log_tokens": [description.log["token"]]})
    elif description.log["token"] not in row["log_tokens"]:
        row["log_tokens"].append(description.log["token"])


def _scene_row(drive: Drive) -> Row:
    ends = {
        "nbr_samples": len(drive.key_frames),
        "first_sample_token": drive.key_frames[0].token,
        "last_sample_token": drive.key_frames[-1].token,
    }
    return {**drive.description.scene, **ends}


def _add_track(tables: Tables, drive: Drive, track: SensorTrack) -> None:
    scene = drive.description.scene["token"]
    mounting = token("calibrated_sensor", scene, track.channel)
    T = track.T_base_from_sensor
    tables["calibrated_sensor"].append(
        {
            "token": mounting,
            "sensor_token": token("sensor", track.channel),
            "translation": T[:3, 3].tolist(),
            "rotation": quaternion_from_rotation(T[:3, :3]).tolist(),
            "camera_intrinsic": [] if track.intrinsics is None else track.intrinsics.tolist(),
        }
    )
    key_of = {frame.keys[track.channel]: frame for frame in drive.key_frames if track.channel in frame.keys}
    middles = [(a.stamp + b.stamp) // 2 for a, b in itertools.pairwise(drive.key_frames)]
    rows = []
    for stamp, path in sorted(track.files.items()):
        name, pose = token("sample_data", scene, track.channel, stamp), track.poses[stamp]
        tables["ego_pose"].append(
            {
                "token": name,
                "timestamp": stamp // 1000,
                "translation": pose[:3, 3].tolist(),
                "rotation": quaternion_from_rotation(pose[:3, :3]).tolist(),
            }
        )
        sample = key_of.get(stamp) or drive.key_frames[bisect_right(middles, stamp)]
        rows.append(
            {
                "token": name,
                "sample_token": sample.token,
                "ego_pose_token": name,
                "calibrated_sensor_token": mounting,
                "timestamp": stamp // 1000,
                "is_key_frame": stamp in key_of,
                "fileformat": path.rpartition(".")[2] if track.modality == "camera" else "pcd",
                "filename": path,
                "width": track.image_size[0],
                "height": track.image_size[1],
            }
        )
    tables["sample_data"] += _linked(rows)


def _add_annotations(tables: Tables, drive: Drive) -> None:
    description = drive.description
    categories = {row["name"]: row["token"] for row in description.categories}
    attributes = {row["name"]: row["token"] for row in description.attributes}
    visibilities = {row["level"]: row["token"] for row in description.visibilities} | {"": ""}
    chains: dict[str, list[Row]] = defaultdict(list)
    category_of: dict[str, str] = {}
    for frame in drive.key_frames:
        for thing in frame.objects:
            try:
                category_of[thing.instance_token] = categories[thing.category]
                attribute_tokens = [attributes[name] for name in thing.attributes]
                visibility = visibilities[thing.visibility]
            except KeyError as error:
                raise RecordingError(
                    f"{description.scene['name']}: annotation {thing.token}: {error} is not among the categories, "
                    "attributes and visibilities of its scene"
                ) from None
            chains[thing.instance_token].append(
                {
                    "token": thing.token,
                    "sample_token": frame.token,
                    "instance_token": thing.instance_token,
                    "visibility_token": visibility,
                    "attribute_tokens": attribute_tokens,
                    "translation": list(thing.translation),
                    "size": list(thing.size),
                    "rotation": list(thing.rotation),
                    "num_lidar_pts": thing.num_lidar_pts,
                    "num_radar_pts": thing.num_radar_pts,
                }
            )
    linked = {row["token"]: row for chain in chains.values() for row in _linked(chain)}
    # In the order of the key frames, as they were annotated.
    tables["sample_annotation"] += [linked[thing.token] for frame in drive.key_frames for thing in frame.objects]
    for instance, chain in chains.items():
        tables["instance"].append(
            {
                "token": instance,
                "category_token": category_of[instance],
                "nbr_annotations": len(chain),
                "first_annotation_token": chain[0]["token"],
                "last_annotation_token": chain[-1]["token"],
            }
        )


def _linked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with ``prev`` and ``next`` along the chain, empty at its ends."""
    tokens = ["", *(row["token"] for row in rows), ""]
    return [{**row, "prev": tokens[i], "next": tokens[i + 2]} for i, row in enumerate(rows)]
