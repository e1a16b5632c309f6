"""Annotated frames in one file, simulated once and read by any number of runs on a machine.

A folder holds ``frames.bin``, one msgpack record after the other, and ``frames.json``, what is in it and where. A frame
is read by one ``read`` from a file that the operating system keeps in memory once, however many processes read it.
LiDAR points take 8 bytes: coordinates in steps of 1/256 m (less than the sensor's noise of 2 cm), intensity and ring
in whole numbers, which they are. Everything else is stored as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from crkd_core.config import Recipe
from crkd_core.data.errors import DataError
from crkd_core.data.new_folder import new_folder
from crkd_core.data.parallel import in_order
from crkd_core.data.simulated import FrameKey, drive_name, simulated_frame
from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.types import (
    LIDAR_DTYPE,
    RADAR_DTYPE,
    AnnotatedFrame,
    Boxes3D,
    CameraImage,
    LidarSweep,
    RadarSweep,
    SensorFrame,
)

STEPS_PER_METRE = 256
"""Of packed LiDAR coordinates, which reach to 128 m."""

_PACKED_LIDAR = np.dtype([("x", "<i2"), ("y", "<i2"), ("z", "<i2"), ("intensity", "u1"), ("ring", "u1")])
_DTYPES = (np.dtype("<f8"), np.dtype("<i8"), np.dtype("u1"), RADAR_DTYPE, _PACKED_LIDAR)
"""The number of a type is the code of its extension record."""


class PackedContents(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a folder of packed frames.

    Attributes:
        synthscenes: hash of the simulator's configuration.
        seeds: of the drives, each once.
        frames_per_drive: key frames of each.
        image_width: pixels; 0: no images.
        radar_sweeps: scans per radar.
        lidar_sweeps: which revolutions of the LiDAR, counted back from the key frame, which is 0.
        offsets: N + 1 places in ``frames.bin``, bytes.
        labels: for each frame the classes of its objects that have LiDAR or radar returns.
    """

    synthscenes: str
    seeds: list[int]
    frames_per_drive: int
    image_width: int
    radar_sweeps: int
    lidar_sweeps: list[int]
    offsets: list[int]
    labels: list[list[int]]


class PackedFrames:
    """A frame source over a folder that ``pack_simulated`` has written.

    Attributes:
        contents: what is in it.
    """

    def __init__(self, folder: Path, *, lidar_sweeps: range | None = None) -> None:
        """Open a folder.

        Args:
            folder: of ``pack_simulated``.
            lidar_sweeps: the revolutions of the LiDAR that frames shall have, of those in the folder; None: all.

        Raises:
            DataError: it is none, its file is shorter than it should be, or a revolution is not in it.
        """
        self._file = folder / "frames.bin"
        try:
            content = (folder / "frames.json").read_bytes()
            size = self._file.stat().st_size
        except OSError as error:
            raise DataError(
                f"{folder}: no packed frames ({error.strerror}); training/pack_synthscenes.py makes them"
            ) from None
        try:
            self.contents = msgspec.json.decode(content, type=PackedContents)
        except msgspec.MsgspecError as error:
            raise DataError(
                f"{folder / 'frames.json'}: not a list of packed frames, or one of another version ({error}); pack "
                "them again"
            ) from None
        if size != self.contents.offsets[-1]:
            raise DataError(f"{self._file}: expected {self.contents.offsets[-1]} bytes, found {size}; pack them again")
        held = self.contents.lidar_sweeps
        if lidar_sweeps is not None and not set(lidar_sweeps) <= set(held):
            raise DataError(
                f"{folder}: lidar_sweeps: expected {list(lidar_sweeps)} (0: the key frame), found {held}; "
                f"pack them again with --lidar-sweeps {len(lidar_sweeps)} --lidar-step {lidar_sweeps.step}"
            )
        self._lidar = [held.index(sweep) for sweep in (held if lidar_sweeps is None else lidar_sweeps)]

    def __len__(self) -> int:
        return len(self.contents.labels)

    def __getitem__(self, index: int, /) -> AnnotatedFrame:
        start, end = self.contents.offsets[index : index + 2]
        with self._file.open("rb", buffering=0) as file:
            file.seek(start)
            record = file.read(end - start)
        try:
            return unpacked(record, lidar=self._lidar)
        except _DAMAGE as error:
            raise DataError(f"{self._file}: frame {index} is damaged ({error}); pack them again") from None

    def labels(self) -> list[NDArray[np.int64]]:
        """For each frame, the classes of its objects that have LiDAR or radar returns."""
        return [np.array(labels, dtype=np.int64) for labels in self.contents.labels]


def packed_frames(folder: Path, recipe: Recipe, *, teacher: Recipe | None = None) -> PackedFrames:
    """The frames of a folder, for a detector of a recipe, with the LiDAR sweeps that its teacher reads or, alone, it.

    Raises:
        DataError: see ``PackedFrames``, or they lack images or radar scans that the recipe reads.
    """
    frames = PackedFrames(folder, lidar_sweeps=(teacher or recipe).lidar_sweeps)
    wanted = {"image_width": int(recipe.model.camera is not None), "radar_sweeps": recipe.radar_sweeps}
    for name, least in wanted.items():
        found = getattr(frames.contents, name)
        if found < least:
            raise DataError(f"{folder}: {name}: recipe '{recipe.name}' needs {least}, found {found}")
    return frames


