"""A sensor frame as arrays of fixed shapes, on the host, and what the GPU makes of their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crkd_core.config import Recipe
from crkd_core.data.encode import CAMERA_ORDER
from crkd_core.data.images import decoded, image_size, undistorted
from crkd_core.data.radar import ordered, used_sweeps
from crkd_core.geometry.transforms import inverse
from crkd_core.ops.image_prepare import prepare_images
from crkd_core.runtime.buffers import Layout
from crkd_core.runtime.placement import Placement, placement, resized
from crkd_core.runtime.radar_records import RECORD, features_of_records
from crkd_core.types import RADAR_DTYPE, CameraImage, NetworkInput, RadarSweep, SensorFrame

Arrays = Mapping[str, NDArray[Any]]

_OUTSIDE = 1e6
"""Where the rays of a camera that is not there begin, m: none of them meets the grid."""


@dataclass(frozen=True)
class Capacity:
    """What there is room for.

    Attributes:
        cameras: images.
        image_bytes: of the rows that the crop needs of each image.
        taps: source lines that make a line of the network's image.
        returns: radar returns of all sweeps.
        sweeps: of all radars together.
    """

    cameras: int = 6
    image_bytes: int = 3 * 1600 * 900
    taps: int = 10
    returns: int = 4096
    sweeps: int = 40

    def holds(self, needed: Capacity) -> bool:
        """Whether there is room for that."""
        return all(mine >= theirs for mine, theirs in zip(astuple(self), astuple(needed), strict=True))

    def grown(self, needed: Capacity) -> Capacity:
        """Room for that too. Radar returns, whose number changes with every frame, at least double."""
        larger = Capacity(*(max(a, b) for a, b in zip(astuple(self), astuple(needed), strict=True)))
        returns = self.returns if self.returns >= needed.returns else max(needed.returns, 2 * self.returns)
        return Capacity(larger.cameras, larger.image_bytes, larger.taps, returns, larger.sweeps)


@dataclass(frozen=True)
class HostFrame:
    """What a frame holds, in the order of the network's input.

    Attributes:
        frame: where it comes from.
        cameras: in their order.
        images: their decoded pixels, (H, W, 3) uint8 each, of which those of ``placements`` matter.
        placements: where they go.
        sweeps: radar sweeps with their age in s.
        returns: their returns one after the other, (P, ``RECORD``) uint8.
    """

    frame: SensorFrame
    cameras: list[CameraImage]
    images: list[NDArray[np.uint8]]
    placements: list[Placement]
    sweeps: list[tuple[RadarSweep, float]]
    returns: NDArray[np.uint8]

    @property
    def needs(self) -> Capacity:
        """The room it takes."""
        return Capacity(
            cameras=len(self.images),
            image_bytes=max((self.strip(i).nbytes for i in range(len(self.images))), default=0),
            taps=max((max(p.rows.weight.shape[1], p.columns.weight.shape[1]) for p in self.placements), default=0),
            returns=len(self.returns),
            sweeps=len(self.sweeps),
        )

    def strip(self, i: int) -> NDArray[np.uint8]:
        """The rows of an image that the crop needs."""
        place = self.placements[i]
        return self.images[i][place.first_row : place.end_row]


def host_frame(frame: SensorFrame, recipe: Recipe, pool: Executor) -> HostFrame:
    """Decode what is encoded, straighten what is distorted, and put a frame in order.

    Args:
        frame: the measurements.
        recipe: of the network.
        pool: threads that decode.

    Raises:
        DataError: an image that cannot be decoded, naming the camera.
        ValueError: radar points that are not of ``RADAR_DTYPE``.
    """
    names = ordered(tuple(frame.cameras), CAMERA_ORDER) if recipe.model.camera is not None else []
    cameras = [frame.cameras[name] for name in names]
    ready = all(not isinstance(camera.image, bytes) and _straight(camera) for camera in cameras)
    found = list((map if ready else pool.map)(lambda name: _source(frame.cameras[name], name, recipe), names))
    radar = recipe.model.radar
    sweeps = used_sweeps(frame, radar.sweeps, repeat_oldest=radar.repeat_oldest) if radar is not None else []
    for sweep, _ in sweeps:
        if sweep.points.dtype != RADAR_DTYPE:
            raise ValueError(f"radar points: expected dtype RADAR_DTYPE, got {sweep.points.dtype}")
    return HostFrame(
        frame=frame,
        cameras=cameras,
        images=[image for image, _ in found],
        placements=[placement(full, (image.shape[1], image.shape[0]), recipe.image) for image, full in found],
        sweeps=sweeps,
        returns=_bytes_of([sweep.points for sweep, _ in sweeps]),
    )


def inbox_layout(room: Capacity) -> Layout:
    """What changes from frame to frame; the images come first."""
    images = room.cameras
    return Layout(
        {
            "pixels": ((images, room.image_bytes), torch.uint8),
            "intrinsics": ((images, 3, 3), torch.float32),
            "T_bev_from_cam": ((images, 4, 4), torch.float32),
            "image_augment": ((images, 3, 3), torch.float32),
            "records": ((room.returns, RECORD), torch.uint8),
            "sweep": ((room.returns,), torch.int32),
            "T_bev_from_radar": ((room.sweeps, 3, 4), torch.float64),
            "age": ((room.sweeps,), torch.float64),
        }
    )


def table_layout(room: Capacity, image_size: tuple[int, int]) -> Layout:
    """What changes with the sizes of the images only."""
    (height, width), images = image_size, room.cameras
    return Layout(
        {
            "pitch": ((images,), torch.int32),
            "row": ((images, height), torch.int32),
            "row_weight": ((images, height, room.taps), torch.int32),
            "column": ((images, width), torch.int32),
            "column_weight": ((images, room.taps, width), torch.int32),
        }
    )


def write_geometry(host: HostFrame, inbox: Arrays) -> bytes:
    """Write the matrices of the cameras; places that no camera takes look away from the grid.

    Returns:
        The bytes that decide which cell a pixel's ray meets: equal bytes, equal plan.
    """
    intrinsics, poses, augments = (inbox[name] for name in ("intrinsics", "T_bev_from_cam", "image_augment"))
    count = len(host.cameras)
    for values in (intrinsics, poses, augments):
        values[count:] = np.eye(values.shape[-1])
    poses[count:, :3, 3] = _OUTSIDE
    if count:
        T_world_from_bev = host.frame.T_world_from_base @ host.frame.T_base_from_bev
        T_world_from_base = np.stack([camera.T_world_from_base for camera in host.cameras])
        T_base_from_cam = np.stack([camera.T_base_from_cam for camera in host.cameras])
        poses[:count] = inverse(T_world_from_bev) @ T_world_from_base @ T_base_from_cam
        intrinsics[:count] = np.stack([camera.intrinsics for camera in host.cameras])
        augments[:count] = np.stack([place.matrix for place in host.placements])
    return intrinsics.tobytes() + poses.tobytes() + augments.tobytes()


def write_radar(host: HostFrame, inbox: Arrays) -> None:
    """Write the returns and the transforms of their sweeps."""
    returns, sweeps = len(host.returns), len(host.sweeps)
    inbox["records"][:returns] = host.returns
    inbox["sweep"][:] = -1
    if not sweeps:
        return
    inbox["sweep"][:returns] = np.repeat(np.arange(sweeps), [len(sweep.points) for sweep, _ in host.sweeps])
    T_bev_from_world = inverse(host.frame.T_world_from_base @ host.frame.T_base_from_bev)
    T_world_from_base = np.stack([sweep.T_world_from_base for sweep, _ in host.sweeps])
    T_base_from_radar = np.stack([sweep.T_base_from_radar for sweep, _ in host.sweeps])
    inbox["T_bev_from_radar"][:sweeps] = (T_bev_from_world @ T_world_from_base @ T_base_from_radar)[:, :3]
    inbox["age"][:sweeps] = [age for _, age in host.sweeps]


def write_tables(place: Placement, row_bytes: int, i: int, tables: Arrays) -> None:
    """Write how image ``i``, whose rows have so many bytes, is resampled."""
    taps = tables["row_weight"].shape[2]
    rows, columns = place.rows.padded(taps), place.columns.padded(taps)
    tables["pitch"][i] = row_bytes
    tables["row"][i], tables["row_weight"][i] = rows.start, rows.weight
    tables["column"][i], tables["column_weight"][i] = columns.start, columns.weight.T


def geometry_input(views: Mapping[str, Tensor], recipe: Recipe) -> NetworkInput:
    """Network input with the matrices only, for ``InferenceNetwork.plan``."""
    device = views["intrinsics"].device
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    return NetworkInput(
        images=torch.zeros(0, 3, *recipe.image.size, device=device),
        image_sample=torch.zeros(len(views["intrinsics"]), dtype=torch.int64, device=device),
        intrinsics=views["intrinsics"],
        T_bev_from_cam=views["T_bev_from_cam"],
        image_augment=views["image_augment"],
        bev_augment=torch.eye(4, device=device)[None],
        radar=torch.zeros(0, 45, device=device),
        radar_sample=nothing,
        lidar=torch.zeros(0, 5, device=device),
        lidar_sample=nothing,
    )


def with_radar(geometry: NetworkInput, radar: Tensor) -> NetworkInput:
    """The same with the radar features of its one sample."""
    sample = torch.zeros(len(radar), dtype=torch.int64, device=radar.device)
    return replace(geometry, radar=radar, radar_sample=sample)


def images_of_bytes(views: Mapping[str, Tensor], tables: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
    """(M, 3, H, W): the images of an inbox."""
    t = tables
    images: Tensor = prepare_images(
        views["pixels"], t["pitch"], t["row"], t["row_weight"], t["column"], t["column_weight"], dtype
    )
    return images


def radar_of_bytes(views: Mapping[str, Tensor], recipe: Recipe) -> Tensor:
    """(P, 45) float32: the radar features of an inbox; rows without a return lie off the grid."""
    outside = min(recipe.bev.x_range[0], recipe.bev.y_range[0]) - 2.0
    return features_of_records(
        views["records"], views["sweep"], views["T_bev_from_radar"], views["age"], outside=outside
    )


def _bytes_of(parts: list[NDArray[np.void]]) -> NDArray[np.uint8]:
    """(P, ``RECORD``): NumPy joins bytes many times faster than records."""
    rows = [np.ascontiguousarray(part).view(np.uint8) for part in parts]
    return np.concatenate(rows).reshape(-1, RECORD) if rows else np.zeros((0, RECORD), np.uint8)


def _straight(camera: CameraImage) -> bool:
    return camera.distortion is None or not np.any(camera.distortion)


def _source(camera: CameraImage, name: str, recipe: Recipe) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The pixels to resample, and (width, height) of the full image, as ``data.images`` chooses them."""
    full = image_size(camera, name)
    halved = recipe.image.resize == "reduced" and isinstance(camera.image, bytes) and _straight(camera)
    if halved and resized(full, recipe.image)[0] <= full[0] // 2:
        return decoded(camera, name, reduction=2), full
    return undistorted(decoded(camera, name), camera), full
