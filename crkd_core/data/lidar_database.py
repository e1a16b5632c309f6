"""Annotated objects with their LiDAR points, cut out of a data set once, to be pasted into other scenes.

Per scene two files: ``<scene>.points`` (rows of ``POINT_DTYPE``) and ``<scene>.objects`` (what they belong to). The
latter is written last and in one step: a scene is there as a whole or not at all. Made by ``training/prepare.py``.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.errors import DataError
from crkd_core.data.frames import annotated_frame
from crkd_core.data.lidar import LIDAR_COLUMNS, lidar_points, points_in_boxes
from crkd_core.data.nuscenes import REFERENCE_CHANNEL, NuScenesIndex, Sample, Scene, load_index
from crkd_core.data.parallel import in_order
from crkd_core.geometry.transforms import inverse
from crkd_core.types import Boxes3D

FORMAT = 1
"""Version of the files: raise it whenever what they hold changes."""

POINT_DTYPE = np.dtype([("offset_mm", "<i2", 3), ("intensity", "<f2"), ("age", "<f2")])
"""10 bytes: x, y, z from the middle of the object along the axes of the BEV frame; intensity to 2048 and age to half
a second are exact to 1 and to 0.25 ms."""

OBJECT_DTYPE = np.dtype(
    [
        ("sample", "<i4"),  # position in the scene's samples
        ("label", "i1"),
        ("first", "<i8"),  # row of its first point
        ("count", "<i4"),  # points
        ("center", "<f4", 3),  # m, BEV frame of its sample
        ("size", "<f4", 3),  # length, width, height, m
        ("yaw", "<f4"),
        ("velocity", "<f4", 2),  # m/s; NaN where unknown
    ]
)

_FIX = "run training/prepare.py again"


class SceneObjects(msgspec.Struct, frozen=True):
    """Content of ``<scene>.objects``."""

    format: int
    annotations: str
    """Digest of the scene's annotations, as of ``NuScenesIndex.digest``."""
    sweeps: int
    """Earlier LiDAR sweeps added to the key frame."""
    samples: list[str]
    """Tokens of the samples that were read."""
    damaged: dict[str, str]
    """Tokens of those that could not be, and why."""
    rows: bytes
    """``OBJECT_DTYPE``."""

    def objects(self) -> NDArray[np.void]:
        """(n,) ``OBJECT_DTYPE``."""
        rows: NDArray[np.void] = np.frombuffer(self.rows, dtype=OBJECT_DTYPE)
        return rows


