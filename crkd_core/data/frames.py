"""Sensor frames with ground truth from a nuScenes-format data set."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from crkd_core.config import Recipe
from crkd_core.data.errors import DataError
from crkd_core.data.image_cache import ImageCache
from crkd_core.data.images import check_complete
from crkd_core.data.nuscenes import REFERENCE_CHANNEL, NuScenesIndex, Sample, SensorRecord
from crkd_core.data.radar_pcd import read_lidar_bin, read_radar_pcd
from crkd_core.geometry.transforms import inverse
from crkd_core.types import AnnotatedFrame, Boxes3D, CameraImage, LidarSweep, RadarSweep, SensorFrame

logger = logging.getLogger(__name__)


def annotated_frame(
    index: NuScenesIndex,
    sample: Sample,
    *,
    channels: Collection[str] | None = None,
    radar_sweeps: int = 6,
    lidar_sweeps: range = range(0),
    images: ImageCache | None = None,
    absent: Counter[str] | None = None,
) -> AnnotatedFrame:
    """Read one sample.

    The reference is the LIDAR_TOP key frame: its stamp, its vehicle pose, its mounting as the BEV frame. Every other
    sensor keeps its own stamp and pose.

    Args:
        index: the data set.
        sample: one of its samples.
        channels: the sensors to read; None: all.
        radar_sweeps: records per radar, the key frame and those before it; at the start of a scene there are fewer.
        lidar_sweeps: which records of the LiDAR, counted back from the key frame, which is 0: ``range(3)`` is the key
            frame and the two before it, ``range(0, 10, 3)`` every third of ten; an empty one: no LiDAR is read.
        images: takes the camera images from there, smaller, and K with them.
        absent: adds up, per channel, the records whose file does not exist. They are left out.

    Raises:
        DataError: the sample has no LIDAR_TOP key frame record, or a file is damaged.
    """
    reference = index.key_record(sample, REFERENCE_CHANNEL)
    if reference is None:
        raise DataError(f"{index.root}: sample {sample.token}: no {REFERENCE_CHANNEL} key frame in sample_data.json")
    absent = Counter() if absent is None else absent
    cameras: dict[str, CameraImage] = {}
    radars: dict[str, list[RadarSweep]] = {}
    lidar: list[LidarSweep] = []
    for channel in index.channels(sample):
        if channels is not None and channel not in channels:
            continue
        key = index.key_record(sample, channel)
        if key is None:
            continue
        if key.modality == "camera":
            cameras.update((channel, _camera(record, images)) for record in _present([key], absent))
        elif key.modality == "radar":
            records = _present(index.recent_records(sample, channel, radar_sweeps), absent)
            if records:
                radars[channel] = [_radar(record) for record in records]
        elif channel == REFERENCE_CHANNEL and lidar_sweeps:
            recent = index.recent_records(sample, channel, lidar_sweeps.stop)
            lidar = [_lidar(record) for record in _present(recent[:: lidar_sweeps.step], absent)]
    frame = SensorFrame(
        cameras=cameras,
        radars=radars,
        stamp=reference.stamp,
        T_world_from_base=reference.T_world_from_base,
        T_base_from_bev=reference.calibration.T_base_from_sensor,
        lidar=tuple(lidar),
    )
    return _with_boxes(index, sample, frame)


def channels_read(index: NuScenesIndex, recipe: Recipe) -> list[str]:
    """The sensors whose key frames a recipe reads: those of its branches."""
    branches = {"CAM": recipe.model.camera, "RADAR": recipe.model.radar, "LIDAR": recipe.model.lidar}
    unread = tuple(prefix for prefix, branch in branches.items() if branch is None)
    return sorted({c.channel for c in index.calibrations if not c.channel.startswith(unread)})


class NuScenesFrames:
    """Samples of an index as annotated frames, read when asked for.

    Attributes:
        index: the data set.
        samples: which of its samples, in which order.
        absent: per channel, the records left out so far because their file does not exist.
    """

    def __init__(
        self,
        index: NuScenesIndex,
        samples: Sequence[Sample],
        *,
        channels: Collection[str] | None = None,
        radar_sweeps: int = 6,
        lidar_sweeps: range = range(0),
        images: ImageCache | None = None,
    ) -> None:
        """Set what to read; the arguments are those of ``annotated_frame``."""
        self.index = index
        self.samples = tuple(samples)
        self.absent: Counter[str] = Counter()
        self._channels = None if channels is None else frozenset(channels)
        self._radar_sweeps = radar_sweeps
        self._lidar_sweeps = lidar_sweeps
        self._images = images

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> AnnotatedFrame:
        return annotated_frame(
            self.index,
            self.samples[position],
            channels=self._channels,
            radar_sweeps=self._radar_sweeps,
            lidar_sweeps=self._lidar_sweeps,
            images=self._images,
            absent=self.absent,
        )

    def labels(self) -> list[NDArray[np.int64]]:
        """For each sample, the classes of its objects that have LiDAR or radar returns; reads no measurement."""
        return [self.index.labels(sample) for sample in self.samples]


def _present(records: list[SensorRecord], absent: Counter[str]) -> list[SensorRecord]:
    for record in records:
        if not record.present:
            absent[record.channel] += 1
            logger.debug("%s: absent, left out", record.path)
    return [record for record in records if record.present]


def _camera(record: SensorRecord, images: ImageCache | None) -> CameraImage:
    intrinsics = record.calibration.intrinsics
    if intrinsics is None:
        raise DataError(f"calibrated_sensor.json: {record.channel}: camera_intrinsic is empty")
    path = record.path if images is None else images.path(record.path)
    scale = 1.0 if images is None else images.scale(record.image_size)
    try:
        image = path.read_bytes()
    except OSError as error:
        fix = "" if images is None else "; run training/prepare.py again"
        raise DataError(f"{path}: cannot be read: {error.strerror}{fix}") from None
    # The rest of what can be wrong shows when the image is decoded, where only the camera's name is known.
    check_complete(image, str(path))
    return CameraImage(
        image=image,
        intrinsics=np.diag([scale, scale, 1.0]) @ intrinsics,
        T_base_from_cam=record.calibration.T_base_from_sensor,
        T_world_from_base=record.T_world_from_base,
        stamp=record.stamp,
    )


def _radar(record: SensorRecord) -> RadarSweep:
    return RadarSweep(
        points=read_radar_pcd(record.path),
        T_base_from_radar=record.calibration.T_base_from_sensor,
        T_world_from_base=record.T_world_from_base,
        stamp=record.stamp,
    )


def _lidar(record: SensorRecord) -> LidarSweep:
    return LidarSweep(
        points=read_lidar_bin(record.path),
        T_base_from_lidar=record.calibration.T_base_from_sensor,
        T_world_from_base=record.T_world_from_base,
        stamp=record.stamp,
    )


def _with_boxes(index: NuScenesIndex, sample: Sample, frame: SensorFrame) -> AnnotatedFrame:
    annotations = [(a, a.label) for a in index.annotations(sample)]
    known = [(a, label) for a, label in annotations if label is not None]
    boxes = Boxes3D.empty()
    if known:
        in_world = Boxes3D.from_nuscenes(
            [a.translation for a, _ in known],
            [a.size_wlh for a, _ in known],
            [a.rotation for a, _ in known],
            [a.velocity for a, _ in known],
        )
        boxes = in_world.transformed(inverse(frame.T_world_from_base))
    return AnnotatedFrame(
        frame=frame,
        boxes=boxes,
        labels=np.array([label for _, label in known], dtype=np.int64),
        num_points=np.array([a.num_lidar_pts + a.num_radar_pts for a, _ in known], dtype=np.int64),
        token=sample.token,
    )