def pack_simulated(
    folder: Path,
    keys: Sequence[FrameKey],
    *,
    image_width: int,
    radar_sweeps: int,
    lidar_sweeps: range,
    jobs: int,
    progress: bool = False,
) -> None:
    """Simulate key frames on ``jobs`` processes into a folder, which appears under its name only when complete.

    Args:
        folder: must not exist.
        keys: see ``simulated.simulated_keys``.
        image_width: pixels of the images; 0: none.
        radar_sweeps: scans per radar.
        lidar_sweeps: which revolutions of the LiDAR, see ``frames.annotated_frame``.
        jobs: processes.
        progress: show a progress bar.

    Raises:
        DataError: the folder exists or cannot be written, or a process has died.
    """
    simulate = functools.partial(
        _simulated, image_width=image_width, radar_sweeps=radar_sweeps, lidar_sweeps=lidar_sweeps
    )
    offsets, labels = [0], []
    with new_folder(folder) as partial:
        with (partial / "frames.bin").open("wb") as file:
            done = in_order(simulate, keys, jobs=jobs, name=drive_name, part=4)
            for record, classes in tqdm(done, total=len(keys), desc="simulate", disable=not progress):
                offsets.append(offsets[-1] + file.write(record))
                labels.append(classes)
        contents = PackedContents(
            synthscenes=SynthConfig().config_hash(),
            seeds=sorted({key.seed for key in keys}),
            frames_per_drive=max((key.of for key in keys), default=0),
            image_width=image_width,
            radar_sweeps=radar_sweeps,
            lidar_sweeps=list(lidar_sweeps),
            offsets=offsets,
            labels=labels,
        )
        (partial / "frames.json").write_bytes(msgspec.json.encode(contents))


def packed(frame: AnnotatedFrame) -> bytes:
    """A frame as one record.

    Raises:
        ValueError: LiDAR points beyond what a record can hold.
    """
    return _ENCODER.encode(frame)


def unpacked(record: bytes, *, lidar: Sequence[int] | None = None) -> AnnotatedFrame:
    """The frame of a record; its arrays cannot be written to.

    Args:
        record: of ``packed``.
        lidar: which of its LiDAR sweeps, by position; the points of the others are not converted. None: all.
    """
    values: dict[str, Any] = _DECODER.decode(record)
    frame = values.pop("frame")
    stored = frame.pop("lidar")
    chosen = range(len(stored)) if lidar is None else lidar
    return AnnotatedFrame(
        frame=SensorFrame(
            cameras={name: CameraImage(**camera) for name, camera in frame.pop("cameras").items()},
            radars={name: [RadarSweep(**sweep) for sweep in sweeps] for name, sweeps in frame.pop("radars").items()},
            lidar=tuple(_lidar(**stored[i]) for i in chosen),
            **frame,
        ),
        boxes=Boxes3D(**values.pop("boxes")),
        **values,
    )


def _simulated(key: FrameKey, *, image_width: int, radar_sweeps: int, lidar_sweeps: range) -> tuple[bytes, list[int]]:
    frame = simulated_frame(
        key,
        image_width=image_width or SynthConfig().image_width,
        radar_sweeps=radar_sweeps,
        lidar_sweeps=lidar_sweeps,
        cameras=image_width > 0,
    )
    return packed(frame), frame.labels[frame.num_points > 0].tolist()


def _as_extension(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a packed frame holds arrays and plain values, got {type(value).__name__}")
    array = _small(value) if value.dtype == LIDAR_DTYPE else value
    shape = np.array([array.ndim, *array.shape], dtype="<i4")
    return msgspec.msgpack.Ext(_DTYPES.index(array.dtype), shape.tobytes() + array.tobytes())


def _from_extension(code: int, data: memoryview) -> Any:
    axes = int(np.frombuffer(data, "<i4", 1)[0])
    shape = np.frombuffer(data, "<i4", axes, offset=4)
    return np.frombuffer(data, _DTYPES[code], offset=4 + 4 * axes).reshape(shape)


def _lidar(points: NDArray[np.void], **values: Any) -> LidarSweep:
    return LidarSweep(points=_large(points), **values)


def _small(points: NDArray[np.void]) -> NDArray[np.void]:
    packed_points = np.empty(points.shape, _PACKED_LIDAR)
    for name in ("x", "y", "z"):
        steps = np.rint(points[name] * STEPS_PER_METRE)
        if len(steps) and np.abs(steps).max() > np.iinfo(np.int16).max:
            raise ValueError(f"LiDAR points: expected {name} within 128 m, got {np.abs(points[name]).max():.1f} m")
        packed_points[name] = steps
    for name in ("intensity", "ring"):
        packed_points[name] = points[name]
    return packed_points


def _large(points: NDArray[np.void]) -> NDArray[np.void]:
    full = np.empty(points.shape, LIDAR_DTYPE)
    for name in ("x", "y", "z"):
        full[name] = points[name] * np.float32(1 / STEPS_PER_METRE)
    for name in ("intensity", "ring"):
        full[name] = points[name]
    return full


_DAMAGE = (msgspec.MsgspecError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What becomes of a record in which bytes have changed; not every change does, numbers of arrays are what they are."""

_ENCODER = msgspec.msgpack.Encoder(enc_hook=_as_extension)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_from_extension)
