"""A recorded drive at chosen moments: sensor frames to look at, and ground truth between key frames."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY
from crkd_core.geometry.transforms import inverse
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.types import Boxes3D, CameraImage, Detections, FloatArray, RadarSweep, SensorFrame, wrapped
from crkd_ros import topics
from crkd_ros.conversions import (
    CameraModel,
    ConversionError,
    SampleAnnotation,
    camera_model_of,
    image_of,
    radar_points_of,
    stamp_of,
)
from rosbag_tools.bags import Bag, listed
from rosbag_tools.recorded import RecordingError, VehiclePoses, mounting, mountings, truth_of

logger = logging.getLogger(__name__)

IMAGE_TYPES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
IMAGE_SLOP = 100 * MILLISECOND
"""An image farther from a moment is not shown with it."""
RADAR_SLOP = 40 * MILLISECOND
"""A radar sweep may be newer than the moment by this much."""
RADAR_AGE = 400 * MILLISECOND
"""Older sweeps are not shown."""
LOOK_AHEAD = 150 * MILLISECOND
"""How long after a moment its measurements are waited for; messages may be recorded late and out of order."""


@dataclass(frozen=True)
class Camera:
    """A camera of a recording: where its images come from and how it sees."""

    name: str
    topic: str
    model: CameraModel
    T_base_from_cam: FloatArray


@dataclass(frozen=True)
class Radar:
    """A radar of a recording."""

    name: str
    topic: str
    T_base_from_radar: FloatArray


@dataclass(frozen=True)
class Sensors:
    """Cameras and radars by topic, and what could not be used, in words."""

    cameras: dict[str, Camera]
    radars: dict[str, Radar]
    problems: tuple[str, ...]


def sensors_of(bag: Bag, *, base: str = topics.BASE_FRAME) -> Sensors:
    """Find a recording's cameras (images with a camera_info beside them) and radars (clouds with an ``rcs`` field).

    Args:
        bag: the recording.
        base: frame of the vehicle; /tf_static must lead there.

    Raises:
        RecordingError: there is neither a usable camera nor a usable radar.
        ConversionError: a malformed message.
    """
    edges = mountings(bag)
    cameras: dict[str, Camera] = {}
    radars: dict[str, Radar] = {}
    problems: list[str] = []
    for topic, content in bag.topics.items():
        kind = "camera" if content.type in IMAGE_TYPES else "radar" if content.type == CLOUD_TYPE else None
        first = _first(bag, topic) if kind is not None else None
        if first is None or (kind == "radar" and "rcs" not in {field.name for field in first.fields}):
            continue
        prefix = topic.removesuffix("/compressed").rsplit("/", 1)[0]
        name = prefix.rsplit("/", 1)[-1] or topic.rsplit("/", 1)[-1]
        T = mounting(edges, first.header.frame_id, base=base)
        info = _first(bag, f"{prefix}/camera_info") if kind == "camera" else None
        if T is None:
            problems.append(f"{kind} {topic} is not shown: frame '{first.header.frame_id}' is not on /tf_static")
        elif kind == "radar":
            radars[topic] = Radar(name, topic, T)
        elif info is None:
            problems.append(f"{kind} {topic} is not shown: no {prefix}/camera_info")
        else:
            # Of raw and compressed images of one camera, the compressed ones (they come later in the alphabet).
            cameras[name] = Camera(name, topic, camera_model_of(info, source=f"{prefix}/camera_info"), T)
    if not cameras and not radars:
        raise RecordingError(
            f"bag {bag.path}: no camera (images with camera_info) and no radar (PointCloud2 with field rcs) to show; "
            f"{listed(problems, most=1) or 'topics: ' + (listed(list(bag.topics)) or 'none')}"
        )
    return Sensors({camera.topic: camera for camera in cameras.values()}, radars, tuple(problems))


def _first(bag: Bag, topic: str) -> Any:
    return next((recorded.message for recorded in bag.messages([topic])), None)


def sensor_frames(
    bag: Bag, sensors: Sensors, poses: VehiclePoses, stamps: Sequence[int]
) -> Iterator[tuple[int, SensorFrame | None]]:
    """The measurements around each moment, in one pass over the bag.

    Args:
        bag: the recording.
        sensors: what to read.
        poses: of the vehicle.
        stamps: moments, ns, ascending.

    Yields:
        Each moment with its frame: per camera the nearest image, per radar up to three sweeps; None where the vehicle's
        pose is not recorded.

    Raises:
        BagError, ConversionError: a damaged bag or message.
    """
    held: dict[str, deque[Any]] = {t: deque(maxlen=32) for t in (*sensors.cameras, *sensors.radars)}
    pending = deque(stamps)
    if not pending:
        return
    start, stop = pending[0] - RADAR_AGE - SECOND, pending[-1] + LOOK_AHEAD + SECOND
    for recorded in bag.messages(held, start=start, stop=stop):
        stamp = stamp_of(recorded.message.header.stamp)
        while pending and stamp > pending[0] + LOOK_AHEAD:
            moment = pending.popleft()
            yield moment, _frame(moment, held, sensors, poses)
        held[recorded.topic].append(recorded.message)
    for moment in pending:
        yield moment, _frame(moment, held, sensors, poses)


def _frame(moment: int, held: dict[str, deque[Any]], sensors: Sensors, poses: VehiclePoses) -> SensorFrame | None:
    T_world_from_base = poses.at(moment)
    if T_world_from_base is None:
        return None
    cameras: dict[str, CameraImage] = {}
    for topic, camera in sensors.cameras.items():
        near = min(held[topic], key=lambda m: abs(stamp_of(m.header.stamp) - moment), default=None)
        image = None if near is None else _image(near, camera, moment, poses)
        if image is not None:
            cameras[camera.name] = image
    radars = {radar.name: _sweeps(held[topic], radar, moment, poses) for topic, radar in sensors.radars.items()}
    return SensorFrame(
        cameras=cameras,
        radars={name: sweeps for name, sweeps in radars.items() if sweeps},
        stamp=moment,
        T_world_from_base=T_world_from_base,
        T_base_from_bev=np.eye(4),
    )


def _image(message: Any, camera: Camera, moment: int, poses: VehiclePoses) -> CameraImage | None:
    stamp = stamp_of(message.header.stamp)
    T_world_from_base = poses.at(stamp)
    if abs(stamp - moment) > IMAGE_SLOP or T_world_from_base is None:
        return None
    try:
        image = image_of(message, source=camera.topic)
    except ConversionError as error:
        logger.warning("image left out: %s", error)
        return None
    return CameraImage(
        image=image,
        intrinsics=camera.model.intrinsics,
        T_base_from_cam=camera.T_base_from_cam,
        T_world_from_base=T_world_from_base,
        stamp=stamp,
        distortion=camera.model.distortion,
    )


def _sweeps(messages: deque[Any], radar: Radar, moment: int, poses: VehiclePoses) -> list[RadarSweep]:
    sweeps = []
    for message in messages:
        stamp = stamp_of(message.header.stamp)
        T_world_from_base = poses.at(stamp)
        if not -RADAR_SLOP <= moment - stamp <= RADAR_AGE or T_world_from_base is None:
            continue
        points = radar_points_of(message, source=radar.topic)
        sweeps.append(RadarSweep(points, radar.T_base_from_radar, T_world_from_base, stamp))
    return sorted(sweeps, key=lambda sweep: -sweep.stamp)[:3]


# ------------------------------------------------------------------------------------------------------- ground truth


@dataclass(frozen=True)
class _KeyFrame:
    stamp: int
    instances: dict[str, int]
    objects: Detections
    """In the frame of the recorded poses."""


class TruthTrack:
    """Annotated boxes at any time: interpolated between the key frames an object is annotated in."""

    MAX_GAP = 1100 * MILLISECOND
    """Key frames farther apart are not interpolated."""
    NEAR = 60 * MILLISECOND
    """Outside of two key frames, the nearest one stands for moments this close."""

    def __init__(self, annotations: Sequence[SampleAnnotation], poses: VehiclePoses) -> None:
        """Ground truth in the frame of ``poses``; key frames at which there is no pose are left out."""
        self._frames: list[_KeyFrame] = []
        for annotation in sorted(annotations, key=lambda a: a.stamp):
            T = poses.at(annotation.stamp)
            if T is not None:
                self._frames.append(_key_frame(annotation, T @ inverse(annotation.pose)))
        self._stamps = [frame.stamp for frame in self._frames]

    def at(self, stamp: int, T_world_from_base: FloatArray) -> Detections | None:
        """Boxes of the ten classes with a point inside, in ``base_link`` at ``stamp``; None where nothing is annotated.

        Args:
            stamp: ns.
            T_world_from_base: vehicle pose then.
        """
        found = self._in_world(stamp)
        if found is None:
            return None
        return found.transformed(inverse(T_world_from_base), topics.BASE_FRAME)

    def _in_world(self, stamp: int) -> Detections | None:
        after = bisect_left(self._stamps, stamp)
        if 0 < after < len(self._frames):
            before = self._frames[after - 1]
            if self._frames[after].stamp - before.stamp <= self.MAX_GAP:
                return _between(before, self._frames[after], stamp)
        near = min(self._frames[max(0, after - 1) : after + 1], key=lambda f: abs(f.stamp - stamp), default=None)
        if near is None or abs(near.stamp - stamp) > self.NEAR:
            return None
        return _moved(near.objects, stamp)


def _key_frame(annotation: SampleAnnotation, T_frame_from_world: FloatArray) -> _KeyFrame:
    objects = truth_of(annotation).detections().transformed(T_frame_from_world, "world")
    counted = [
        thing
        for thing in annotation.objects
        if thing.category in CLASS_OF_CATEGORY and thing.num_lidar_pts + thing.num_radar_pts > 0
    ]
    return _KeyFrame(annotation.stamp, {thing.instance_token: i for i, thing in enumerate(counted)}, objects)


def _between(start: _KeyFrame, end: _KeyFrame, stamp: int) -> Detections:
    fraction = (stamp - start.stamp) / (end.stamp - start.stamp)
    common = [token for token in start.instances if token in end.instances]
    a = start.objects.filtered(np.array([start.instances[t] for t in common], dtype=np.int64))
    b = end.objects.filtered(np.array([end.instances[t] for t in common], dtype=np.int64))
    boxes = Boxes3D(
        centers=(1 - fraction) * a.boxes.centers + fraction * b.boxes.centers,
        sizes=(1 - fraction) * a.boxes.sizes + fraction * b.boxes.sizes,
        yaws=a.boxes.yaws + fraction * wrapped(b.boxes.yaws - a.boxes.yaws),
        velocities=(1 - fraction) * a.boxes.velocities + fraction * b.boxes.velocities,
    )
    # Objects annotated in one of the two only are shown in its half of the time.
    nearer, other = (start, end) if fraction < 0.5 else (end, start)
    alone = [i for token, i in nearer.instances.items() if token not in other.instances]
    rest = _moved(nearer.objects.filtered(np.array(alone, dtype=np.int64)), stamp)
    return Detections(
        boxes=Boxes3D(
            np.concatenate([boxes.centers, rest.boxes.centers]),
            np.concatenate([boxes.sizes, rest.boxes.sizes]),
            np.concatenate([boxes.yaws, rest.boxes.yaws]),
            np.concatenate([boxes.velocities, rest.boxes.velocities]),
        ),
        scores=np.ones(len(boxes) + len(rest)),
        labels=np.concatenate([a.labels, rest.labels]),
        frame_id="world",
        stamp=stamp,
    )


def _moved(objects: Detections, stamp: int) -> Detections:
    boxes = objects.boxes.moved((stamp - objects.stamp) / SECOND)
    return Detections(boxes, objects.scores, objects.labels, objects.frame_id, stamp)
