"""Which messages a scene of a nuScenes-format data set becomes, in order of time, made when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Qos
from scipy.spatial.transform import Rotation

from crkd_core.data.errors import DataError
from crkd_core.data.images import check_complete
from crkd_core.data.nuscenes import (
    REFERENCE_CHANNEL,
    Calibration,
    NuScenesIndex,
    Sample,
    Scene,
    SensorRecord,
)
from crkd_core.data.radar_pcd import read_lidar_bin, read_radar_pcd
from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE, FloatArray
from crkd_ros import topics
from crkd_ros.conversions import (
    CameraModel,
    annotation_message,
    scene_message,
    tf_message,
    transform_stamped_message,
)
from rosbag_tools.bags import LATCHED, RELIABLE
from rosbag_tools.can_bus import can_streams
from rosbag_tools.map_image import MapCrop, map_message
from rosbag_tools.scene_tables import described
from rosbag_tools.scene_truth import Written, annotation_of_sample, truth_messages
from rosbag_tools.templates import CameraInfoTemplate, CloudTemplate, ImageTemplate, PoseTemplate
from rosbag_tools.typestore import bag_messages, serialised

TWIST_WINDOW = 50_000_000
"""Odometry's twist is the mean over this long before and after a pose, ns. Poses of different sensors lie milliseconds
apart, and a difference over so short a time would magnify their noise."""

Stamps = NDArray[np.int64]

# At one stamp, what a consumer needs first comes first.
STATIC, POSE, MEASUREMENT, TRUTH = range(4)


@dataclass
class ChannelCount:
    """Files of one sensor: written to the bag, absent, and there but unusable."""

    written: int = 0
    missing: int = 0
    damaged: int = 0


@dataclass(frozen=True)
class Stream:
    """Messages of one origin.

    Attributes:
        stamps: ns, of each row.
        rank: order among rows of one stamp.
        make: row -> its messages; raises DataError or ConversionError if a file is damaged.
        channel: the sensor whose files are read, if any are.
    """

    stamps: Stamps
    rank: int
    make: Callable[[int], Written]
    channel: str | None = None


@dataclass(frozen=True)
class ScenePlan:
    """What will be written.

    Attributes:
        topics: name -> message type and QoS.
        streams: where messages come from.
        channels: sensor -> count of files; ``written`` and ``damaged`` are filled in while writing.
        key_frames: annotated key frames.
        key_frames_without_data: key frames none of whose camera and radar files is there.
        bytes: size of the files that will be read.
        missing: the files that are absent.
        present: sensor -> all its files that are there, whether they are written or not.
    """

    topics: dict[str, tuple[str, Qos]]
    streams: list[Stream]
    channels: dict[str, ChannelCount]
    key_frames: int
    key_frames_without_data: int
    bytes: int
    missing: tuple[Path, ...]
    present: dict[str, int]

    @property
    def span(self) -> tuple[int, int]:
        """First and last stamp, ns."""
        return min(int(s.stamps.min()) for s in self.streams), max(int(s.stamps.max()) for s in self.streams)

    def rows(self) -> Iterator[tuple[Stream, int, int]]:
        """(stream, row, stamp in ns) in the order they are written."""
        lengths = [len(stream.stamps) for stream in self.streams]
        origin = np.repeat(np.arange(len(lengths)), lengths)
        row = np.concatenate([np.arange(length) for length in lengths])
        stamps = np.concatenate([stream.stamps for stream in self.streams])
        rank = np.array([stream.rank for stream in self.streams])[origin]
        for i in np.lexsort((row, origin, rank, stamps)):
            yield self.streams[origin[i]], int(row[i]), int(stamps[i])


@dataclass(frozen=True)
class _Track:
    """The records of one sensor that are wanted, and all its poses."""

    channel: str
    modality: str
    calibration: Calibration
    image_size: tuple[int, int]
    stamps: Stamps
    paths: list[Path]
    pose_stamps: Stamps
    poses: FloatArray


@dataclass
class _Builder:
    index: NuScenesIndex
    scene: Scene
    streams: list[Stream] = field(default_factory=list)
    topics: dict[str, tuple[str, Qos]] = field(default_factory=dict)
    missing: list[Path] = field(default_factory=list)

    def topic(self, name: str, msgtype: str, qos: Qos = RELIABLE) -> None:
        self.topics[name] = (msgtype, qos)

    def once(self, stamp: int, make: Callable[[], Written]) -> None:
        """Something that stands at the beginning."""
        self.streams.append(Stream(np.array([stamp]), STATIC, lambda _: make()))


def plan_scene(
    index: NuScenesIndex, name: str, *, keyframes_only: bool = False, map_crop: MapCrop | None = None
) -> ScenePlan:
    """Plan the messages of a scene. Reads no sensor file.

    The bag spans the time in which there are sensor files; poses reach one record beyond at either end.

    Args:
        index: the data set.
        name: of the scene.
        keyframes_only: leave out the sweeps between key frames.
        map_crop: the map around the drive.

    Raises:
        DataError: no such scene, a sensor that is mounted differently within it, or damaged CAN bus files.
    """
    scene = index.scene(name)
    build = _Builder(index, scene)
    counts: dict[str, ChannelCount] = {}
    present: dict[str, int] = {}
    tracks = []
    for channel in index.channels(scene):
        records = index.records(scene, channel)
        present[channel] = sum(record.present for record in records)
        track, absent = _track(scene, records, keyframes_only=keyframes_only)
        tracks.append(track)
        counts[channel] = ChannelCount(missing=len(absent))
        build.missing += absent
    size = sum(path.stat().st_size for track in tracks for path in track.paths)
    recorded = [sample for sample in scene.samples if _has_data(index, sample)]
    without = len(scene.samples) - len(recorded)
    if any(track.paths for track in tracks):
        _check_stamps(scene, tracks)
        start = min(int(track.stamps[0]) for track in tracks if len(track.stamps))
        _add_statics(build, tracks, start, map_crop)
        _add_truth(build, recorded, start)
        for track in tracks:
            _add_sensor(build, track)
        _add_poses(build, tracks)
    return ScenePlan(build.topics, build.streams, counts, len(recorded), without, size, tuple(build.missing), present)


def _track(scene: Scene, records: list[SensorRecord], *, keyframes_only: bool) -> tuple[_Track, list[Path]]:
    """What is kept of a sensor's records, and the files that are absent."""
    first = records[0]
    if any(not _same_mounting(record.calibration, first.calibration) for record in records):
        raise DataError(f"{scene.name}: {first.channel} is mounted differently within the scene; split the scene")
    wanted = [record for record in records if record.is_key_frame or not keyframes_only]
    present = [record for record in wanted if record.present]
    track = _Track(
        channel=first.channel,
        modality=first.modality,
        calibration=first.calibration,
        image_size=first.image_size,
        stamps=np.array([record.stamp for record in present], dtype=np.int64),
        paths=[record.path for record in present],
        pose_stamps=np.array([record.stamp for record in records], dtype=np.int64),
        poses=np.stack([record.T_world_from_base for record in records]),
    )
    return track, [record.path for record in wanted if not record.present]


