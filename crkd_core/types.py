"""The vocabulary that every layer shares: sensor frames in, detections out.

Conventions, written down once (see also ``crkd_core.geometry``):

- SI units, radians. Stamps are integer nanoseconds.
- ``T_a_from_b`` is a (4, 4) float64 homogeneous transform that maps points in frame b to points in frame a.
- ``base`` is the vehicle frame ``base_link`` (REP-103: x forward, y left, z up); ``cam`` a camera optical frame
  (x right, y down, z forward); ``bev`` the network's frame (nuScenes LIDAR_TOP: x right, y forward, z up);
  ``world`` a fixed frame in which the vehicle moves (nuScenes ``global``, ROS ``odom`` or ``map``).
- A box is given at its GEOMETRIC centre, with size (length, width, height) and yaw counter-clockwise about z
  from the x axis of its frame.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]

DETECTION_CLASSES: tuple[str, ...] = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
"""The ten nuScenes detection classes; a label is a position in this tuple."""

RADAR_DTYPE = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("dyn_prop", "i1"),
        ("id", "<i2"),
        ("rcs", "<f4"),
        ("vx", "<f4"),
        ("vy", "<f4"),
        ("vx_comp", "<f4"),
        ("vy_comp", "<f4"),
        ("is_quality_valid", "i1"),
        ("ambig_state", "i1"),
        ("x_rms", "i1"),
        ("y_rms", "i1"),
        ("invalid_state", "i1"),
        ("pdh0", "i1"),
        ("vx_rms", "i1"),
        ("vy_rms", "i1"),
    ]
)
"""One radar return, 43 packed bytes, in the sensor frame: metres, m/s, rcs in dBsm. ``v*`` is measured relative to
the sensor, ``v*_comp`` has the sensor's own motion removed. The states are the ARS 408 codes of nuScenes."""

LIDAR_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<f4")])
"""One LiDAR return of a nuScenes ``.pcd.bin``, in the sensor frame."""


@dataclass(frozen=True)
class CameraImage:
    """One camera image with everything needed to place it in space.

    Attributes:
        image: encoded JPEG or PNG ``bytes``, or RGB uint8 (H, W, 3).
        intrinsics: K, (3, 3) float64, pixels of the full image.
        T_base_from_cam: (4, 4) float64, mounting.
        T_world_from_base: (4, 4) float64, vehicle pose at ``stamp``.
        stamp: acquisition time, ns.
        distortion: OpenCV's coefficients (k1, k2, p1, p2, k3), perhaps with (k4, k5, k6) of its rational model after
            them, or None for a rectified image.
    """

    image: bytes | NDArray[np.uint8]
    intrinsics: FloatArray
    T_base_from_cam: FloatArray
    T_world_from_base: FloatArray
    stamp: int
    distortion: FloatArray | None = None


@dataclass(frozen=True)
class RadarSweep:
    """One radar scan.

    Attributes:
        points: (N,) structured array of ``RADAR_DTYPE``, sensor frame.
        T_base_from_radar: (4, 4) float64, mounting.
        T_world_from_base: (4, 4) float64, vehicle pose at ``stamp``.
        stamp: acquisition time, ns.
    """

    points: NDArray[np.void]
    T_base_from_radar: FloatArray
    T_world_from_base: FloatArray
    stamp: int


@dataclass(frozen=True)
class LidarSweep:
    """One LiDAR revolution; only training a teacher and drawing pictures need it.

    Attributes:
        points: (N,) structured array of ``LIDAR_DTYPE``, sensor frame.
        T_base_from_lidar: (4, 4) float64, mounting.
        T_world_from_base: (4, 4) float64, vehicle pose at ``stamp``.
        stamp: acquisition time, ns.
    """

    points: NDArray[np.void]
    T_base_from_lidar: FloatArray
    T_world_from_base: FloatArray
    stamp: int


@dataclass(frozen=True)
class Manifest:
    """Which measurements a frame was made of: equal manifests mean equal network inputs.

    Attributes:
        stamp: reference stamp, ns.
        sensors: for every sensor present, the stamps used (ns, newest first).
        calibration: hex digest over intrinsics, mounting and the BEV frame of the sensors present.
    """

    stamp: int
    sensors: dict[str, tuple[int, ...]]
    calibration: str


