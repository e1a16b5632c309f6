"""From the JSON tables to the index content: read once, in parts, and joined over whole columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.data import nuscenes_tables as tables
from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes_columns import (
    CALIBRATION_DTYPE,
    RECORD_DTYPE,
    Content,
    Description,
    SceneDescription,
    annotation_dtype,
    sample_dtype,
)
from crkd_core.data.nuscenes_files import file_pattern
from crkd_core.geometry.transforms import transform

CLASS_OF_CATEGORY = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""nuScenes category -> detection class; objects of other categories are not detected."""

MAX_TIME_DIFF = 1.5
"""Longest time between the two annotations a velocity is computed from, s; twice that for a central difference."""

_NS_PER_US = 1000


def build_content(folder: Path) -> Content:
    """Read all tables of a version folder and join them.

    Raises:
        DataError: a table is damaged, or a row refers to a row that another table does not have.
    """
    try:
        return _build(folder)
    except DataError as error:
        where = str(folder)
        raise (error if str(error).startswith(where) else DataError(f"{where}: {error}")) from None


def _build(folder: Path) -> Content:
    scenes = tables.read_rows(folder, "scene", tables.SceneRow)
    samples = _samples(folder, scenes)
    sensors = _sensors(folder)
    measured = _measurements(folder, samples, sensors, len(scenes))
    annotated = _annotations(folder, samples)
    bounds = np.searchsorted(samples.scenes, np.arange(len(scenes) + 1)).tolist()
    logs = {row.token: row for row in tables.read_rows(folder, "log", tables.LogRow)}
    described = []
    for i, row in enumerate(scenes):
        log = logs.get(row.log_token, tables.LogRow(""))
        described.append(
            SceneDescription(row.token, row.name, row.description, log.location, log.vehicle, bounds[i], bounds[i + 1])
        )
    return Content(
        description=Description(
            described,
            sensors.channels,
            sensors.modalities,
            annotated.categories,
            annotated.attributes,
            annotated.visibilities,
        ),
        records=measured.records,
        tracks=measured.tracks,
        image_sizes=measured.image_sizes,
        files=measured.files,
        calibrations=sensors.calibrations,
        samples=_sample_rows(samples, annotated.sample_of),
        keys=measured.keys,
        annotations=annotated.rows,
        instances=annotated.instances,
    )