def _same_mounting(a: Calibration, b: Calibration) -> bool:
    return np.array_equal(a.T_base_from_sensor, b.T_base_from_sensor) and np.array_equal(
        np.zeros(0) if a.intrinsics is None else a.intrinsics, np.zeros(0) if b.intrinsics is None else b.intrinsics
    )


def _check_stamps(scene: Scene, tracks: list[_Track]) -> None:
    # One damaged timestamp would otherwise stop the conversion half way, or stretch the bag over decades.
    latest = max((t for t in tracks if len(t.stamps)), key=lambda track: int(track.stamps.max()))
    stamp = int(latest.stamps.max())
    if stamp // 1_000_000_000 >= 2**31:
        raise DataError(
            f"{scene.name}: {latest.channel}: time {stamp // 1000} us is beyond what ROS 2 can represent "
            "(January 2038); are the timestamps in microseconds?"
        )


def _has_data(index: NuScenesIndex, sample: Sample) -> bool:
    records = [index.key_record(sample, channel) for channel in index.channels(sample)]
    return any(record is not None and record.present and record.modality != "lidar" for record in records)


# ----------------------------------------------------------------------------------------------------------- sensors


def _add_sensor(build: _Builder, track: _Track) -> None:
    name = track.channel.lower()
    make: Callable[[int], Written]
    if track.modality == "camera":
        build.topic(topics.image_topic(name), "sensor_msgs/msg/CompressedImage")
        build.topic(topics.camera_info_topic(name), "sensor_msgs/msg/CameraInfo")
        make = _camera_rows(track, name)
    else:
        build.topic(topics.points_topic(name), "sensor_msgs/msg/PointCloud2")
        make = _cloud_rows(track, name)
    build.streams.append(Stream(track.stamps, MEASUREMENT, make, track.channel))


