"""A typed index of any data set in nuScenes format: which measurements and annotations there are, and where.

The JSON tables are read once and kept as columns per scene (``nuscenes_content``), with an optional cache file. Which
files exist is found out by listing each folder once: a half-downloaded set yields what is complete, and a report.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes_build import build_content
from crkd_core.data.nuscenes_content import Content, SampleColumns, SceneColumns, Track, read_cache, write_cache
from crkd_core.data.nuscenes_tables import table_state, version_folder
from crkd_core.geometry.transforms import transform
from crkd_core.types import FloatArray

logger = logging.getLogger(__name__)

REFERENCE_CHANNEL = "LIDAR_TOP"
"""The sensor whose key frame gives a sample its reference stamp and pose, and the BEV frame its mounting."""


@dataclass(frozen=True)
class Calibration:
    """How a sensor is mounted.

    Attributes:
        channel: the sensor's name.
        T_base_from_sensor: (4, 4) float64.
        intrinsics: K, (3, 3) float64, pixels; None for a sensor that is no camera.
    """

    channel: str
    T_base_from_sensor: FloatArray
    intrinsics: FloatArray | None


@dataclass(frozen=True)
class SensorRecord:
    """One measurement of one sensor.

    Attributes:
        channel: the sensor's name.
        modality: ``camera``, ``radar`` or ``lidar``.
        stamp: acquisition time, ns.
        path: its file.
        present: whether the file existed when the index was loaded.
        is_key_frame: whether it belongs to a sample.
        calibration: mounting and intrinsics.
        T_world_from_base: (4, 4) float64, vehicle pose at ``stamp``.
        image_size: (width, height); (0, 0) if no camera.
    """

    channel: str
    modality: str
    stamp: int
    path: Path
    present: bool
    is_key_frame: bool
    calibration: Calibration
    T_world_from_base: FloatArray
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Annotation:
    """One annotated object of one sample, in the world frame.

    Attributes:
        token: its name.
        instance: token of the object it belongs to, the same in all samples.
        category: nuScenes category.
        label: position in ``DETECTION_CLASSES``; None for a category outside the ten classes.
        translation: geometric centre, m.
        size_wlh: width, length, height, m.
        rotation: quaternion (w, x, y, z).
        velocity: m/s; NaN where unknown.
        attributes: names.
        visibility: level, such as ``v80-100``; empty if unknown.
        num_lidar_pts: LiDAR returns inside the box.
        num_radar_pts: radar returns inside the box.
    """

    token: str
    instance: str
    category: str
    label: int | None
    translation: tuple[float, float, float]
    size_wlh: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    velocity: tuple[float, float, float]
    attributes: tuple[str, ...]
    visibility: str
    num_lidar_pts: int
    num_radar_pts: int


@dataclass(frozen=True)
class Sample:
    """One annotated key frame.

    Attributes:
        token: its name.
        stamp: ns.
        scene: name of its scene.
        scene_index: position of the scene in the index.
        columns: what the index keeps of it.
    """

    token: str
    stamp: int
    scene: str
    scene_index: int
    columns: SampleColumns = field(repr=False, compare=False)

    @property
    def channels(self) -> tuple[str, ...]:
        """The sensors that have a key frame record."""
        return tuple(self.columns.key)


@dataclass(frozen=True)
class Scene:
    """One drive.

    Attributes:
        name: such as ``scene-0916``.
        token: its name in the tables.
        description: free text.
        location: where it was recorded.
        vehicle: which vehicle recorded it.
        index: position in the index.
        samples: in time order.
    """

    name: str
    token: str
    description: str
    location: str
    vehicle: str
    index: int
    samples: tuple[Sample, ...] = field(repr=False)


class NuScenesIndex:
    """Scenes, samples, sensor records and annotations of one data set version.

    Attributes:
        root: data root.
        version: name of the table folder.
        scenes: in the tables' order.
        samples: of all scenes, in order.
    """

    def __init__(self, root: Path, version: str, content: Content) -> None:
        self.root = root
        self.version = version
        self._content = content
        self.scenes = tuple(_scene(i, columns) for i, columns in enumerate(content.scenes))
        self.samples = tuple(sample for scene in self.scenes for sample in scene.samples)
        self._present = _present_files(root, content.scenes)

    @functools.cached_property
    def calibrations(self) -> tuple[Calibration, ...]:
        """Every mounting of every sensor."""
        return tuple(
            Calibration(
                channel=c.channel,
                T_base_from_sensor=transform(c.rotation, c.translation),
                intrinsics=np.array(c.intrinsics) if c.intrinsics else None,
            )
            for c in self._content.calibrations
        )

    def scene(self, name: str) -> Scene:
        """The scene of this name.

        Raises:
            DataError: there is none; lists those there are.
        """
        for scene in self.scenes:
            if scene.name == name:
                return scene
        names = [scene.name for scene in self.scenes]
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        raise DataError(f"{self.root}/{self.version}: no scene '{name}'; expected one of {shown}")

    def sample(self, token: str) -> Sample:
        """The sample of this token.

        Raises:
            DataError: there is none.
        """
        try:
            return self._by_token[token]
        except KeyError:
            raise DataError(f"{self.root}/{self.version}: no sample '{token}'") from None

    @functools.cached_property
    def _by_token(self) -> dict[str, Sample]:
        return {sample.token: sample for sample in self.samples}

    def channels(self, scene: Scene | Sample) -> tuple[str, ...]:
        """The sensors of a scene, sorted by name."""
        return tuple(sorted(self.columns(scene).tracks))

    def records(self, scene: Scene, channel: str) -> list[SensorRecord]:
        """All records of one sensor in a scene, key frames and the sweeps between them, oldest first."""
        return [self._record(scene.index, channel, row) for row in range(len(self._track(scene.index, channel).stamps))]

    def key_record(self, sample: Sample, channel: str) -> SensorRecord | None:
        """The key frame of one sensor, or None if the tables have none."""
        row = sample.columns.key.get(channel)
        return None if row is None else self._record(sample.scene_index, channel, row)

    def recent_records(self, sample: Sample, channel: str, count: int) -> list[SensorRecord]:
        """The key frame of one sensor and the records before it, ``count`` at most, newest first.

        At the beginning of a scene there are fewer. Records whose file is absent are among them (``present`` False).
        """
        row = sample.columns.key.get(channel)
        if row is None:
            return []
        return [self._record(sample.scene_index, channel, r) for r in range(row, max(-1, row - count), -1)]

    def columns(self, scene: Scene | Sample) -> SceneColumns:
        """What the index keeps of a scene: records and annotations as arrays, none of which is copied."""
        return self._content.scenes[scene.index if isinstance(scene, Scene) else scene.scene_index]

    def annotations(self, sample: Sample) -> list[Annotation]:
        """All annotations of a sample, of every category."""
        columns = self.columns(sample).annotations
        return [self._annotation(sample, i) for i in range(*sample.columns.annotations)] if len(columns.tokens) else []

    def complete_samples(self, channels: Collection[str] | None = None) -> list[Sample]:
        """The samples whose key frame files are all there.

        Args:
            channels: the sensors that count; None: all of the scene.
        """
        return [s for s in self.samples if all(self._has_key(s, c) for c in channels or self.channels(s))]

    def report(self) -> str:
        """A few lines on what is there and what is missing."""
        content = self._content
        boxes = sum(len(s.annotations.tokens) for s in content.scenes)
        records = sum(len(t.stamps) for s in content.scenes for t in s.tracks.values())
        complete = self.complete_samples()
        lines = [
            f"nuScenes {self.version} at {self.root}:",
            f"{len(self.scenes)} scenes, {len(self.samples)} samples, {records} sensor records, {boxes} annotations",
            f"complete key frames: {len(complete)} of {len(self.samples)}",
        ]
        per_scene = [(scene, sum(s.scene_index == scene.index for s in complete)) for scene in self.scenes]
        partial = [(scene, n) for scene, n in per_scene if n < len(scene.samples)]
        lines += [f"  {scene.name}: {n} of {len(scene.samples)}" for scene, n in partial[:20]]
        if len(partial) > 20:
            lines.append(f"  and {len(partial) - 20} more scenes that are incomplete")
        lines.append(f"{'files present':<18}{'key frames':>16}{'sweeps':>18}")
        for channel, (key, keys, sweep, sweeps) in self.file_counts().items():
            lines.append(f"  {channel:<16}{f'{key}/{keys}':>16}{f'{sweep}/{sweeps}':>18}")
        return "\n".join(lines)

    def file_counts(self) -> dict[str, tuple[int, int, int, int]]:
        """Per channel: files present and records of the key frames, files present and records of the sweeps between."""
        counts: dict[str, NDArray[np.int64]] = {}
        for scene, present in zip(self._content.scenes, self._present, strict=True):
            for channel, track in scene.tracks.items():
                here, key = present[channel], track.key
                total = counts.setdefault(channel, np.zeros(4, dtype=np.int64))
                total += [(here & key).sum(), key.sum(), (here & ~key).sum(), (~key).sum()]
        return {name: (int(c[0]), int(c[1]), int(c[2]), int(c[3])) for name, c in sorted(counts.items())}

    def _track(self, scene: int, channel: str) -> Track:
        tracks = self._content.scenes[scene].tracks
        if channel not in tracks:
            name = self.scenes[scene].name
            raise DataError(f"{name}: no sensor '{channel}'; expected one of {', '.join(sorted(tracks))}")
        return tracks[channel]

    def _record(self, scene: int, channel: str, row: int) -> SensorRecord:
        track = self._track(scene, channel)
        return SensorRecord(
            channel=channel,
            modality=track.modality,
            stamp=int(track.stamps[row]),
            path=self.root / track.files[row].decode(),
            present=bool(self._present[scene][channel][row]),
            is_key_frame=bool(track.key[row]),
            calibration=self.calibrations[track.calibrations[row]],
            T_world_from_base=transform(track.poses[row, :4], track.poses[row, 4:]),
            image_size=track.image_size,
        )

    def _has_key(self, sample: Sample, channel: str) -> bool:
        row = sample.columns.key.get(channel)
        return row is not None and bool(self._present[sample.scene_index][channel][row])

    def _annotation(self, sample: Sample, row: int) -> Annotation:
        columns, content = self.columns(sample).annotations, self._content
        label, visibility = int(columns.labels[row]), int(columns.visibilities[row])
        bits = int(columns.attributes[row])
        return Annotation(
            token=columns.tokens[row].decode(),
            instance=columns.instances[row].decode(),
            category=content.categories[columns.categories[row]],
            label=label if label >= 0 else None,
            translation=tuple(columns.translations[row].tolist()),
            size_wlh=tuple(columns.sizes_wlh[row].tolist()),
            rotation=tuple(columns.rotations[row].tolist()),
            velocity=tuple(columns.velocities[row].tolist()),
            attributes=tuple(name for i, name in enumerate(content.attributes) if bits >> i & 1),
            visibility=content.visibilities[visibility] if visibility >= 0 else "",
            num_lidar_pts=int(columns.num_lidar_pts[row]),
            num_radar_pts=int(columns.num_radar_pts[row]),
        )


def load_index(root: Path | str, version: str, *, cache: Path | None = None) -> NuScenesIndex:
    """Index a data set.

    Args:
        root: data root, the folder of ``samples/`` and of the table folders.
        version: name of the table folder, such as ``v1.0-mini``.
        cache: file to keep the index in; it is used again as long as the tables' sizes and times have not changed.

    Raises:
        DataError: no root, no such version, a table missing or damaged.
    """
    root = Path(root)
    folder = version_folder(root, version)
    state = table_state(folder)
    content = read_cache(cache, state) if cache is not None else None
    if content is None:
        content = build_content(folder)
        if cache is not None:
            write_cache(cache, state, content)
    index = NuScenesIndex(root, version, content)
    logger.info("%s", index.report())
    return index


def _scene(i: int, columns: SceneColumns) -> Scene:
    return Scene(
        name=columns.name,
        token=columns.token,
        description=columns.description,
        location=columns.location,
        vehicle=columns.vehicle,
        index=i,
        samples=tuple(Sample(s.token, s.stamp, columns.name, i, s) for s in columns.samples),
    )


def _present_files(root: Path, scenes: list[SceneColumns]) -> list[dict[str, NDArray[np.bool_]]]:
    """Per scene and channel, which files exist: one directory listing per folder, whatever the number of files."""

    @functools.cache
    def listing(folder: bytes) -> frozenset[bytes]:
        try:
            with os.scandir(os.fsencode(root) + b"/" + folder) as entries:
                return frozenset(entry.name for entry in entries)
        except OSError:
            return frozenset()

    def exists(file: bytes) -> bool:
        folder, _, name = file.rpartition(b"/")
        return name in listing(folder)

    return [
        {
            channel: np.fromiter((exists(f) for f in track.files.tolist()), dtype=np.bool_, count=len(track.files))
            for channel, track in scene.tracks.items()
        }
        for scene in scenes
    ]