@dataclass(frozen=True)
class SensorFrame:
    """All measurements of one instant. A missing sensor is absent, never zero.

    Attributes:
        cameras: name -> image.
        radars: name -> sweeps, newest first, as many as the model uses.
        stamp: reference stamp, ns; detections refer to it.
        T_world_from_base: (4, 4) float64, vehicle pose at ``stamp``.
        T_base_from_bev: (4, 4) float64, the network's BEV frame on the vehicle (nuScenes: the LIDAR_TOP mounting).
        lidar: sweeps, newest first; empty on a vehicle without LiDAR.
    """

    cameras: dict[str, CameraImage]
    radars: dict[str, list[RadarSweep]]
    stamp: int
    T_world_from_base: FloatArray
    T_base_from_bev: FloatArray
    lidar: tuple[LidarSweep, ...] = ()

    @property
    def manifest(self) -> Manifest:
        """The manifest of this frame's cameras and radars."""
        digest = hashlib.sha256(np.ascontiguousarray(self.T_base_from_bev).tobytes())
        sensors: dict[str, tuple[int, ...]] = {}
        for name, camera in sorted(self.cameras.items()):
            sensors[name] = (camera.stamp,)
            digest.update(name.encode() + camera.intrinsics.tobytes() + camera.T_base_from_cam.tobytes())
            if camera.distortion is not None:
                digest.update(camera.distortion.tobytes())
        for name, sweeps in sorted(self.radars.items()):
            sensors[name] = tuple(sweep.stamp for sweep in sweeps)
            digest.update(name.encode())
            for T in {sweep.T_base_from_radar.tobytes(): None for sweep in sweeps}:
                digest.update(T)
        return Manifest(stamp=self.stamp, sensors=sensors, calibration=digest.hexdigest()[:16])


