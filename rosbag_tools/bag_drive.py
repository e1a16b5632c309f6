"""One bag as files of a nuScenes-format data set, and what its tables are made of."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from tqdm import tqdm

from crkd_core.cli import UserError
from crkd_core.data.nuscenes import REFERENCE_CHANNEL
from crkd_core.data.radar_pcd import radar_pcd_bytes
from crkd_core.data.synthscenes.tables import token
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.types import LIDAR_DTYPE, FloatArray
from crkd_ros import topics
from crkd_ros.cdr import header_stamp
from crkd_ros.conversions import (
    ConversionError,
    SampleAnnotation,
    SceneDescription,
    annotation_of,
    image_of,
    points_of,
    radar_points_of,
    scene_of,
    stamp_of,
)
from rosbag_tools.bag_tables import Drive, KeyFrame, SensorTrack, default_description, file_name
from rosbag_tools.bags import Bag, listed
from rosbag_tools.can_bus import FOLDER as CAN_FOLDER
from rosbag_tools.can_bus import can_rows
from rosbag_tools.map_image import crop_of, mask_png
from rosbag_tools.moments import CLOUD_TYPE, Camera, sensors_of
from rosbag_tools.recorded import VehiclePoses, mounting, mountings, vehicle_poses

NEAR = 100 * MILLISECOND
"""A measurement farther from a key frame does not belong to it."""
SAME_WORLD = 1e-3
"""Annotations and poses may differ by this much at a key frame, m."""
JPEG_QUALITY = 95
"""Of images that were recorded raw, or that had to be rectified."""


class ToNuScenesError(UserError):
    """A bag that cannot become a data set; says what is missing."""


@dataclass(frozen=True)
class WayBack:
    """How a bag becomes a scene.

    Attributes:
        name: of the scene; None: what the bag says, else the bag's own.
        reference: sensor (frame name, such as ``cam_front``) whose measurements make key frames; None: the annotations
            of the bag, else its LiDAR, else its first camera.
        rate: key frames per second, where a sensor makes them.
        T_base_from_bev: the BEV frame's mounting, where the bag has no LiDAR and no such frame.
        channels: frame name of a sensor -> its name in the tables; others get their frame's name in capitals.
        vehicle: which vehicle it was.
        location: where it was.
    """

    name: str | None = None
    reference: str | None = None
    rate: float = 2.0
    T_base_from_bev: FloatArray | None = None
    channels: dict[str, str] = field(default_factory=dict)
    vehicle: str = ""
    location: str = ""


@dataclass(frozen=True)
class Source:
    """A sensor of a bag."""

    channel: str
    modality: str
    topic: str
    T_base_from_sensor: FloatArray
    camera: Camera | None = None


@dataclass
class Written:
    """What was made of a bag.

    Attributes:
        name: of the scene.
        files: sensor -> number of files.
        key_frames: samples.
        annotations: boxes in them.
        without_pose: measurements left out because the vehicle's pose is not known at their time.
        damaged: messages that could not be used, by topic.
    """

    name: str
    files: Counter[str] = field(default_factory=Counter)
    key_frames: int = 0
    annotations: int = 0
    without_pose: int = 0
    damaged: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """In a few lines."""
        files = f"{sum(self.files.values())} files of {len(self.files)} sensors"
        lines = [f"{self.name}: {self.key_frames} key frames, {self.annotations} annotations, {files}"]
        if self.without_pose:
            lines.append(f"  left out: {self.without_pose} measurements at times without a pose of the vehicle")
        lines += [f"  {topic}: {count} messages could not be used" for topic, count in sorted(self.damaged.items())]
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- the sensors


def sources_of(bag: Bag, way: WayBack) -> list[Source]:
    """The cameras, radars and the LiDAR of a bag.

    Raises:
        RecordingError: neither a camera nor a radar.
        ToNuScenesError: two sensors of one name, or several LiDARs.
    """
    found = sensors_of(bag)

    def channel(name: str) -> str:
        return way.channels.get(name, name.upper())

    sources = [Source(channel(c.name), "camera", c.topic, c.T_base_from_cam, c) for c in found.cameras.values()]
    sources += [Source(channel(r.name), "radar", r.topic, r.T_base_from_radar) for r in found.radars.values()]
    lidars = _lidars(bag, exclude={source.topic for source in sources})
    if len(lidars) > 1:
        named = {frame: found for frame, found in lidars.items() if way.channels.get(frame) == REFERENCE_CHANNEL}
        if len(named) != 1:
            raise ToNuScenesError(
                f"bag {bag.path}: several LiDARs, the tables take one; say which by --channel FRAME={REFERENCE_CHANNEL}"
                f" (frames {listed([*lidars])})"
            )
        lidars = named
    sources += [Source(REFERENCE_CHANNEL, "lidar", topic, T) for topic, T in lidars.values()]
    names = Counter(source.channel for source in sources)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ToNuScenesError(f"bag {bag.path}: several sensors named {twice[0]}; rename one by --channel NAME=CHANNEL")
    return sorted(sources, key=lambda source: source.channel)


def _lidars(bag: Bag, *, exclude: set[str]) -> dict[str, tuple[str, FloatArray]]:
    """Clouds of plain points from mounted sensors: frame -> topic and mounting."""
    edges, found = mountings(bag), {}
    for topic, content in bag.topics.items():
        if content.type != CLOUD_TYPE or topic in exclude or not content.count:
            continue
        first = next(bag.messages([topic])).message
        names, frame = {field.name for field in first.fields}, first.header.frame_id
        T = mounting(edges, frame)
        # Velocities of boxes are clouds, too, in the vehicle's frame.
        if {"x", "y", "z"} <= names and "vx" not in names and T is not None and frame != topics.BASE_FRAME:
            found[frame] = (topic, T)
    return found


# ----------------------------------------------------------------------------------------------------- the key frames


def annotated_key_frames(annotations: Sequence[SampleAnnotation]) -> list[KeyFrame]:
    """The key frames that annotations speak of."""
    return [
        KeyFrame(a.sample_token, a.stamp, dict(a.key_frames) or {REFERENCE_CHANNEL: a.stamp}, a.objects)
        for a in sorted(annotations, key=lambda a: a.stamp)
    ]


def chosen_key_frames(stamps: dict[str, list[int]], reference: str, *, rate: float, scene: str) -> list[KeyFrame]:
    """Key frames at a rate, from the measurements of one sensor; of every other sensor the nearest within ``NEAR``.

    Args:
        stamps: channel -> stamps, ns, ascending.
        reference: the channel.
        rate: Hz.
        scene: token of the scene.
    """
    grid = np.array(stamps[reference])
    steps = np.arange(grid[0], grid[-1] + 1, SECOND / rate)
    before = np.clip(np.searchsorted(grid, steps) - 1, 0, None)
    after = np.clip(before + 1, None, len(grid) - 1)
    chosen = np.unique(np.where(steps - grid[before] <= grid[after] - steps, grid[before], grid[after])).tolist()
    frames = []
    for stamp in chosen:
        keys = {REFERENCE_CHANNEL: stamp}
        for channel, times in stamps.items():
            near = nearest(times, stamp)
            if near is not None and abs(near - stamp) <= NEAR:
                keys[channel] = near
        frames.append(KeyFrame(token("sample", scene, stamp), stamp, keys))
    return frames


def nearest(stamps: Sequence[int], stamp: int) -> int | None:
    """The one of ascending stamps that is nearest to another; None of none."""
    after = bisect_left(stamps, stamp)
    return min(stamps[max(0, after - 1) : after + 1], key=lambda t: abs(t - stamp), default=None)


def _annotations(bag: Bag) -> list[SampleAnnotation]:
    found = {}
    for topic in (topics.ANNOTATIONS, topics.UNRECORDED_ANNOTATIONS):
        if bag.has(topic):
            for recorded in bag.messages([topic]):
                annotation = annotation_of(recorded.message, source=f"bag {bag.path}: {topic}")
                found[annotation.sample_token] = annotation
    return list(found.values())


# ----------------------------------------------------------------------------------------------------------- one bag


def write_drive(bag: Bag, root: Path, way: WayBack, *, progress: bool = False) -> tuple[Drive, Written]:
    """Write a bag's files below ``root``; the rows of its tables come back.

    Raises:
        RecordingError: no sensor, or no pose of the vehicle.
        ToNuScenesError: no key frame, or no BEV frame.
        BagError, ConversionError: a damaged bag or message.
    """
    sources, poses = sources_of(bag, way), vehicle_poses(bag)
    stamps = {s.channel: sorted({header_stamp(d) for _, _, d in bag.raw_messages([s.topic])}) for s in sources}
    before = sum(map(len, stamps.values()))
    stamps = {channel: [t for t in times if poses.at(t) is not None] for channel, times in stamps.items()}
    description = _description(bag, way)
    written = Written(description.scene["name"], without_pose=before - sum(map(len, stamps.values())))
    frames = _key_frames(bag, way, stamps, poses, description)
    tracks = {s.channel: _track_of(s) for s in sources}
    if REFERENCE_CHANNEL not in tracks:
        tracks[REFERENCE_CHANNEL] = _virtual_lidar(bag, way)
    keys = {channel: {frame.keys.get(channel) for frame in frames} for channel in tracks}
    _write_files(bag, root, sources, stamps, keys, tracks, description, written, progress=progress)
    _add_references(root, frames, tracks[REFERENCE_CHANNEL], poses, bag, description)
    for track in tracks.values():
        track.poses.update({t: T for t in track.files if t not in track.poses and (T := poses.at(t)) is not None})
    kept = [replace(f, keys={c: t for c, t in f.keys.items() if c in tracks and t in tracks[c].files}) for f in frames]
    written.key_frames, written.annotations = len(kept), sum(len(frame.objects) for frame in kept)
    for name, rows in can_rows(bag).items():
        write_file(root / CAN_FOLDER / f"{description.scene['name']}_{name}.json", msgspec.json.encode(rows))
    description = _with_map(bag, root, description)
    return Drive(description, tuple(track for _, track in sorted(tracks.items())), tuple(kept)), written


def _description(bag: Bag, way: WayBack) -> SceneDescription:
    if bag.has(topics.SCENE):
        found = scene_of(next(bag.messages([topics.SCENE])).message, source=f"bag {bag.path}: {topics.SCENE}")
        return found if way.name is None else msgspec.structs.replace(found, scene={**found.scene, "name": way.name})
    date = datetime.fromtimestamp(bag.start / 1e9, tz=timezone.utc).date().isoformat()
    name = way.name or bag.path.stem
    return default_description(name, date=date, vehicle=way.vehicle, location=way.location)


def _key_frames(
    bag: Bag, way: WayBack, stamps: dict[str, list[int]], poses: VehiclePoses, description: SceneDescription
) -> list[KeyFrame]:
    annotations = _annotations(bag) if way.reference is None else []
    if annotations:
        _check_world(bag, annotations, poses)
        return annotated_key_frames(annotations)
    if way.reference is not None:
        reference = way.channels.get(way.reference, way.reference.upper())
        if reference not in stamps:
            raise ToNuScenesError(f"--reference {way.reference}: no such sensor; expected one of {listed([*stamps])}")
    else:
        cameras = [channel for channel in ("CAM_FRONT", *stamps) if channel in stamps]
        reference = REFERENCE_CHANNEL if REFERENCE_CHANNEL in stamps else cameras[0]
    if not stamps[reference]:
        raise ToNuScenesError(f"bag {bag.path}: {reference}: no message at a time at which the vehicle's pose is known")
    return chosen_key_frames(stamps, reference, rate=way.rate, scene=description.scene["token"])


def _check_world(bag: Bag, annotations: Sequence[SampleAnnotation], poses: VehiclePoses) -> None:
    for annotation in annotations:
        T = poses.at(annotation.stamp)
        if T is not None and np.abs(T - annotation.pose).max() > SAME_WORLD:
            raise ToNuScenesError(
                f"bag {bag.path}: annotations and poses are not in one frame: the vehicle is at {T[:3, 3].round(2)} by "
                f"{topics.TF}, at {annotation.pose[:3, 3].round(2)} by {topics.ANNOTATIONS}"
            )


def _track_of(source: Source) -> SensorTrack:
    model = source.camera.model if source.camera is not None else None
    return SensorTrack(
        channel=source.channel,
        modality=source.modality,
        T_base_from_sensor=source.T_base_from_sensor,
        intrinsics=None if model is None else model.intrinsics,
        image_size=(0, 0) if model is None else (model.width, model.height),
        files={},
        poses={},
    )


def _virtual_lidar(bag: Bag, way: WayBack) -> SensorTrack:
    """The reference of a vehicle without a LiDAR: only its frame counts."""
    T = way.T_base_from_bev if way.T_base_from_bev is not None else mounting(mountings(bag), topics.BEV_FRAME)
    if T is None:
        raise ToNuScenesError(
            f"bag {bag.path}: no LiDAR, and no frame '{topics.BEV_FRAME}' on {topics.TF_STATIC}; say by "
            "--bev X Y Z YAW where the BEV frame (x right, y forward) is, nuScenes has it at 0.94 0 1.84 -90"
        )
    return SensorTrack(REFERENCE_CHANNEL, "lidar", T, None, (0, 0), {}, {})


def _write_files(
    bag: Bag,
    root: Path,
    sources: Sequence[Source],
    stamps: dict[str, list[int]],
    keys: dict[str, set[int | None]],
    tracks: dict[str, SensorTrack],
    description: SceneDescription,
    written: Written,
    *,
    progress: bool,
) -> None:
    by_topic, wanted = {s.topic: s for s in sources}, {channel: set(times) for channel, times in stamps.items()}
    total = sum(bag.topics[topic].count for topic in by_topic)
    for recorded in tqdm(bag.messages(by_topic), total=total, unit="msg", desc=written.name, disable=not progress):
        source, message = by_topic[recorded.topic], recorded.message
        stamp = stamp_of(message.header.stamp)
        track = tracks[source.channel]
        if stamp not in wanted[source.channel] or stamp in track.files:
            continue
        try:
            content, suffix = _content(source, message)
        except ConversionError:
            written.damaged[recorded.topic] += 1
            continue
        path = file_name(description, source.channel, stamp, suffix, key=stamp in keys[source.channel])
        write_file(root / path, content)
        track.files[stamp] = path
        written.files[source.channel] += 1


def _content(source: Source, message: Any) -> tuple[bytes, str]:
    """A measurement as a file of the data set, and its kind."""
    if source.modality == "radar":
        return radar_pcd_bytes(np.asarray(radar_points_of(message, source=source.topic))), "pcd"
    if source.modality == "lidar":
        return _lidar_bytes(message, source.topic), "pcd.bin"
    assert source.camera is not None
    image = image_of(message, source=source.topic)
    distortion = source.camera.model.distortion
    if isinstance(image, bytes) and distortion is None:
        return image, "jpg" if image.startswith(b"\xff\xd8") else "png"
    pixels = image if not isinstance(image, bytes) else cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ConversionError(f"{source.topic}: not a JPEG or PNG image, or damaged")
    bgr = pixels if isinstance(image, bytes) else np.ascontiguousarray(pixels[..., ::-1])
    if distortion is not None:
        bgr = cv2.undistort(bgr, source.camera.model.intrinsics, distortion)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "cv2 encodes every BGR picture"
    return encoded.tobytes(), "jpg"


def _lidar_bytes(message: Any, topic: str) -> bytes:
    found = points_of(message, source=topic)
    points = np.zeros(len(found), dtype=LIDAR_DTYPE)
    for name in LIDAR_DTYPE.names or ():
        if name in (found.dtype.names or ()):
            points[name] = found[name]
    return points.tobytes()


def _add_references(
    root: Path,
    frames: Sequence[KeyFrame],
    track: SensorTrack,
    poses: VehiclePoses,
    bag: Bag,
    description: SceneDescription,
) -> None:
    """A reference record for each key frame that has none: the metric and the index take the vehicle's pose from it.

    Without a LiDAR its file is there and empty; of a key frame that was not recorded, there is no file.
    """
    annotated = {a.stamp: a.pose for a in _annotations(bag)}
    has_lidar = bool(track.files)
    for frame in frames:
        stamp = frame.keys.setdefault(REFERENCE_CHANNEL, frame.stamp)
        if stamp in track.files:
            continue
        pose = annotated[frame.stamp] if frame.stamp in annotated else poses.at(stamp)
        assert pose is not None, "key frames are chosen where there is a pose"
        path = file_name(description, REFERENCE_CHANNEL, stamp, "pcd.bin", key=True)
        track.files[stamp], track.poses[stamp] = path, pose
        if not has_lidar and poses.at(stamp) is not None:
            write_file(root / path, b"")


def _with_map(bag: Bag, root: Path, description: SceneDescription) -> SceneDescription:
    """The devkit wants a map for each log: the recorded one, or one that says nothing."""
    row = description.map or {"token": f"map-{description.log['token']}", "category": "semantic_prior", "filename": ""}
    row = {**row, "filename": row.get("filename") or f"maps/{row['token']}.png"}
    path = root / row["filename"]
    if not path.exists():
        grid = (
            next((recorded.message for recorded in bag.messages([topics.MAP])), None) if bag.has(topics.MAP) else None
        )
        write_file(path, mask_png(None if grid is None else crop_of(grid)))
    return msgspec.structs.replace(description, map=row)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
