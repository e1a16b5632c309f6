"""What the index keeps of a nuScenes data set: a few arrays, whatever the number of measurements.

Millions of records cost no Python object: they are read where they lie in the index file, and processes share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

RECORD_DTYPE = np.dtype(
    [
        ("stamp", "<i8"),  # ns
        ("rotation", "<f8", 4),  # quaternion (w, x, y, z) of the vehicle in the world at the stamp
        ("translation", "<f8", 3),  # m
        ("calibration", "<i4"),  # row in calibrations
        ("file", "<i4"),  # row in files
        ("is_key_frame", "?"),
    ]
)

CALIBRATION_DTYPE = np.dtype(
    [
        ("channel", "<i4"),  # position in Description.channels
        ("T_base_from_sensor", "<f8", (4, 4)),
        ("has_intrinsics", "?"),
        ("intrinsics", "<f8", (3, 3)),  # K, pixels
    ]
)

STAMP_MARK = b"\0"
"""Stands in a file's pattern for the record's time in microseconds; no path can hold it."""


def sample_dtype(token: int) -> np.dtype[np.void]:
    """A sample whose token is at most so many bytes long."""
    return np.dtype(
        [
            ("token", f"S{token}"),
            ("stamp", "<i8"),  # ns
            ("scene", "<i4"),
            ("first_annotation", "<i8"),
            ("end_annotation", "<i8"),
        ]
    )


def annotation_dtype(token: int) -> np.dtype[np.void]:
    """An annotation whose token is at most so many bytes long."""
    return np.dtype(
        [
            ("token", f"S{token}"),
            ("instance", "<i4"),  # row in instances
            ("category", "<i4"),  # position in Description.categories
            ("attributes", "<u8"),  # bit i: the object has Description.attributes[i]
            ("visibility", "<i4"),  # position in Description.visibilities, -1 unknown
            ("translation", "<f8", 3),  # m, world
            ("size_wlh", "<f8", 3),  # m
            ("rotation", "<f8", 4),  # quaternion (w, x, y, z), world
            ("velocity", "<f8", 3),  # m/s, world; NaN where unknown
            ("num_lidar_pts", "<i4"),
            ("num_radar_pts", "<i4"),
        ]
    )


class SceneDescription(msgspec.Struct, frozen=True):
    """One scene; its samples are rows ``first_sample`` to ``end_sample``."""

    token: str
    name: str
    description: str
    location: str
    vehicle: str
    first_sample: int
    end_sample: int


class Description(msgspec.Struct, frozen=True):
    """What there is few of."""

    scenes: list[SceneDescription]
    channels: list[str]
    """Sorted by name."""
    modalities: list[str]
    """Of the channels."""
    categories: list[str]
    attributes: list[str]
    visibilities: list[str]


@dataclass(frozen=True)
class Content:
    """Everything the tables say that the project uses: S scenes, C channels, N samples, R records, A annotations.

    Attributes:
        description: names.
        records: (R,) ``RECORD_DTYPE``, sorted by scene, channel and stamp.
        tracks: (S * C + 1,) int64: channel c of scene s has the records from ``tracks[s * C + c]`` to the next entry.
        image_sizes: (S * C, 2) int32 width and height of a track's first record; 0, 0 if no camera.
        files: (F,) bytes, paths relative to the data root in which ``STAMP_MARK`` stands for the time.
        calibrations: ``CALIBRATION_DTYPE``.
        samples: (N,) ``sample_dtype``, sorted by scene and stamp.
        keys: (N, C) int32 row of the key frame in ``records``, -1 where there is none.
        annotations: (A,) ``annotation_dtype``, sorted by sample.
        instances: (I,) bytes, tokens.
    """

    description: Description
    records: NDArray[np.void]
    tracks: NDArray[np.int64]
    image_sizes: NDArray[np.int32]
    files: NDArray[np.bytes_]
    calibrations: NDArray[np.void]
    samples: NDArray[np.void]
    keys: NDArray[np.int32]
    annotations: NDArray[np.void]
    instances: NDArray[np.bytes_]

    def track(self, scene: int, channel: int) -> range:
        """Rows of the records of one sensor in one scene, oldest first."""
        i = scene * len(self.description.channels) + channel
        return range(int(self.tracks[i]), int(self.tracks[i + 1]))
