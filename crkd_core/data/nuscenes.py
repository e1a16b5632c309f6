"""A typed index of any data set in nuScenes format: which measurements and annotations there are, and where.

The JSON tables are read once and kept as a few arrays (``nuscenes_columns``), with an optional index file that is
mapped into memory: trainval's 2.6 million records load in a moment, and the processes of a loader share them. Which
files exist is found out by listing each folder (``nuscenes_files``): a half-downloaded set yields what is complete, and
a report.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY, build_content
from crkd_core.data.nuscenes_cache import read_content, read_presence, write_content, write_presence
from crkd_core.data.nuscenes_columns import Content
from crkd_core.data.nuscenes_coverage import Count, complete_rows, file_counts, key_frames, window_rows
from crkd_core.data.nuscenes_files import Presence, file_of, present_files
from crkd_core.data.nuscenes_tables import table_state, version_folder
from crkd_core.geometry.transforms import transform
from crkd_core.types import DETECTION_CLASSES, FloatArray

logger = logging.getLogger(__name__)

REFERENCE_CHANNEL = "LIDAR_TOP"
"""The sensor whose key frame gives a sample its reference stamp and pose, and the BEV frame its mounting."""


@dataclass(frozen=True)
class Calibration:
    """How a sensor is mounted.

    Attributes:
        index: position in ``NuScenesIndex.calibrations``.
        channel: the sensor's name.
        T_base_from_sensor: (4, 4) float64.
        intrinsics: K, (3, 3) float64, pixels; None for a sensor that is no camera.
    """

    index: int
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
        index: position of the sample in the index.
    """

    token: str
    stamp: int
    scene: str
    scene_index: int
    index: int


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
        modalities: ``camera``, ``radar`` or ``lidar`` of every channel, sorted by channel.
        scenes: in the tables' order.
        samples: of all scenes, in order.
        rebuilt: why the tables were read though there was an index file; empty: it served, or there was none.
    """

    def __init__(self, root: Path, version: str, content: Content, presence: Presence, *, rebuilt: str = "") -> None:
        self.root = root
        self.version = version
        self.rebuilt = rebuilt
        self.modalities = dict(zip(content.description.channels, content.description.modalities, strict=True))
        self._content = content
        self._present = presence.present
        self._channel = {channel: i for i, channel in enumerate(content.description.channels)}
        names = [CLASS_OF_CATEGORY.get(category) for category in content.description.categories]
        self._labels = [None if name is None else DETECTION_CLASSES.index(name) for name in names]
        self._class_of_category = np.array([-1 if i is None else i for i in self._labels], dtype=np.int64)
        scenes = content.description.scenes
        rows = zip(*(content.samples[column].tolist() for column in ("token", "stamp", "scene")), strict=True)
        self.samples = tuple(Sample(t.decode(), stamp, scenes[s].name, s, i) for i, (t, stamp, s) in enumerate(rows))
        self.scenes = tuple(
            Scene(s.name, s.token, s.description, s.location, s.vehicle, i, self.samples[s.first_sample : s.end_sample])
            for i, s in enumerate(scenes)
        )

    @functools.cached_property
    def calibrations(self) -> tuple[Calibration, ...]:
        """Every mounting of every sensor."""
        return tuple(self._calibration(row) for row in range(len(self._content.calibrations)))

    def scene(self, name: str) -> Scene:
        """The scene of this name.

        Raises:
            DataError: there is none; names those most alike.
        """
        for scene in self.scenes:
            if scene.name == name:
                return scene
        raise self._unknown("scene", name, [scene.name for scene in self.scenes])

    def sample(self, token: str) -> Sample:
        """The sample of this token.

        Raises:
            DataError: there is none; names those most alike.
        """
        try:
            return self._by_token[token]
        except KeyError:
            raise self._unknown("sample", token, list(self._by_token)) from None

    @functools.cached_property
    def _by_token(self) -> dict[str, Sample]:
        return {sample.token: sample for sample in self.samples}

    def _unknown(self, what: str, name: str, known: list[str]) -> DataError:
        shown = known if len(known) <= 5 else difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        more = f" ({len(known)} in all)" if len(known) > len(shown) else ""
        return DataError(f"{self.root}/{self.version}: no {what} '{name}'; expected one of {', '.join(shown)}{more}")

    def channels(self, scene: Scene | Sample) -> tuple[str, ...]:
        """The sensors that measured in a scene, or those of which a sample has a key frame record; sorted by name."""
        if isinstance(scene, Sample):
            return tuple(c for c, row in zip(self._channel, self._content.keys[scene.index], strict=True) if row >= 0)
        return tuple(channel for channel, i in self._channel.items() if len(self._content.track(scene.index, i)))

    def records(self, scene: Scene, channel: str) -> list[SensorRecord]:
        """All records of one sensor in a scene, key frames and the sweeps between them, oldest first.

        Raises:
            DataError: the scene has no such sensor; names those it has.
        """
        rows = self._content.track(scene.index, self._channel[channel]) if channel in self._channel else range(0)
        if not rows:
            names = ", ".join(self.channels(scene))
            raise DataError(f"{scene.name}: no sensor '{channel}'; expected one of {names}")
        return [self._record(scene.index, channel, row) for row in rows]

    def key_record(self, sample: Sample, channel: str) -> SensorRecord | None:
        """The key frame of one sensor, or None if the tables have none."""
        row = self._key(sample, channel)
        return None if row < 0 else self._record(sample.scene_index, channel, row)

    def recent_records(self, sample: Sample, channel: str, count: int) -> list[SensorRecord]:
        """The key frame of one sensor and the records before it, ``count`` at most, newest first.

        At the beginning of a scene there are fewer. Records whose file is absent are among them (``present`` False).
        """
        row = self._key(sample, channel)
        if row < 0:
            return []
        first = self._content.track(sample.scene_index, self._channel[channel]).start
        return [self._record(sample.scene_index, channel, r) for r in range(row, max(first - 1, row - count), -1)]

    def annotations(self, sample: Sample) -> list[Annotation]:
        """All annotations of a sample, of every category."""
        row = self._content.samples[sample.index]
        return [self._annotation(i) for i in range(row["first_annotation"], row["end_annotation"])]

    def labels(self, sample: Sample) -> NDArray[np.int64]:
        """Detection classes of a sample's annotations with any LiDAR or radar return: what there is to learn in it."""
        row = self._content.samples[sample.index]
        found = self._content.annotations[row["first_annotation"] : row["end_annotation"]]
        classes = self._class_of_category[found["category"]]
        learnt: NDArray[np.int64] = classes[(classes >= 0) & (found["num_lidar_pts"] + found["num_radar_pts"] > 0)]
        return learnt

    def digest(self, scene: Scene) -> str:
        """Of a scene's samples and annotations: the same where these are the same, in whatever file."""
        described = self._content.description.scenes[scene.index]
        samples = self._content.samples[described.first_sample : described.end_sample]
        first, end = (samples["first_annotation"][0], samples["end_annotation"][-1]) if len(samples) else (0, 0)
        digest = hashlib.sha256(b"".join(samples["token"].tolist()))
        digest.update(self._content.annotations[first:end].tobytes())
        return digest.hexdigest()[:16]

    def complete_samples(self, channels: Collection[str] | None = None) -> list[Sample]:
        """The samples whose key frame files are all there.

        Args:
            channels: the sensors that count, in scenes that have them; of each modality among them, a scene has one
                at least. None: all of the scene.
        """
        return [self.samples[i] for i in np.flatnonzero(self._complete(channels))]

    def _complete(self, channels: Collection[str] | None) -> NDArray[np.bool_]:
        if channels is not None and not set(channels) <= set(self._channel):
            return np.zeros(len(self.samples), dtype=np.bool_)
        return complete_rows(self._content, self._present, channels)

    def key_frames(self, samples: Sequence[Sample], channel: str) -> Count:
        """Key frame files of a sensor that are there, and the samples in whose scene it measured."""
        return key_frames(self._content, self._present, _positions(samples), self._channel[channel])

    def sweeps(self, samples: Sequence[Sample], channel: str, window: range) -> Count:
        """Files of a sensor that samples read, and the records; both once for each time that they are read.

        Args:
            samples: of any scenes.
            channel: the sensor.
            window: which records, counted back from the key frame, which is 0; none beyond the start of a scene.
        """
        rows = window_rows(self._content, _positions(samples), self._channel[channel], window)
        return Count(int(self._present[rows].sum()), len(rows))

    def files(self, samples: Sequence[Sample], channel: str, window: range) -> list[Path]:
        """The files of ``sweeps`` that are there, each once."""
        rows = np.unique(window_rows(self._content, _positions(samples), self._channel[channel], window))
        return [self.root / file_of(self._content, row) for row in rows[self._present[rows]].tolist()]

    def report(self) -> str:
        """A few lines on what is there and what is missing."""
        content = self._content
        records, boxes = len(content.records), len(content.annotations)
        complete = self._complete(None)
        lines = [
            f"nuScenes {self.version} at {self.root}:",
            f"{len(self.scenes)} scenes, {len(self.samples)} samples, {records} sensor records, {boxes} annotations",
            f"complete key frames: {complete.sum()} of {len(self.samples)}",
        ]
        per_scene = np.bincount(content.samples["scene"], weights=complete, minlength=len(self.scenes)).astype(int)
        partial = [(s, n) for s, n in zip(self.scenes, per_scene, strict=True) if n < len(s.samples)]
        lines += [f"  {scene.name}: {n} of {len(scene.samples)}" for scene, n in partial[:20]]
        if len(partial) > 20:
            lines.append(f"  and {len(partial) - 20} more scenes that are incomplete")
        lines.append(f"{'files present':<18}{'key frames':>16}{'sweeps':>18}")
        for channel, (key, keys, sweep, sweeps) in self.file_counts().items():
            lines.append(f"  {channel:<16}{f'{key}/{keys}':>16}{f'{sweep}/{sweeps}':>18}")
        return "\n".join(lines)

    def file_counts(self) -> dict[str, tuple[int, int, int, int]]:
        """Per channel: files present and records of the key frames, files present and records of the sweeps between."""
        return file_counts(self._content, self._present)

    def _key(self, sample: Sample, channel: str) -> int:
        return int(self._content.keys[sample.index, self._channel[channel]]) if channel in self._channel else -1

    def _record(self, scene: int, channel: str, row: int) -> SensorRecord:
        record, i = self._content.records[row], self._channel[channel]
        width, height = self._content.image_sizes[scene * len(self._channel) + i].tolist()
        return SensorRecord(
            channel=channel,
            modality=self._content.description.modalities[i],
            stamp=int(record["stamp"]),
            path=self.root / file_of(self._content, row),
            present=bool(self._present[row]),
            is_key_frame=bool(record["is_key_frame"]),
            calibration=self._calibration(int(record["calibration"])),
            T_world_from_base=transform(record["rotation"], record["translation"]),
            image_size=(width, height),
        )

    def _calibration(self, row: int) -> Calibration:
        found = self._content.calibrations[row]
        return Calibration(
            index=row,
            channel=self._content.description.channels[found["channel"]],
            T_base_from_sensor=found["T_base_from_sensor"].copy(),
            intrinsics=found["intrinsics"].copy() if found["has_intrinsics"] else None,
        )

    def _annotation(self, i: int) -> Annotation:
        row, names = self._content.annotations[i], self._content.description
        visibility, bits = int(row["visibility"]), int(row["attributes"])
        return Annotation(
            token=row["token"].decode(),
            instance=self._content.instances[row["instance"]].decode(),
            category=names.categories[row["category"]],
            label=self._labels[row["category"]],
            translation=tuple(row["translation"].tolist()),
            size_wlh=tuple(row["size_wlh"].tolist()),
            rotation=tuple(row["rotation"].tolist()),
            velocity=tuple(row["velocity"].tolist()),
            attributes=tuple(name for k, name in enumerate(names.attributes) if bits >> k & 1),
            visibility=names.visibilities[visibility] if visibility >= 0 else "",
            num_lidar_pts=int(row["num_lidar_pts"]),
            num_radar_pts=int(row["num_radar_pts"]),
        )


def _positions(samples: Sequence[Sample]) -> NDArray[np.int64]:
    return np.array([sample.index for sample in samples], dtype=np.int64)


def load_index(root: Path | str, version: str, *, cache: Path | None = None) -> NuScenesIndex:
    """Index a data set.

    Args:
        root: data root, the folder of ``samples/`` and of the table folders.
        version: name of the table folder, such as ``v1.0-mini``.
        cache: file to keep the index in (``.npz``); it is used again as long as the tables' sizes and times have not
            changed. A second file beside it keeps which files are there; folders that have changed are listed again.

    Raises:
        DataError: no root, no such version, a table missing or damaged.
    """
    root = Path(root)
    folder = version_folder(root, version)
    state = table_state(folder)
    found = read_content(cache, state) if cache is not None else ""
    if isinstance(found, Content):
        content, rebuilt = found, ""
    else:
        content, rebuilt = build_content(folder), found
        if cache is not None:
            write_content(cache, state, content)
    known = read_presence(cache, state) if cache is not None and content is found else None
    presence = present_files(root, content, known)
    if cache is not None and presence is not known:
        write_presence(cache, state, presence)
    index = NuScenesIndex(root, version, content, presence, rebuilt=rebuilt)
    logger.info("%s", index.report())
    return index