def _positions(tokens: Iterable[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _resolved(
    tokens: Iterable[str | None], positions: Mapping[Any, int], *, field: str, table: str, target: str
) -> NDArray[np.int32]:
    """(n,) position in table ``target`` of what each row's ``field`` refers to."""
    try:
        return np.fromiter((positions[token] for token in tokens), dtype=np.int32)
    except KeyError as error:
        raise DataError(
            f"{table}.json: {field} {error} is not in {target}.json; the tables are of different versions or incomplete"
        ) from None


def _bytes(tokens: Iterable[str]) -> NDArray[np.bytes_]:
    encoded = [token.encode() for token in tokens]
    return np.array(encoded) if encoded else np.zeros(0, dtype="S1")


def _joined(parts: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)


@dataclass(frozen=True)
class _Samples:
    """Columns of the samples, sorted by scene and time, and the row of each token."""

    tokens: list[str]
    microseconds: NDArray[np.int64]
    scenes: NDArray[np.int32]
    row_of: dict[str, int]


def _samples(folder: Path, scenes: list[tables.SceneRow]) -> _Samples:
    rows = tables.read_rows(folder, "sample", tables.SampleRow)
    scene_of = _resolved(
        (row.scene_token for row in rows),
        _positions(row.token for row in scenes),
        field="scene_token",
        table="sample",
        target="scene",
    )
    times = np.array([row.timestamp for row in rows], dtype=np.int64)
    order = np.lexsort((times, scene_of))
    tokens = [rows[i].token for i in order]
    return _Samples(tokens, times[order], scene_of[order], _positions(tokens))


def _sample_rows(samples: _Samples, sample_of_annotation: NDArray[np.int32]) -> NDArray[np.void]:
    tokens = _bytes(samples.tokens)
    rows = np.zeros(len(tokens), dtype=sample_dtype(tokens.itemsize))
    bounds = np.searchsorted(sample_of_annotation, np.arange(len(tokens) + 1))
    rows["token"] = tokens
    rows["stamp"] = samples.microseconds * _NS_PER_US
    rows["scene"] = samples.scenes
    rows["first_annotation"], rows["end_annotation"] = bounds[:-1], bounds[1:]
    return rows


@dataclass(frozen=True)
class _Sensors:
    """Channels sorted by name, the mountings, and the row of each mounting's token."""

    channels: list[str]
    modalities: list[str]
    calibrations: NDArray[np.void]
    row_of: dict[str, int]


def _sensors(folder: Path) -> _Sensors:
    rows = tables.read_rows(folder, "calibrated_sensor", tables.CalibratedSensorRow)
    sensors = tables.read_rows(folder, "sensor", tables.SensorRow)
    sensor_of = _resolved(
        (row.sensor_token for row in rows),
        _positions(sensor.token for sensor in sensors),
        field="sensor_token",
        table="calibrated_sensor",
        target="sensor",
    )
    modality_of = {sensor.channel: sensor.modality for sensor in sensors}
    channels = sorted(modality_of)
    calibrations = np.zeros(len(rows), dtype=CALIBRATION_DTYPE)
    for i, (row, sensor) in enumerate(zip(rows, sensor_of, strict=True)):
        K = row.camera_intrinsic
        calibrations[i] = (
            channels.index(sensors[sensor].channel),
            transform(row.rotation, row.translation),
            bool(K),
            K or np.zeros((3, 3)),
        )
    return _Sensors(channels, [modality_of[c] for c in channels], calibrations, _positions(row.token for row in rows))


@dataclass(frozen=True)
class _Measurements:
    records: NDArray[np.void]
    tracks: NDArray[np.int64]
    image_sizes: NDArray[np.int32]
    files: NDArray[np.bytes_]
    keys: NDArray[np.int32]


def _measurements(folder: Path, samples: _Samples, sensors: _Sensors, n_scenes: int) -> _Measurements:
    n_channels = len(sensors.channels)
    records, sample_of, sizes, files = _records(folder, samples, sensors)
    channel_of = sensors.calibrations["channel"][records["calibration"]]
    group = samples.scenes[sample_of].astype(np.int64) * n_channels + channel_of
    order = np.lexsort((records["stamp"], group))
    records, sample_of, group, channel_of = records[order], sample_of[order], group[order], channel_of[order]
    tracks = np.searchsorted(group, np.arange(n_scenes * n_channels + 1)).astype(np.int64)
    image_sizes = np.zeros((n_scenes * n_channels, 2), dtype=np.int32)
    filled = tracks[:-1] < tracks[1:]
    image_sizes[filled] = sizes[order[tracks[:-1][filled]]]
    keys = np.full((len(samples.tokens), n_channels), -1, dtype=np.int32)
    key = np.flatnonzero(records["is_key_frame"])
    keys[sample_of[key], channel_of[key]] = key
    return _Measurements(records, tracks, image_sizes, files, keys)


def _records(
    folder: Path, samples: _Samples, sensors: _Sensors
) -> tuple[NDArray[np.void], NDArray[np.int32], NDArray[np.int32], NDArray[np.bytes_]]:
    """Records in the order of the table; the sample and the image size (n, 2) of each; the patterns of the files."""
    pose_of, poses = _poses(folder)
    patterns: dict[bytes, int] = {}
    parts: list[tuple[NDArray[Any], ...]] = []
    for rows in tables.read_table(folder, "sample_data", tables.SampleDataRow):

        def resolved(field: str, positions: Mapping[str, int], target: str, rows: Any = rows) -> NDArray[np.int32]:
            tokens = (getattr(row, field) for row in rows)
            return _resolved(tokens, positions, field=field, table="sample_data", target=target)

        sample_of = resolved("sample_token", samples.row_of, "sample")
        part = np.zeros(len(rows), dtype=RECORD_DTYPE)
        part["calibration"] = resolved("calibrated_sensor_token", sensors.row_of, "calibrated_sensor")
        pose = poses[resolved("ego_pose_token", pose_of, "ego_pose")]
        part["rotation"], part["translation"] = pose[:, :4], pose[:, 4:]
        part["stamp"] = np.array([row.timestamp for row in rows], dtype=np.int64) * _NS_PER_US
        part["file"] = [patterns.setdefault(file_pattern(r.filename, r.timestamp), len(patterns)) for r in rows]
        part["is_key_frame"] = [row.is_key_frame for row in rows]
        size = np.array([(row.width or 0, row.height or 0) for row in rows], dtype=np.int32).reshape(-1, 2)
        parts.append((part, sample_of, size))
    records, samples_of, sizes = zip(*parts, strict=True)
    files = np.array(list(patterns)) if patterns else np.zeros(0, dtype="S1")
    return np.concatenate(records), np.concatenate(samples_of), np.concatenate(sizes), files


def _poses(folder: Path) -> tuple[dict[str, int], NDArray[np.float64]]:
    """The row of each ego pose's token, and the poses (n, 7): quaternion and translation."""
    row_of: dict[str, int] = {}
    parts = [np.zeros((0, 7))]
    first = 0
    for rows in tables.read_table(folder, "ego_pose", tables.EgoPoseRow):
        row_of.update(zip((row.token for row in rows), range(first, first + len(rows)), strict=True))
        parts.append(np.array([row.rotation + row.translation for row in rows], dtype=np.float64).reshape(-1, 7))
        first += len(rows)
    return row_of, np.concatenate(parts)


@dataclass(frozen=True)
class _Annotations:
    """Annotations sorted by sample, the sample of each, and the names they refer to."""

    rows: NDArray[np.void]
    sample_of: NDArray[np.int32]
    instances: NDArray[np.bytes_]
    categories: list[str]
    attributes: list[str]
    visibilities: list[str]


def _annotations(folder: Path, samples: _Samples) -> _Annotations:
    instances = tables.read_rows(folder, "instance", tables.InstanceRow)
    categories = tables.read_rows(folder, "category", tables.NamedRow)
    attributes = tables.read_rows(folder, "attribute", tables.NamedRow)
    visibilities = tables.read_rows(folder, "visibility", tables.VisibilityRow)
    category_of = _resolved(
        (row.category_token for row in instances),
        _positions(row.token for row in categories),
        field="category_token",
        table="instance",
        target="category",
    )
    instance_of = _positions(row.token for row in instances)
    visibility_of: dict[str | None, int] = {"": -1, None: -1}
    visibility_of.update((row.token, i) for i, row in enumerate(visibilities))
    bit_of = {row.token: 1 << i for i, row in enumerate(attributes)}

    found: list[NDArray[np.void]] = []
    sample_parts: list[NDArray[np.int32]] = []
    links = _Links([], [], [])
    for rows in tables.read_table(folder, "sample_annotation", tables.AnnotationRow):

        def resolved(field: str, positions: Mapping[Any, int], target: str, rows: Any = rows) -> NDArray[np.int32]:
            tokens = (getattr(row, field) for row in rows)
            return _resolved(tokens, positions, field=field, table="sample_annotation", target=target)

        tokens = _bytes(row.token for row in rows)
        part = np.zeros(len(rows), dtype=annotation_dtype(tokens.itemsize))
        part["token"] = tokens
        part["instance"] = resolved("instance_token", instance_of, "instance")
        part["category"] = category_of[part["instance"]]
        part["attributes"] = _attribute_bits(rows, bit_of)
        part["visibility"] = resolved("visibility_token", visibility_of, "visibility")
        for column, values in {
            "translation": [row.translation for row in rows],
            "size_wlh": [row.size for row in rows],
            "rotation": [row.rotation for row in rows],
            "num_lidar_pts": [row.num_lidar_pts for row in rows],
            "num_radar_pts": [row.num_radar_pts for row in rows],
        }.items():
            part[column] = np.array(values, dtype=part.dtype[column].base).reshape(part[column].shape)
        found.append(part)
        sample_parts.append(resolved("sample_token", samples.row_of, "sample"))
        links.extend(rows)
    annotations = _joined(found, annotation_dtype(1))
    sample_of = _joined(sample_parts, np.dtype(np.int32))
    annotations["velocity"] = _velocities(links, annotations["translation"], samples.microseconds[sample_of])
    order = np.argsort(sample_of, kind="stable")
    return _Annotations(
        annotations[order],
        sample_of[order],
        _bytes(row.token for row in instances),
        [row.name for row in categories],
        [row.name for row in attributes],
        [row.level for row in visibilities],
    )


def _attribute_bits(rows: list[tables.AnnotationRow], bit_of: Mapping[str, int]) -> list[int]:
    try:
        return [sum(bit_of[token] for token in row.attribute_tokens) for row in rows]
    except KeyError as error:
        raise DataError(f"sample_annotation.json: attribute token {error} is not in attribute.json") from None


@dataclass(frozen=True)
class _Links:
    """Tokens of all annotations, and of the annotations of the same object before and after each."""

    token: list[str]
    prev: list[str]
    next: list[str]

    def extend(self, rows: list[tables.AnnotationRow]) -> None:
        self.token.extend(row.token for row in rows)
        self.prev.extend(row.prev for row in rows)
        self.next.extend(row.next for row in rows)


def _velocities(
    links: _Links, translations: NDArray[np.float64], microseconds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(n, 3) m/s: between the previous and the next annotation of the object, or one of them and this one.

    NaN where the object was annotated once, or where these are further apart than ``MAX_TIME_DIFF`` allows: the same
    rule as the official metric's.
    """
    row_of = {**_positions(links.token), "": -1}
    here = np.arange(len(links.token))

    def end(tokens: list[str], field: str) -> NDArray[np.int64]:
        linked = _resolved(tokens, row_of, field=field, table="sample_annotation", target="sample_annotation")
        return np.where(linked >= 0, linked, here)

    first, last = end(links.prev, "prev"), end(links.next, "next")
    seconds = 1e-6 * microseconds[last] - 1e-6 * microseconds[first]
    central = (first != here) & (last != here)
    known = (first != last) & (seconds > 0) & (seconds <= np.where(central, 2 * MAX_TIME_DIFF, MAX_TIME_DIFF))
    velocities = np.full((len(here), 3), np.nan)
    velocities[known] = (translations[last[known]] - translations[first[known]]) / seconds[known, None]
    return velocities
