"""From the JSON tables to the index content: joins done once, over whole columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.data import nuscenes_tables as tables
from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes_content import (
    AnnotationColumns,
    CalibrationColumns,
    Content,
    SampleColumns,
    SceneColumns,
    Track,
)
from crkd_core.types import DETECTION_CLASSES

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
    scene_rows = tables.read_table(folder, "scene", tables.SceneRow)
    logs = {row.token: row for row in tables.read_table(folder, "log", tables.LogRow)}
    scene_of = _positions(row.token for row in scene_rows)
    samples = tables.read_table(folder, "sample", tables.SampleRow)
    # References into the table are resolved by token, so rows can be put in the order the index has them.
    scene_index = _resolved(samples, "scene_token", scene_of, "sample", "scene")
    order = np.lexsort((np.array([row.timestamp for row in samples], dtype=np.int64), scene_index))
    samples = [samples[i] for i in order]
    scene_index = scene_index[order]

    calibrations = _calibrations(folder)
    tracks, keys = _tracks(folder, samples, scene_index, len(scene_rows), calibrations)
    annotations, categories, attributes, visibilities = _annotations(folder, samples)
    bounds = np.searchsorted(scene_index, np.arange(len(scene_rows) + 1))
    scenes = []
    for i, row in enumerate(scene_rows):
        first, end = int(bounds[i]), int(bounds[i + 1])
        rows = np.searchsorted(annotations.samples, np.arange(first, end + 1))
        log = logs.get(row.log_token, tables.LogRow(""))
        scenes.append(
            SceneColumns(
                token=row.token,
                name=row.name,
                description=row.description,
                location=log.location,
                vehicle=log.vehicle,
                tracks=tracks[i],
                samples=[
                    SampleColumns(
                        token=samples[s].token,
                        stamp=samples[s].timestamp * _NS_PER_US,
                        key=keys[s],
                        annotations=(int(rows[s - first] - rows[0]), int(rows[s - first + 1] - rows[0])),
                    )
                    for s in range(first, end)
                ],
                annotations=annotations.columns(int(rows[0]), int(rows[-1])),
            )
        )
    return Content(scenes, calibrations.columns, categories, attributes, visibilities)


def _positions(tokens: Iterable[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def _resolved(
    rows: Sequence[object], field: str, positions: Mapping[Any, int], table: str, target: str
) -> NDArray[np.intp]:
    """(n,) position in table ``target`` of what each row's ``field`` refers to."""
    try:
        return np.fromiter((positions[getattr(row, field)] for row in rows), dtype=np.intp, count=len(rows))
    except KeyError as error:
        raise DataError(
            f"{table}.json: {field} {error} is not in {target}.json; the tables are of different versions or incomplete"
        ) from None


@dataclass(frozen=True)
class _Calibrations:
    columns: list[CalibrationColumns]
    tokens: list[str]
    modalities: dict[str, str]


def _calibrations(folder: Path) -> _Calibrations:
    rows = tables.read_table(folder, "calibrated_sensor", tables.CalibratedSensorRow)
    sensors = tables.read_table(folder, "sensor", tables.SensorRow)
    sensor_of = _resolved(rows, "sensor_token", _positions(s.token for s in sensors), "calibrated_sensor", "sensor")
    found = [
        CalibrationColumns(sensors[s].channel, row.translation, row.rotation, row.camera_intrinsic)
        for row, s in zip(rows, sensor_of, strict=True)
    ]
    return _Calibrations(found, [row.token for row in rows], {s.channel: s.modality for s in sensors})