class LidarDatabase:
    """Objects of some samples, to be pasted into others.

    Attributes:
        objects: (n,) ``OBJECT_DTYPE``.
    """

    def __init__(self, folder: Path, scenes: Sequence[str], parts: Sequence[NDArray[np.void]]) -> None:
        self.objects: NDArray[np.void] = np.concatenate([*parts, np.zeros(0, dtype=OBJECT_DTYPE)])
        self._files = [folder / f"{scene}.points" for scene in scenes]
        self._file = np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def __len__(self) -> int:
        return len(self.objects)

    def boxes(self, rows: NDArray[np.int64]) -> Boxes3D:
        """The boxes of some objects, BEV frame."""
        found = self.objects[rows]
        return Boxes3D(found["center"], found["size"], found["yaw"], found["velocity"])

    def points(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(L, 5) points of some objects, one after the other, columns as in ``LIDAR_COLUMNS``, BEV frame.

        Raises:
            DataError: a file is gone or shorter than it was.
        """
        parts = [self._object_points(row) for row in rows.tolist()]
        return np.concatenate([*parts, np.zeros((0, len(LIDAR_COLUMNS)), dtype=np.float32)])

    def _object_points(self, row: int) -> NDArray[np.float32]:
        found, path = self.objects[row], self._files[self._file[row]]
        count = int(found["count"])
        try:
            # Opened for each object: thousands of scenes would be more files than a process may hold open.
            stored = np.fromfile(path, POINT_DTYPE, count, offset=int(found["first"]) * POINT_DTYPE.itemsize)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}; {_FIX}") from None
        if len(stored) < count:
            raise DataError(f"{path}: truncated; {_FIX}")
        xyz = found["center"] + stored["offset_mm"] * np.float32(1e-3)
        columns = [xyz, stored["intensity"][:, None], stored["age"][:, None]]
        return np.concatenate(columns, axis=1, dtype=np.float32)


def open_database(
    folder: Path, index: NuScenesIndex, samples: Collection[Sample], *, sweeps: int, min_points: int
) -> LidarDatabase:
    """The objects of some samples; those of others, such as a validation split, are left out.

    Args:
        folder: where ``build_scene`` has put them.
        index: the data set they were cut out of.
        samples: whose objects to use.
        sweeps: earlier LiDAR sweeps that the model reads; the objects must have been cut out of as many.
        min_points: objects with fewer points are left out.

    Raises:
        DataError: objects of a scene were never cut out, of other annotations, or of another number of sweeps.
    """
    tokens: dict[int, set[str]] = {}
    for sample in samples:
        tokens.setdefault(sample.scene_index, set()).add(sample.token)
    parts = []
    for number, wanted in tokens.items():
        scene = index.scenes[number]
        found = read_scene(folder, scene.name)
        if found is None:
            raise DataError(f"{folder}: no LiDAR objects of {scene.name}; {_FIX}")
        _check_up_to_date(found, index, scene, wanted, sweeps, folder)
        objects = found.objects()
        used = np.array([token in wanted for token in found.samples], dtype=np.bool_)[objects["sample"]]
        parts.append(objects[used & (objects["count"] >= min_points)])
    return LidarDatabase(folder, [index.scenes[number].name for number in tokens], parts)


def _check_up_to_date(
    found: SceneObjects, index: NuScenesIndex, scene: Scene, wanted: set[str], sweeps: int, folder: Path
) -> None:
    where = f"{folder}: LiDAR objects of {scene.name}"
    if found.annotations != index.digest(scene):
        raise DataError(f"{where}: cut out of other annotations than {index.root}/{index.version} has now; {_FIX}")
    if found.sweeps != sweeps:
        raise DataError(f"{where}: expected {sweeps} earlier sweeps (model.lidar.sweeps), got {found.sweeps}; {_FIX}")
    lacking = wanted - {*found.samples, *found.damaged}
    if lacking:
        raise DataError(f"{where}: {len(lacking)} samples were not there yet; {_FIX}")


def read_scene(folder: Path, scene: str) -> SceneObjects | None:
    """What is known of one scene; None if it was never finished, is damaged, or of another version of this program."""
    try:
        found = msgspec.msgpack.decode((folder / f"{scene}.objects").read_bytes(), type=SceneObjects)
        size = (folder / f"{scene}.points").stat().st_size
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    whole = found.format == FORMAT and size == POINT_DTYPE.itemsize * int(found.objects()["count"].sum())
    return found if whole else None


def scene_is_done(folder: Path, index: NuScenesIndex, scene: Scene, *, sweeps: int) -> bool:
    """Whether ``build_scene`` would write what is there already; not if files were damaged: they may be mended now."""
    found = read_scene(folder, scene.name)
    return (
        found is not None
        and not found.damaged
        and (found.annotations, found.sweeps) == (index.digest(scene), sweeps)
        and set(found.samples) == {sample.token for sample in readable_samples(index, scene)}
    )


def readable_samples(index: NuScenesIndex, scene: Scene) -> list[Sample]:
    """The samples of a scene whose LiDAR key frame is there."""
    keys = [(sample, index.key_record(sample, REFERENCE_CHANNEL)) for sample in scene.samples]
    return [sample for sample, key in keys if key is not None and key.present]


def build_scene(index: NuScenesIndex, scene: Scene, folder: Path, *, sweeps: int) -> SceneObjects:
    """Cut the objects out of all samples of a scene and write its two files.

    Args:
        index: the data set.
        scene: one of its scenes.
        folder: where to; it exists.
        sweeps: earlier LiDAR sweeps added to each key frame.

    Raises:
        OSError: the files cannot be written.
    """
    tokens: list[str] = []
    damaged: dict[str, str] = {}
    points: list[NDArray[np.void]] = []
    objects: list[NDArray[np.void]] = []
    first = 0
    for sample in readable_samples(index, scene):
        try:
            cut, rows = _cut_out(index, sample, sweeps)
        except DataError as error:
            damaged[sample.token] = str(error)
            continue
        rows["sample"], rows["first"] = len(tokens), rows["first"] + first
        tokens.append(sample.token)
        points.append(cut)
        objects.append(rows)
        first += len(cut)
    content = SceneObjects(
        format=FORMAT,
        annotations=index.digest(scene),
        sweeps=sweeps,
        samples=tokens,
        damaged=damaged,
        rows=b"".join(rows.tobytes() for rows in objects),
    )
    # A scene built anew is not there until its points are.
    (folder / f"{scene.name}.objects").unlink(missing_ok=True)
    _write(folder / f"{scene.name}.points", b"".join(cut.tobytes() for cut in points))
    _write(folder / f"{scene.name}.objects", msgspec.msgpack.encode(content))
    return content


def build_scenes(
    index: NuScenesIndex, scenes: Sequence[str], folder: Path, *, sweeps: int, index_file: Path, jobs: int
) -> Iterator[SceneObjects]:
    """``build_scene`` for scenes of these names, on ``jobs`` processes, in this order.

    Args:
        index: the data set.
        scenes: names.
        folder: where to; made if it is not there.
        sweeps: as for ``build_scene``.
        index_file: where the processes find the index.
        jobs: processes; 1: this one.

    Raises:
        DataError: a process has died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if jobs == 1:
        yield from (build_scene(index, index.scene(name), folder, sweeps=sweeps) for name in scenes)
        return
    build = functools.partial(_built, index.root, index.version, index_file, folder, sweeps)
    yield from in_order(build, scenes, jobs=jobs)


def _built(root: Path, version: str, index_file: Path, folder: Path, sweeps: int, scene: str) -> SceneObjects:
    index = _index(root, version, index_file)
    return build_scene(index, index.scene(scene), folder, sweeps=sweeps)


@functools.lru_cache(maxsize=1)
def _index(root: Path, version: str, index_file: Path) -> NuScenesIndex:
    return load_index(root, version, cache=index_file)


def _cut_out(index: NuScenesIndex, sample: Sample, sweeps: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """(``POINT_DTYPE``, ``OBJECT_DTYPE``) of one sample's objects that have any point."""
    annotated = annotated_frame(index, sample, channels=(REFERENCE_CHANNEL,), lidar_sweeps=range(1 + sweeps))
    points = lidar_points(annotated.frame, sweeps=sweeps)
    boxes = annotated.boxes.transformed(inverse(annotated.frame.T_base_from_bev))
    inside = points_in_boxes(points[:, :3], boxes)
    counts = np.array([len(rows) for rows in inside], dtype=np.int64)
    kept = np.flatnonzero((counts > 0) & (annotated.num_points > 0))
    objects = np.zeros(len(kept), dtype=OBJECT_DTYPE)
    objects["label"], objects["count"] = annotated.labels[kept], counts[kept]
    objects["first"] = np.cumsum(counts[kept]) - counts[kept]
    objects["center"], objects["size"], objects["yaw"] = boxes.centers[kept], boxes.sizes[kept], boxes.yaws[kept]
    objects["velocity"] = boxes.velocities[kept]
    rows = np.concatenate([*(inside[i] for i in kept), np.zeros(0, dtype=np.int64)])
    stored = np.zeros(len(rows), dtype=POINT_DTYPE)
    centers = np.repeat(objects["center"], objects["count"], axis=0)
    offsets = np.rint(1e3 * (points[rows, :3] - centers))
    if len(rows) and np.abs(offsets).max() > np.iinfo(np.int16).max:
        raise DataError(f"sample {sample.token}: an annotated object longer than 65 m")
    stored["offset_mm"] = offsets
    stored["intensity"], stored["age"] = points[rows, 3], points[rows, 4]
    return stored, objects


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