def _camera_rows(track: _Track, name: str) -> Callable[[int], Written]:
    K = track.calibration.intrinsics
    if K is None:
        raise DataError(f"calibrated_sensor.json: camera {track.channel} has no camera_intrinsic")
    image_topic, info_topic = topics.image_topic(name), topics.camera_info_topic(name)
    info, image = CameraInfoTemplate(CameraModel(K, *track.image_size), name), ImageTemplate(name)

    def make(row: int) -> Written:
        path, stamp = track.paths[row], int(track.stamps[row])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        if not content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
            raise DataError(f"{path}: not a JPEG or PNG file ({len(content)} bytes); copy the file again")
        check_complete(content, str(path))
        return [(info_topic, info.at(stamp)), (image_topic, image.at(stamp, content))]

    return make


def _cloud_rows(track: _Track, name: str) -> Callable[[int], Written]:
    radar = track.modality == "radar"
    topic, cloud = topics.points_topic(name), CloudTemplate(RADAR_DTYPE if radar else LIDAR_DTYPE, name)
    read = read_radar_pcd if radar else read_lidar_bin

    def make(row: int) -> Written:
        return [(topic, cloud.at(int(track.stamps[row]), read(track.paths[row]).tobytes()))]

    return make


# ----------------------------------------------------------------------------------------- what holds for the whole


def _add_statics(build: _Builder, tracks: list[_Track], start: int, map_crop: MapCrop | None) -> None:
    messages = bag_messages()
    transforms = [
        transform_stamped_message(
            messages,
            track.calibration.T_base_from_sensor,
            stamp=start,
            parent=topics.BASE_FRAME,
            child=track.channel.lower(),
        )
        for track in tracks
    ]
    build.topic(topics.TF_STATIC, "tf2_msgs/msg/TFMessage", LATCHED)
    mountings = serialised(tf_message(messages, transforms))
    build.once(start, lambda: [(topics.TF_STATIC, mountings)])
    build.topic(topics.SCENE, "std_msgs/msg/String", LATCHED)
    folder = build.index.root / build.index.version
    sensors = {track.channel: track.modality for track in tracks}
    description = serialised(scene_message(messages, described(folder, build.scene.token, sensors)))
    build.once(start, lambda: [(topics.SCENE, description)])
    if map_crop is not None:
        build.topic(topics.MAP, "nav_msgs/msg/OccupancyGrid", LATCHED)
        build.once(start, lambda: [(topics.MAP, serialised(map_message(map_crop, start)))])


# ------------------------------------------------------------------------------------------------------------- poses


