"""The stream: what the sensors of a vehicle publish, message by message; the same for the same seed.

Six cameras fire as in nuScenes, one after the other within 43 ms; five radars go through all phases relative to them,
for their rate is another one. Every message is published at its stamp: nothing hides behind a slow sensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes import SynthConfig, frame_at, keyframe_stamps, make_drive
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.types import RADAR_DTYPE, CameraImage, FloatArray, SensorFrame
from crkd_ros import topics
from crkd_ros.conversions import (
    CameraModel,
    camera_info_message,
    compressed_image_message,
    point_cloud_message,
    ros_messages,
    tf_message,
    transform_stamped_message,
)
from crkd_ros.parameters import DetectorParameters

CAMERA_HZ, RADAR_HZ, POSE_HZ = 12, 13, 100
WIDTH, HEIGHT = 1600, 900
IMAGE_BYTES = 150_000
INSTANTS = 3
"""Different images of each camera; they are published in turn."""
SPEED = 10.0
"""Of the vehicle, m/s."""
SEED = 9_700
_CAMERA_JITTER, _RADAR_JITTER = 2 * MILLISECOND, MILLISECOND

KINDS = {
    "pose": "tf2_msgs/msg/TFMessage",
    "info": "sensor_msgs/msg/CameraInfo",
    "image": "sensor_msgs/msg/CompressedImage",
    "radar": "sensor_msgs/msg/PointCloud2",
}
"""What is published, in the order of publication at one instant -> message type."""


@dataclass(frozen=True, order=True)
class Event:
    """One message.

    Attributes:
        time: its stamp and when it is due, ns since the stream began.
        kind: one of ``KINDS``.
        sensor: name in lower case; empty for a pose.
        number: how many of that kind and sensor came before.
    """

    time: int
    kind: str
    sensor: str
    number: int

    @property
    def topic(self) -> str:
        """Where it is published."""
        named: dict[str, Callable[[str], str]] = {
            "pose": lambda _: topics.TF,
            "info": topics.camera_info_topic,
            "image": topics.image_topic,
            "radar": topics.points_topic,
        }
        return named[self.kind](self.sensor)


def schedule(parameters: DetectorParameters, *, seconds: float, seed: int = SEED) -> list[Event]:
    """Every message of a stream of that length, by time.

    Args:
        parameters: sensors, and when each camera fires; the phases of radars are drawn.
        seconds: length of the stream.
        seed: of phases and jitter.
    """
    rng = np.random.default_rng(seed)
    end, lead = round(seconds * SECOND), 100 * MILLISECOND
    events = [Event(t, "pose", "", k) for k, t in enumerate(range(0, end, SECOND // POSE_HZ))]
    for key, camera in parameters.cameras.items():
        name, times = key.lower(), _times(rng, lead + camera.offset, end, CAMERA_HZ, _CAMERA_JITTER)
        for number, time in enumerate(times):
            events += [Event(time, "info", name, number), Event(time, "image", name, number)]
    for key in parameters.radars:
        phase = int(rng.integers(SECOND // RADAR_HZ))
        times = _times(rng, lead + phase, end, RADAR_HZ, _RADAR_JITTER)
        events += [Event(time, "radar", key.lower(), number) for number, time in enumerate(times)]
    order = list(KINDS)
    return sorted(events, key=lambda event: (event.time, event.sensor, order.index(event.kind)))


def _times(rng: np.random.Generator, first: int, end: int, hz: int, jitter: int) -> Iterator[int]:
    count = int((end - first) * hz // SECOND)
    for k, offset in enumerate(rng.integers(-jitter, jitter + 1, size=max(0, count)).tolist()):
        yield first + k * SECOND // hz + offset


@dataclass(frozen=True)
class Content:
    """What the messages hold.

    Attributes:
        images: camera -> JPEG images, published in turn.
        clouds: radar -> sweeps of ``RADAR_DTYPE``, published in turn.
        models: camera -> its model.
        mountings: sensor, or the BEV frame -> ``T_base_from_sensor``.
    """

    images: dict[str, list[bytes]]
    clouds: dict[str, list[NDArray[np.void]]]
    models: dict[str, CameraModel]
    mountings: dict[str, FloatArray]
    messages: Any = field(default_factory=ros_messages)

    def without_measurements(self) -> Content:
        """The same rig with images and sweeps of no size: what a frame is made of does not depend on them."""
        images = {name: [b"\xff\xd8\xff"] for name in self.images}
        clouds = {name: [_NO_POINTS] for name in self.clouds}
        return Content(images, clouds, self.models, self.mountings)

    def message(self, event: Event, start: int) -> Any:
        """The message of an event in a stream that began at ``start`` (ns)."""
        stamp, name, made = start + event.time, event.sensor, self.messages
        if event.kind == "pose":
            T = np.eye(4)
            T[0, 3] = SPEED * event.time / SECOND
            moved = transform_stamped_message(made, T, stamp=stamp, parent=topics.MAP_FRAME, child=topics.BASE_FRAME)
            return tf_message(made, [moved])
        if event.kind == "info":
            return camera_info_message(made, self.models[name], stamp=stamp, frame_id=name)
        if event.kind == "image":
            images = self.images[name]
            return compressed_image_message(made, images[event.number % len(images)], stamp=stamp, frame_id=name)
        clouds = self.clouds[name]
        return point_cloud_message(made, clouds[event.number % len(clouds)], stamp=stamp, frame_id=name)

    def mounted(self, stamp: int) -> Any:
        """The message on /tf_static."""
        made = self.messages
        transforms = [
            transform_stamped_message(made, T, stamp=stamp, parent=topics.BASE_FRAME, child=name)
            for name, T in self.mountings.items()
        ]
        return tf_message(made, transforms)


_NO_POINTS: NDArray[np.void] = np.zeros(0, dtype=RADAR_DTYPE)


def simulated_content(*, seed: int = SEED, width: int = WIDTH, image_bytes: int = IMAGE_BYTES) -> Content:
    """Images and sweeps of a simulated drive.

    Args:
        seed: of the drive.
        width: of the images, pixels; they are 16:9.
        image_bytes: about the size of each JPEG.
    """
    drive = make_drive(seed, SynthConfig(image_width=width), duration_s=4.0)
    frames = [frame_at(drive, stamp).frame for stamp in keyframe_stamps(drive)[:INSTANTS]]
    first = frames[0]
    images = {
        name.lower(): [jpeg_of(frame.cameras[name].image, image_bytes) for frame in frames] for name in first.cameras
    }
    clouds = {name.lower(): [sweep.points for frame in frames for sweep in frame.radars[name]] for name in first.radars}
    models = {name.lower(): _model(camera) for name, camera in first.cameras.items()}
    return Content(images, clouds, models, _mountings(first))


def jpeg_of(pixels: NDArray[np.uint8] | bytes, size: int) -> bytes:
    """An RGB image (H, W, 3) as JPEG of the highest quality that takes no more than ``size`` bytes, 30 at least."""
    assert isinstance(pixels, np.ndarray)
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    low, high = 30, 100
    found = _encoded(bgr, low)
    while high - low > 1:
        middle = (low + high) // 2
        data = _encoded(bgr, middle)
        if len(data) <= size:
            low, found = middle, data
        else:
            high = middle
    return found


def _encoded(bgr: NDArray[np.uint8], quality: int) -> bytes:
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def _model(camera: CameraImage) -> CameraModel:
    assert isinstance(camera.image, np.ndarray)
    height, width = camera.image.shape[:2]
    return CameraModel(camera.intrinsics, width, height)


def _mountings(frame: SensorFrame) -> dict[str, FloatArray]:
    mountings = {name.lower(): camera.T_base_from_cam for name, camera in frame.cameras.items()}
    mountings |= {name.lower(): sweeps[0].T_base_from_radar for name, sweeps in frame.radars.items()}
    return {**mountings, topics.BEV_FRAME: frame.T_base_from_bev}