def _tracks(
    folder: Path,
    samples: list[tables.SampleRow],
    scene_index: NDArray[np.intp],
    n_scenes: int,
    calibrations: _Calibrations,
) -> tuple[list[dict[str, Track]], list[dict[str, int]]]:
    """Per scene its tracks by channel, per sample its key frames by channel."""
    rows = tables.read_table(folder, "sample_data", tables.SampleDataRow)
    sample_of = _resolved(rows, "sample_token", _positions(s.token for s in samples), "sample_data", "sample")
    calibration_of = _resolved(
        rows, "calibrated_sensor_token", _positions(calibrations.tokens), "sample_data", "calibrated_sensor"
    )
    poses = _poses(folder, rows)
    channels = sorted(calibrations.modalities)
    number = _positions(channels)
    channel_of = np.array([number[c.channel] for c in calibrations.columns], dtype=np.intp)[calibration_of]
    scene_of = scene_index[sample_of]
    stamps = np.fromiter((row.timestamp for row in rows), dtype=np.int64, count=len(rows)) * _NS_PER_US
    key = np.fromiter((row.is_key_frame for row in rows), dtype=np.bool_, count=len(rows))
    order = np.lexsort((stamps, channel_of, scene_of))
    group = scene_of[order] * len(channels) + channel_of[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    tracks: list[dict[str, Track]] = [{} for _ in range(n_scenes)]
    keys: list[dict[str, int]] = [{} for _ in samples]
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        picked = order[start:end]
        first = rows[picked[0]]
        channel = channels[channel_of[picked[0]]]
        tracks[scene_of[picked[0]]][channel] = Track(
            modality=calibrations.modalities[channel],
            image_size=(first.width or 0, first.height or 0),
            stamps=stamps[picked],
            key=key[picked],
            poses=poses[picked],
            calibrations=calibration_of[picked].astype(np.int32),
            files=np.array([rows[i].filename.encode() for i in picked]),
        )
        for position in np.flatnonzero(key[picked]):
            keys[sample_of[picked[position]]][channel] = int(position)
    return tracks, keys


def _poses(folder: Path, rows: list[tables.SampleDataRow]) -> NDArray[np.float64]:
    pose_rows = tables.read_table(folder, "ego_pose", tables.EgoPoseRow)
    picked = _resolved(rows, "ego_pose_token", _positions(p.token for p in pose_rows), "sample_data", "ego_pose")
    poses = np.array([(*p.rotation, *p.translation) for p in pose_rows], dtype=np.float64).reshape(-1, 7)
    return poses[picked]


class _Annotations:
    """All annotations, sorted by sample."""

    def __init__(self, columns: dict[str, NDArray[np.generic]], samples: NDArray[np.intp]) -> None:
        self._columns = columns
        self.samples = samples

    def columns(self, first: int, end: int) -> AnnotationColumns:
        """The annotations of one scene."""
        return AnnotationColumns(**{name: column[first:end] for name, column in self._columns.items()})  # type: ignore[arg-type]


def _annotations(folder: Path, samples: list[tables.SampleRow]) -> tuple[_Annotations, list[str], list[str], list[str]]:
    """Annotations sorted by sample, category names, attribute names, visibility levels."""
    rows = tables.read_table(folder, "sample_annotation", tables.AnnotationRow)
    instances = tables.read_table(folder, "instance", tables.InstanceRow)
    categories = tables.read_table(folder, "category", tables.NamedRow)
    attributes = tables.read_table(folder, "attribute", tables.NamedRow)
    visibilities = tables.read_table(folder, "visibility", tables.VisibilityRow)

    sample_of = _resolved(rows, "sample_token", _positions(s.token for s in samples), "sample_annotation", "sample")
    order = np.argsort(sample_of, kind="stable")
    velocities = _velocities(rows, np.array([s.timestamp for s in samples], dtype=np.int64)[sample_of])[order]
    rows = [rows[i] for i in order]
    categories_by_token = _positions(row.token for row in categories)
    category_of = _resolved(instances, "category_token", categories_by_token, "instance", "category")
    instances_by_token = _positions(row.token for row in instances)
    instance_of = _resolved(rows, "instance_token", instances_by_token, "sample_annotation", "instance")
    names = [CLASS_OF_CATEGORY.get(c.name) for c in categories]
    label_of = np.array([DETECTION_CLASSES.index(n) if n else -1 for n in names], dtype=np.int8)
    visibilities_by_token: dict[str | None, int] = {"": -1, None: -1}
    visibilities_by_token.update((row.token, i) for i, row in enumerate(visibilities))
    visibility_of = _resolved(rows, "visibility_token", visibilities_by_token, "sample_annotation", "visibility")
    picked = category_of[instance_of]
    columns: dict[str, NDArray[np.generic]] = {
        "tokens": _tokens(row.token for row in rows),
        "instances": _tokens(row.instance_token for row in rows),
        "categories": picked.astype(np.int32),
        "labels": label_of[picked],
        "attributes": _attribute_bits(rows, attributes),
        "visibilities": visibility_of.astype(np.int8),
        "translations": _vectors((row.translation for row in rows), 3),
        "sizes_wlh": _vectors((row.size for row in rows), 3),
        "rotations": _vectors((row.rotation for row in rows), 4),
        "velocities": velocities,
        "num_lidar_pts": np.array([row.num_lidar_pts for row in rows], dtype=np.int32),
        "num_radar_pts": np.array([row.num_radar_pts for row in rows], dtype=np.int32),
    }
    return (
        _Annotations(columns, sample_of[order]),
        [c.name for c in categories],
        [a.name for a in attributes],
        [v.level for v in visibilities],
    )


def _tokens(tokens: Iterable[str]) -> NDArray[np.bytes_]:
    encoded = [token.encode() for token in tokens]
    return np.array(encoded) if encoded else np.zeros(0, dtype="S1")


def _vectors(values: Iterable[tuple[float, ...]], width: int) -> NDArray[np.float64]:
    return np.array(list(values), dtype=np.float64).reshape(-1, width)


def _attribute_bits(rows: list[tables.AnnotationRow], attributes: list[tables.NamedRow]) -> NDArray[np.int64]:
    bit = {row.token: 1 << i for i, row in enumerate(attributes)}
    try:
        return np.array([sum(bit[token] for token in row.attribute_tokens) for row in rows], dtype=np.int64)
    except KeyError as error:
        raise DataError(f"sample_annotation.json: attribute token {error} is not in attribute.json") from None


def _velocities(rows: list[tables.AnnotationRow], timestamps: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 3) m/s: between the previous and the next annotation of the object, or one of them and this one.

    NaN where the object was annotated once, or where these are further apart than ``MAX_TIME_DIFF`` allows: the same
    rule as the official metric's.
    """
    positions = _positions(row.token for row in rows)
    here = np.arange(len(rows))
    ends = []
    for field in ("prev", "next"):
        linked = np.array([getattr(row, field) != "" for row in rows], dtype=np.bool_)
        neighbour = here.copy()
        neighbour[linked] = _resolved(
            [row for row, link in zip(rows, linked, strict=True) if link],
            field,
            positions,
            "sample_annotation",
            "sample_annotation",
        )
        ends.append(neighbour)
    first, last = ends
    translations = _vectors((row.translation for row in rows), 3)
    seconds = 1e-6 * timestamps[last] - 1e-6 * timestamps[first]
    central = (first != here) & (last != here)
    known = (first != last) & (seconds > 0) & (seconds <= np.where(central, 2 * MAX_TIME_DIFF, MAX_TIME_DIFF))
    velocities = np.full((len(rows), 3), np.nan)
    velocities[known] = (translations[last[known]] - translations[first[known]]) / seconds[known, None]
    return velocities