def _add_poses(build: _Builder, tracks: list[_Track]) -> None:
    """The pose at every record's stamp, whether its file is there or not: each is as true as the others."""
    stamps, row = np.unique(np.concatenate([track.pose_stamps for track in tracks]), return_index=True)
    T = np.concatenate([track.poses for track in tracks])[row]
    linear, angular = twists(stamps, T)
    data = np.concatenate([track.stamps for track in tracks])
    first = max(0, int(np.searchsorted(stamps, data.min())) - 1)
    end = int(np.searchsorted(stamps, data.max(), side="right")) + 1
    poses = np.concatenate([T[:, :3, 3], Rotation.from_matrix(T[:, :3, :3]).as_quat(canonical=True)], axis=1)
    motion = np.concatenate([linear, angular], axis=1)
    stamps, poses, motion = stamps[first:end], poses[first:end], motion[first:end]
    build.topic(topics.TF, "tf2_msgs/msg/TFMessage")
    build.topic(topics.ODOMETRY, "nav_msgs/msg/Odometry")
    template = PoseTemplate()

    def make(row: int) -> Written:
        tf, odometry = template.at(int(stamps[row]), poses[row], motion[row])
        return [(topics.TF, tf), (topics.ODOMETRY, odometry)]

    build.streams.append(Stream(stamps, POSE, make))
    for topic, msgtype, times, make_can in can_streams(build.index.root, build.scene.name):
        inside = np.flatnonzero((times >= stamps[0]) & (times <= stamps[-1]))
        if len(inside):
            build.topic(topic, msgtype)
            build.streams.append(Stream(times[inside], POSE, partial(_one, topic, inside, make_can)))


def _one(topic: str, rows: NDArray[np.intp], make: Callable[[int], bytes], row: int) -> Written:
    return [(topic, make(int(rows[row])))]


def twists(stamps: Stamps, T_world_from_base: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Linear and angular velocity in the moving frame, as central differences over ``TWIST_WINDOW`` to either side.

    Args:
        stamps: (N,) ns, ascending.
        T_world_from_base: (N, 4, 4).

    Returns:
        (N, 3) m/s and (N, 3) rad/s along the axes of ``base`` at each stamp; zero where there is one pose only.
    """
    before = np.searchsorted(stamps, stamps - TWIST_WINDOW)
    after = np.searchsorted(stamps, stamps + TWIST_WINDOW, side="right") - 1
    seconds = (stamps[after] - stamps[before])[:, None] * 1e-9
    seconds = np.where(seconds > 0, seconds, np.inf)
    R = T_world_from_base[:, :3, :3]
    velocity = (T_world_from_base[after, :3, 3] - T_world_from_base[before, :3, 3]) / seconds
    linear = np.einsum("nji,nj->ni", R, velocity)
    turned = np.einsum("nji,njk->nik", R[before], R[after])
    angular = Rotation.from_matrix(turned).as_rotvec() / seconds
    return linear, angular


# ------------------------------------------------------------------------------------------------------ ground truth


def _add_truth(build: _Builder, recorded: list[Sample], start: int) -> None:
    """Key frames with data at their time; the others' annotations at the start, for nothing else happens then."""
    index, scene = build.index, build.scene
    recorded_tokens = {sample.token for sample in recorded}
    references: dict[str, SensorRecord] = {}
    for sample in scene.samples:
        record = index.key_record(sample, REFERENCE_CHANNEL)
        if record is None:
            raise DataError(f"{scene.name}: sample {sample.token} has no {REFERENCE_CHANNEL} record, so no pose")
        references[sample.token] = record
    numbers: dict[str, int] = {}

    def truth(row: int) -> Written:
        sample = recorded[row]
        return truth_messages(index, sample, references[sample.token].T_world_from_base, numbers)

    if recorded:
        build.topic(topics.GROUND_TRUTH, "vision_msgs/msg/Detection3DArray")
        build.topic(topics.GROUND_TRUTH_VELOCITIES, "sensor_msgs/msg/PointCloud2")
        build.topic(topics.GROUND_TRUTH_MARKERS, "visualization_msgs/msg/MarkerArray")
        build.topic(topics.ANNOTATIONS, "std_msgs/msg/String")
        build.streams.append(Stream(np.array([sample.stamp for sample in recorded]), TRUTH, truth))
    others = [sample for sample in scene.samples if sample.token not in recorded_tokens]

    def unrecorded(row: int) -> Written:
        sample = others[row]
        annotation = annotation_of_sample(index, sample, references[sample.token].T_world_from_base)
        return [(topics.UNRECORDED_ANNOTATIONS, serialised(annotation_message(bag_messages(), annotation)))]

    if others:
        build.topic(topics.UNRECORDED_ANNOTATIONS, "std_msgs/msg/String")
        build.streams.append(Stream(np.full(len(others), start), STATIC, unrecorded))
