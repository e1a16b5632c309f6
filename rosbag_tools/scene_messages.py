"""Which messages a scene of a nuScenes-format data set becomes, in order of time, made when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from rosbags.interfaces import Qos
from scipy.spatial.transform import Rotation

from crkd_core.data.errors import DataError
from crkd_core.data.images import check_complete
from crkd_core.data.nuscenes import REFERENCE_CHANNEL, Annotation, NuScenesIndex, Sample, Scene, SensorRecord
from crkd_core.data.radar_pcd import read_lidar_bin, read_radar_pcd
from crkd_core.geometry.transforms import inverse
from crkd_core.types import Boxes3D, Detections, FloatArray
from crkd_ros import topics
from crkd_ros.conversions import (
    CameraModel,
    Messages,
    ObjectAnnotation,
    SampleAnnotation,
    annotation_message,
    camera_info_message,
    compressed_image_message,
    detection_messages,
    marker_array,
    odometry_message,
    point_cloud_message,
    tf_message,
    transform_stamped_message,
)
from crkd_ros.conversions.annotations import pose_rows
from rosbag_tools.bags import LATCHED, RELIABLE
from rosbag_tools.typestore import bag_messages

GROUND_TRUTH_COLOR = (0.1, 0.9, 0.3)
KEY_FRAME_PERIOD = 0.5
"""Seconds a ground truth marker stays visible."""

TWIST_WINDOW = 50_000_000
"""Odometry's twist is the mean over this long before and after a pose, ns. Poses of different sensors lie milliseconds
apart, and a difference over so short a time would magnify their noise."""

Written = list[tuple[str, Any]]
"""Topics and messages."""

# At one stamp, what a consumer needs first comes first.
STATIC, POSE, MEASUREMENT, TRUTH = range(4)


@dataclass
class ChannelCount:
    """Files of one sensor: written to the bag, absent, and there but unusable."""

    written: int = 0
    missing: int = 0
    damaged: int = 0


@dataclass(frozen=True)
class Item:
    """Messages of one origin and stamp.

    Attributes:
        stamp: ns.
        rank: order among items of one stamp.
        make: reads and converts; raises DataError or ConversionError if a file is damaged.
        channel: the sensor whose file is read, if one is.
    """

    stamp: int
    rank: int
    make: Callable[[], Written]
    channel: str | None = None


@dataclass(frozen=True)
class ScenePlan:
    """What will be written.

    Attributes:
        topics: name -> message type and QoS.
        items: in the order they are written.
        channels: sensor -> count of files; ``written`` and ``damaged`` are filled in while writing.
        key_frames: annotated key frames.
        key_frames_without_data: key frames left out because none of their camera and radar files is there.
        bytes: size of the files that will be read.
    """

    topics: dict[str, tuple[str, Qos]]
    items: list[Item]
    channels: dict[str, ChannelCount]
    key_frames: int
    key_frames_without_data: int
    bytes: int


@dataclass
class _Builder:
    index: NuScenesIndex
    scene: Scene
    messages: Messages
    items: list[Item] = field(default_factory=list)
    topics: dict[str, tuple[str, Qos]] = field(default_factory=dict)

    def topic(self, name: str, msgtype: str, qos: Qos = RELIABLE) -> None:
        self.topics[name] = (msgtype, qos)


def plan_scene(index: NuScenesIndex, name: str, *, keyframes_only: bool = False) -> ScenePlan:
    """Plan the messages of a scene. Reads no sensor file.

    The bag spans the time in which there are sensor files; poses reach one record beyond at either end.

    Args:
        index: the data set.
        name: of the scene.
        keyframes_only: leave out the sweeps between key frames.

    Raises:
        DataError: no such scene, or a sensor that is mounted differently within it.
    """
    scene = index.scene(name)
    build = _Builder(index, scene, bag_messages())
    tracks = {channel: index.records(scene, channel) for channel in index.channels(scene)}
    counts: dict[str, ChannelCount] = {}
    size = 0
    for channel, records in tracks.items():
        wanted = [record for record in records if record.is_key_frame or not keyframes_only]
        present = [record for record in wanted if record.present]
        counts[channel] = ChannelCount(missing=len(wanted) - len(present))
        size += sum(record.path.stat().st_size for record in present)
        for record in present:
            build.items.append(Item(record.stamp, MEASUREMENT, partial(_measurement, build.messages, record), channel))
        _announce_sensor(build, channel, records[0])
    if not build.items:
        return ScenePlan({}, [], counts, 0, len(scene.samples), 0)
    _check_stamps(build)
    annotated = [sample for sample in scene.samples if _has_data(index, sample)]
    for sample in annotated:
        _add_truth(build, sample)
    _add_static(build, tracks)
    _add_poses(build, tracks)
    build.items.sort(key=lambda item: (item.stamp, item.rank))
    return ScenePlan(build.topics, build.items, counts, len(annotated), len(scene.samples) - len(annotated), size)


def _check_stamps(build: _Builder) -> None:
    # One damaged timestamp would otherwise stop the conversion half way, or stretch the bag over decades.
    latest = max(build.items, key=lambda item: item.stamp)
    if latest.stamp // 1_000_000_000 >= 2**31:
        raise DataError(
            f"{build.scene.name}: {latest.channel}: time {latest.stamp // 1000} us is beyond what ROS 2 can represent "
            "(January 2038); are the timestamps in microseconds?"
        )


def _announce_sensor(build: _Builder, channel: str, record: SensorRecord) -> None:
    name = channel.lower()
    if record.modality == "camera":
        build.topic(topics.image_topic(name), "sensor_msgs/msg/CompressedImage")
        build.topic(topics.camera_info_topic(name), "sensor_msgs/msg/CameraInfo")
    else:
        build.topic(topics.points_topic(name), "sensor_msgs/msg/PointCloud2")


def _measurement(messages: Messages, record: SensorRecord) -> Written:
    name = record.channel.lower()
    if record.modality == "camera":
        return _camera(messages, record, name)
    points = read_radar_pcd(record.path) if record.modality == "radar" else read_lidar_bin(record.path)
    cloud = point_cloud_message(messages, points, stamp=record.stamp, frame_id=name)
    return [(topics.points_topic(name), cloud)]


def _camera(messages: Messages, record: SensorRecord, name: str) -> Written:
    K = record.calibration.intrinsics
    if K is None:
        raise DataError(f"{record.path}: camera {record.channel} has no intrinsics in calibrated_sensor.json")
    try:
        content = record.path.read_bytes()
    except OSError as error:
        raise DataError(f"{record.path}: cannot be read: {error.strerror}") from None
    if not content.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        raise DataError(f"{record.path}: not a JPEG or PNG file ({len(content)} bytes); copy the file again")
    check_complete(content, str(record.path))
    width, height = record.image_size
    return [
        (
            topics.camera_info_topic(name),
            camera_info_message(messages, CameraModel(K, width, height), stamp=record.stamp, frame_id=name),
        ),
        (topics.image_topic(name), compressed_image_message(messages, content, stamp=record.stamp, frame_id=name)),
    ]


def _has_data(index: NuScenesIndex, sample: Sample) -> bool:
    records = [index.key_record(sample, channel) for channel in index.channels(sample)]
    return any(record is not None and record.present and record.modality != "lidar" for record in records)


# ------------------------------------------------------------------------------------------------------------- poses


def _add_static(build: _Builder, tracks: dict[str, list[SensorRecord]]) -> None:
    mountings = {}
    for channel, records in tracks.items():
        mountings[channel] = records[0].calibration
        if any(record.calibration.index != records[0].calibration.index for record in records):
            raise DataError(f"{build.scene.name}: {channel} is mounted differently within the scene; split the scene")
    stamp = min(item.stamp for item in build.items)
    transforms = [
        transform_stamped_message(
            build.messages,
            mounting.T_base_from_sensor,
            stamp=stamp,
            parent=topics.BASE_FRAME,
            child=channel.lower(),
        )
        for channel, mounting in mountings.items()
    ]
    build.topic(topics.TF_STATIC, "tf2_msgs/msg/TFMessage", LATCHED)
    message = tf_message(build.messages, transforms)
    build.items.append(Item(stamp, STATIC, lambda: [(topics.TF_STATIC, message)]))


def _add_poses(build: _Builder, tracks: dict[str, list[SensorRecord]]) -> None:
    """The pose at every record's stamp, whether its file is there or not: each is as true as the others."""
    poses = {record.stamp: record.T_world_from_base for records in tracks.values() for record in records}
    stamps = np.array(sorted(poses), dtype=np.int64)
    T = np.stack([poses[stamp] for stamp in stamps.tolist()])
    linear, angular = twists(stamps, T)
    data = [item.stamp for item in build.items]
    first = max(0, int(np.searchsorted(stamps, min(data))) - 1)
    end = int(np.searchsorted(stamps, max(data), side="right")) + 1
    build.topic(topics.TF, "tf2_msgs/msg/TFMessage")
    build.topic(topics.ODOMETRY, "nav_msgs/msg/Odometry")
    for stamp, pose, v, w in zip(
        stamps[first:end].tolist(), T[first:end], linear[first:end], angular[first:end], strict=True
    ):
        build.items.append(Item(stamp, POSE, partial(_pose, build.messages, stamp, pose, v, w)))


