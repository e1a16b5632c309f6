"""Sensor frames with ground truth from a nuScenes-format data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crkd_core.config import Recipe
from crkd_core.data.errors import DataError
from crkd_core.data.image_cache import ImageCache
from crkd_core.data.images import check_complete
from crkd_core.data.nuscenes import REFERENCE_CHANNEL, NuScenesIndex, Sample, SensorRecord
from crkd_core.data.nuscenes_coverage import Count
from crkd_core.data.radar_pcd import read_lidar_bin, read_radar_pcd
from crkd_core.geometry.transforms import inverse
from crkd_core.types import AnnotatedFrame, Boxes3D, CameraImage, LidarSweep, RadarSweep, SensorFrame


def annotated_frame(
    index: NuScenesIndex,
    sample: Sample,
    *,
    channels: Collection[str] | None = None,
    radar_sweeps: int = 6,
    lidar_sweeps: range = range(0),
    images: ImageCache | None = None,
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

    Records whose file does not exist are left out; ``NuScenesFrames.earlier_sweeps`` counts them.

    Raises:
        DataError: the sample has no LIDAR_TOP key frame record, or a file is damaged.
    """
    reference = index.key_record(sample, REFERENCE_CHANNEL)
    if reference is None:
        raise DataError(f"{index.root}: sample {sample.token}: no {REFERENCE_CHANNEL} key frame in sample_data.json")
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
            cameras.update((channel, _camera(record, images)) for record in _present([key]))
        elif key.modality == "radar":
            records = _present(index.recent_records(sample, channel, radar_sweeps))
            if records:
                radars[channel] = [_radar(record) for record in records]
        elif channel == REFERENCE_CHANNEL and lidar_sweeps:
            recent = index.recent_records(sample, channel, lidar_sweeps.stop)
            lidar = [_lidar(record) for record in _present(recent[:: lidar_sweeps.step])]
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
    """The sensors whose key frames a recipe reads: those of its branches, of LiDARs the reference alone; sorted.

    Raises:
        DataError: the data set has none for a branch.
    """
    model = recipe.model
    mounted = {calibration.channel for calibration in index.calibrations}
    read: list[str] = []
    for modality, branch in (("camera", model.camera), ("radar", model.radar), ("lidar", model.lidar)):
        found = [
            c for c in mounted if index.modalities[c] == modality and (modality != "lidar" or c == REFERENCE_CHANNEL)
        ]
        if branch is not None and not found:
            raise DataError(
                f"{index.root}/{index.version}: recipe '{recipe.name}' reads a {modality}, and there is none"
            )
        read += found if branch is not None else []
    return sorted(read)


def read_samples(index: NuScenesIndex, samples: Sequence[Sample], channels: Collection[str]) -> list[Sample]:
    """Those samples that have the key frames of these sensors.

    Raises:
        DataError: none has; names the sensors that are short.
    """
    complete = {sample.token for sample in index.complete_samples(channels)}
    found = [sample for sample in samples if sample.token in complete]
    if not found:
        counts = {channel: index.key_frames(samples, channel) for channel in sorted(channels)}
        short = ", ".join(
            f"{channel}: {count} key frames" for channel, count in counts.items() if count.there < count.wanted
        )
        raise DataError(
            f"{index.root}/{index.version}: no sample has the files of all sensors that are read; "
            f"{short or f'{len(samples)} samples, none with every kind of sensor'}"
        )
    return found


class NuScenesFrames:
    """Samples of an index as annotated frames, read when asked for.

    Attributes:
        index: the data set.
        samples: which of its samples, in which order.
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
        )

    def windows(self) -> dict[str, range]:
        """Per sensor, which of its records a sample reads, counted back from the key frame, which is 0."""
        kept = {c: m for c, m in self.index.modalities.items() if self._channels is None or c in self._channels}
        window = {"camera": range(1), "radar": range(self._radar_sweeps), "lidar": self._lidar_sweeps}
        return {c: window[m] for c, m in kept.items() if window[m] and (m != "lidar" or c == REFERENCE_CHANNEL)}

    def earlier_sweeps(self) -> dict[str, Count]:
        """Per radar and LiDAR, the files before the key frames that are read: those there, and those in the tables."""
        return {c: self.index.sweeps(self.samples, c, window[1:]) for c, window in self.windows().items() if window[1:]}

    def files(self) -> dict[str, list[Path]]:
        """Per sensor, the files that are read, each once."""
        return {c: self.index.files(self.samples, c, window) for c, window in self.windows().items()}

    def labels(self) -> list[NDArray[np.int64]]:
        """For each sample, the classes of its objects that have LiDAR or radar returns; reads no measurement."""
        return [self.index.labels(sample) for sample in self.samples]


def _present(records: list[SensorRecord]) -> list[SensorRecord]:
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