@dataclass(frozen=True)
class Boxes3D:
    """N boxes of one frame. The only place that does arithmetic on yaw angles.

    Attributes:
        centers: (N, 3) float64, geometric centre, m.
        sizes: (N, 3) float64, length, width, height, m.
        yaws: (N,) float64, counter-clockwise about z from the frame's x axis, rad.
        velocities: (N, 2) float64, m/s over ground along the frame's x and y axes; NaN where unknown.
    """

    centers: FloatArray
    sizes: FloatArray
    yaws: FloatArray
    velocities: FloatArray

    def __post_init__(self) -> None:
        n = len(self.centers)
        for name, shape in (("centers", (n, 3)), ("sizes", (n, 3)), ("yaws", (n,)), ("velocities", (n, 2))):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise ValueError(f"Boxes3D.{name}: expected shape {shape}, got {value.shape}")
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.centers)

    @classmethod
    def empty(cls) -> Boxes3D:
        """No boxes."""
        return cls(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 2)))

    def joined(self, others: Boxes3D) -> Boxes3D:
        """These boxes and then the others, of the same frame."""
        pairs = ((getattr(self, f.name), getattr(others, f.name)) for f in fields(self))
        return Boxes3D(*(np.concatenate(pair) for pair in pairs))

    def filtered(self, mask: ArrayLike) -> Boxes3D:
        """The boxes picked by a boolean mask or an index array, in its order."""
        pick = np.asarray(mask)
        return Boxes3D(self.centers[pick], self.sizes[pick], self.yaws[pick], self.velocities[pick])

    def transformed(self, T_to_from_self: FloatArray) -> Boxes3D:
        """The same boxes in another frame; rotations are taken about z as far as yaw is concerned.

        The heading vector (cos yaw, sin yaw, 0) is rotated and projected to the new xy plane, so that a slightly
        tilted vehicle (roll, pitch) changes yaw only to second order; likewise velocities, whose vertical part is lost.
        """
        R, t = T_to_from_self[:3, :3], T_to_from_self[:3, 3]
        heading = np.stack([np.cos(self.yaws), np.sin(self.yaws)], axis=1) @ R[:2, :2].T
        velocities = self.velocities @ R[:2, :2].T
        return Boxes3D(self.centers @ R.T + t, self.sizes, np.arctan2(heading[:, 1], heading[:, 0]), velocities)

    def moved(self, seconds: float) -> Boxes3D:
        """The boxes displaced by their velocity for ``seconds``; a box of unknown velocity stays."""
        step = np.nan_to_num(self.velocities) * seconds
        return replace(self, centers=self.centers + np.concatenate([step, np.zeros((len(self), 1))], axis=1))

    def corners(self) -> FloatArray:
        """(N, 8, 3): the bottom rectangle counter-clockwise from front-left, then the top one in the same order."""
        unit = 0.5 * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float64)
        xy = unit[None] * self.sizes[:, None, :2]
        c, s = np.cos(self.yaws)[:, None], np.sin(self.yaws)[:, None]
        rotated = np.stack([xy[..., 0] * c - xy[..., 1] * s, xy[..., 0] * s + xy[..., 1] * c], axis=-1)
        rotated = rotated + self.centers[:, None, :2]
        half = 0.5 * self.sizes[:, 2]
        levels = [
            np.concatenate([rotated, np.broadcast_to(z[:, None, None], (len(self), 4, 1))], axis=-1)
            for z in (self.centers[:, 2] - half, self.centers[:, 2] + half)
        ]
        return np.concatenate(levels, axis=1)

    @classmethod
    def from_nuscenes(
        cls, translations: ArrayLike, sizes_wlh: ArrayLike, rotations: ArrayLike, velocities: ArrayLike
    ) -> Boxes3D:
        """From nuScenes annotations or results (global frame).

        Args:
            translations: (N, 3), geometric centres.
            sizes_wlh: (N, 3), width, length, height.
            rotations: (N, 4), quaternions (w, x, y, z).
            velocities: (N, 2), or (N, 3) whose z is dropped.
        """
        q = np.asarray(rotations, dtype=np.float64).reshape(-1, 4)
        w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
        yaws = np.arctan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
        wlh = np.asarray(sizes_wlh, dtype=np.float64).reshape(-1, 3)
        return cls(
            np.asarray(translations, dtype=np.float64).reshape(-1, 3),
            wlh[:, [1, 0, 2]],
            yaws,
            np.asarray(velocities, dtype=np.float64).reshape(len(q), -1 if len(q) else 2)[:, :2],
        )

    def to_nuscenes(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """(translations (N, 3), sizes (w, l, h) (N, 3), rotations (w, x, y, z) (N, 4), velocities (N, 2))."""
        zeros = np.zeros(len(self))
        rotations = np.stack([np.cos(self.yaws / 2), zeros, zeros, np.sin(self.yaws / 2)], axis=1)
        return self.centers, self.sizes[:, [1, 0, 2]], rotations, self.velocities

    @classmethod
    def from_mmdet3d(cls, boxes: ArrayLike) -> Boxes3D:
        """From the original CRKD encoding in the BEV frame (mmdet3d 0.x ``LiDARInstance3DBoxes``).

        Args:
            boxes: (N, 9): x, y, z of the BOTTOM centre, w, l, h, r, vx, vy with r = -yaw - pi/2.
        """
        b = np.asarray(boxes, dtype=np.float64).reshape(-1, 9)
        centers = b[:, :3] + np.stack([np.zeros(len(b)), np.zeros(len(b)), b[:, 5] / 2], axis=1)
        return cls(centers, b[:, [4, 3, 5]], wrapped(-b[:, 6] - np.pi / 2), b[:, 7:9])

    def to_mmdet3d(self) -> FloatArray:
        """(N, 9) float64 in the original CRKD encoding, see ``from_mmdet3d``; r in [-pi, pi)."""
        bottom = self.centers - np.stack([np.zeros(len(self)), np.zeros(len(self)), self.sizes[:, 2] / 2], axis=1)
        r = wrapped(-self.yaws - np.pi / 2)
        return np.concatenate([bottom, self.sizes[:, [1, 0, 2]], r[:, None], self.velocities], axis=1)


@dataclass(frozen=True)
class Detections:
    """Detected (or annotated: score 1) boxes of one frame, in host memory.

    Attributes:
        boxes: geometry, in ``frame_id``.
        scores: (N,) float64 in [0, 1].
        labels: (N,) int64, positions in ``DETECTION_CLASSES``.
        frame_id: name of the frame of ``boxes``.
        stamp: time the boxes refer to, ns.
    """

    boxes: Boxes3D
    scores: FloatArray
    labels: NDArray[np.int64]
    frame_id: str
    stamp: int

    def __post_init__(self) -> None:
        for name, dtype in (("scores", np.float64), ("labels", np.int64)):
            value = np.asarray(getattr(self, name), dtype=dtype)
            if value.shape != (len(self.boxes),):
                raise ValueError(f"Detections.{name}: expected shape ({len(self.boxes)},), got {value.shape}")
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def class_names(self) -> list[str]:
        """The class name of each box."""
        return [DETECTION_CLASSES[label] for label in self.labels]

    def filtered(self, mask: ArrayLike) -> Detections:
        """The detections picked by a boolean mask or an index array, in its order."""
        pick = np.asarray(mask)
        return replace(self, boxes=self.boxes.filtered(pick), scores=self.scores[pick], labels=self.labels[pick])

    def transformed(self, T_to_from_self: FloatArray, frame_id: str) -> Detections:
        """The same detections in the frame ``frame_id``."""
        return replace(self, boxes=self.boxes.transformed(T_to_from_self), frame_id=frame_id)


@dataclass(frozen=True)
class AnnotatedFrame:
    """A sensor frame with its ground truth: what a data set yields and a simulator makes.

    Attributes:
        frame: the measurements.
        boxes: annotated boxes of the ten detection classes, in ``base`` at ``frame.stamp``.
        labels: (N,) int64, positions in ``DETECTION_CLASSES``.
        num_points: (N,) int64, LiDAR plus radar returns inside each box; training uses boxes with at least one.
        token: the sample's name (nuScenes sample token).
    """

    frame: SensorFrame
    boxes: Boxes3D
    labels: NDArray[np.int64]
    num_points: NDArray[np.int64]
    token: str


@dataclass(frozen=True)
class NetworkInput:
    """What the network reads: B samples, M images, P radar and L LiDAR points; a missing sensor simply adds none.

    Attributes:
        images: (M, 3, H, W) RGB, ImageNet-normalised float32 as the network reads it; uint8 pixels in training samples
            and batches until the batch is where it is used.
        image_sample: (M,) int64, the sample each image belongs to, ascending.
        intrinsics: (M, 3, 3) float32, K of the full image.
        T_bev_from_cam: (M, 4, 4) float32, includes the ego motion between the image's stamp and the frame's.
        image_augment: (M, 3, 3) float32, homogeneous pixel of the full image -> pixel of ``images``.
        bev_augment: (B, 4, 4) float32, BEV frame -> augmented BEV frame; identity at test time.
        radar: (P, 45) float32, CRKD's radar features (``data.radar.RADAR_FEATURES``) in the augmented BEV frame.
        radar_sample: (P,) int64, the sample each radar point belongs to, ascending.
        lidar: (L, 5) float32, x, y, z (m, augmented BEV frame), intensity (0 to 255), age (s); only a teacher reads it.
        lidar_sample: (L,) int64, the sample each LiDAR point belongs to, ascending.
    """

    images: torch.Tensor
    image_sample: torch.Tensor
    intrinsics: torch.Tensor
    T_bev_from_cam: torch.Tensor
    image_augment: torch.Tensor
    bev_augment: torch.Tensor
    radar: torch.Tensor
    radar_sample: torch.Tensor
    lidar: torch.Tensor = field(default_factory=lambda: _no_lidar()[0])
    lidar_sample: torch.Tensor = field(default_factory=lambda: _no_lidar()[1])

    @property
    def batch_size(self) -> int:
        """Number of samples B."""
        return len(self.bev_augment)

    def to(self, device: Any, *, non_blocking: bool = False) -> NetworkInput:
        """The same input with every tensor on ``device``."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        return NetworkInput(**moved)


def _no_lidar() -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)


def wrapped(angles: FloatArray) -> FloatArray:
    """Angles wrapped to [-pi, pi)."""
    out = np.asarray((np.asarray(angles) + np.pi) % (2 * np.pi) - np.pi, dtype=np.float64)
    # The remainder of a tiny negative number rounds to the full circle.
    return np.where(out >= np.pi, -np.pi, out)