def _pose(
    messages: Messages, stamp: int, T_map_from_base: FloatArray, linear: FloatArray, angular: FloatArray
) -> Written:
    moved = transform_stamped_message(
        messages, T_map_from_base, stamp=stamp, parent=topics.MAP_FRAME, child=topics.BASE_FRAME
    )
    odometry = odometry_message(
        messages,
        T_map_from_base,
        stamp=stamp,
        world=topics.MAP_FRAME,
        base=topics.BASE_FRAME,
        linear=linear,
        angular=angular,
    )
    return [(topics.TF, tf_message(messages, [moved])), (topics.ODOMETRY, odometry)]


def twists(stamps: np.ndarray[Any, np.dtype[np.int64]], T_world_from_base: FloatArray) -> tuple[FloatArray, FloatArray]:
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


def _add_truth(build: _Builder, sample: Sample) -> None:
    record = build.index.key_record(sample, REFERENCE_CHANNEL)
    if record is None:
        raise DataError(f"{build.scene.name}: sample {sample.token} has no {REFERENCE_CHANNEL} record, so no pose")
    build.topic(topics.GROUND_TRUTH, "vision_msgs/msg/Detection3DArray")
    build.topic(topics.GROUND_TRUTH_VELOCITIES, "sensor_msgs/msg/PointCloud2")
    build.topic(topics.GROUND_TRUTH_MARKERS, "visualization_msgs/msg/MarkerArray")
    build.topic(topics.ANNOTATIONS, "std_msgs/msg/String")
    make = partial(_truth, build.messages, build.index, build.scene, sample, record.T_world_from_base)
    build.items.append(Item(sample.stamp, TRUTH, make))


def _truth(
    messages: Messages, index: NuScenesIndex, scene: Scene, sample: Sample, T_map_from_base: FloatArray
) -> Written:
    annotations = index.annotations(sample)
    truth = ground_truth(annotations, T_map_from_base, sample.stamp)
    array, velocities = detection_messages(messages, truth)
    markers = marker_array(messages, truth, lifetime=KEY_FRAME_PERIOD, color=GROUND_TRUTH_COLOR)
    annotation = SampleAnnotation(
        sample_token=sample.token,
        scene_name=scene.name,
        scene_token=scene.token,
        stamp=sample.stamp,
        T_world_from_base=pose_rows(T_map_from_base),
        objects=tuple(_object(annotation) for annotation in annotations),
    )
    return [
        (topics.GROUND_TRUTH, array),
        (topics.GROUND_TRUTH_VELOCITIES, velocities),
        (topics.GROUND_TRUTH_MARKERS, markers),
        (topics.ANNOTATIONS, annotation_message(messages, annotation)),
    ]


def ground_truth(annotations: list[Annotation], T_map_from_base: FloatArray, stamp: int) -> Detections:
    """The annotated objects of the ten classes as detections of score 1 in ``base_link``."""
    known = [(a, a.label) for a in annotations if a.label is not None]
    boxes = Boxes3D.from_nuscenes(
        [a.translation for a, _ in known],
        [a.size_wlh for a, _ in known],
        [a.rotation for a, _ in known],
        np.array([a.velocity for a, _ in known]).reshape(-1, 3),
    )
    return Detections(
        boxes=boxes.transformed(inverse(T_map_from_base)),
        scores=np.ones(len(known)),
        labels=np.array([label for _, label in known], dtype=np.int64),
        frame_id=topics.BASE_FRAME,
        stamp=stamp,
    )


def _object(annotation: Annotation) -> ObjectAnnotation:
    return ObjectAnnotation(
        token=annotation.token,
        instance_token=annotation.instance,
        category=annotation.category,
        attributes=annotation.attributes,
        visibility=annotation.visibility,
        num_lidar_pts=annotation.num_lidar_pts,
        num_radar_pts=annotation.num_radar_pts,
        translation=annotation.translation,
        size=annotation.size_wlh,
        rotation=annotation.rotation,
        velocity=None if np.isnan(annotation.velocity).any() else annotation.velocity,
    )
