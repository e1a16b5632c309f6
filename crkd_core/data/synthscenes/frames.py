"""What the simulated vehicle measures: single sensors at their true rates, and whole annotated frames at any stamp."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.synthscenes.cameras import render
from crkd_core.data.synthscenes.config import (
    CameraMount,
    RadarMount,
    camera_intrinsics,
    camera_mounting,
    lidar_mounting,
)
from crkd_core.data.synthscenes.lidar import Scan, lidar_sweep, scan
from crkd_core.data.synthscenes.radar import radar_sweeps
from crkd_core.data.synthscenes.world import Drive
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import AnnotatedFrame, Boxes3D, CameraImage, FloatArray, RadarSweep, SensorFrame


def keyframe_stamps(drive: Drive) -> list[int]:
    """Stamps of the annotated instants (2 Hz), ns; each is the end of a LiDAR revolution."""
    return _grid(drive, drive.config.keyframe_hz, 0.0)


def lidar_stamps(drive: Drive) -> list[int]:
    """Stamps of the LiDAR revolutions (20 Hz), ns."""
    return _grid(drive, drive.config.lidar_hz, 0.0)


def camera_stamps(drive: Drive, mount: CameraMount) -> list[int]:
    """Stamps of one camera (12 Hz), ns; every sixth belongs to a key frame, up to 48 ms before it."""
    return _grid(drive, drive.config.camera_hz, -mount.lead_ms)


def radar_stamps(drive: Drive, mount: RadarMount) -> list[int]:
    """Stamps of one radar (13 Hz), ns, from the one nearest to the first key frame."""
    first = round(-mount.phase_ms * 1e-3 * drive.config.radar_hz)
    return _grid(drive, drive.config.radar_hz, mount.phase_ms, first)


def camera_image(drive: Drive, mount: CameraMount, stamp_ns: int, width: int | None = None) -> CameraImage:
    """One rendered image at a stamp; ``width`` in pixels, default the configured one."""
    size = drive.config.image_size(width)
    return CameraImage(
        image=render(drive, mount, stamp_ns, size),
        intrinsics=camera_intrinsics(mount, size),
        T_base_from_cam=camera_mounting(mount),
        T_world_from_base=drive.ego_pose(stamp_ns),
        stamp=stamp_ns,
    )


def frame_at(
    drive: Drive,
    stamp_ns: int,
    *,
    image_width: int | None = None,
    sweeps: int = 6,
    with_cameras: bool = True,
    with_lidar: bool = False,
) -> AnnotatedFrame:
    """Everything the vehicle has measured around a stamp, and the truth at it. Nothing is read or written.

    Each sensor is simulated at its own stamps: a camera where it would fire before a LiDAR revolution that ends at
    ``stamp_ns``, a radar at the instant of its 13 Hz grid nearest to the stamp and at the ``sweeps - 1`` before that,
    as in a nuScenes sample. At a stamp of ``keyframe_stamps`` the measurements are those of the written data set.

    Args:
        drive: the drive.
        stamp_ns: reference stamp, from ``drive.start_ns`` to ``drive.duration_s`` later.
        image_width: pixels; images are 16:9.
        sweeps: radar sweeps per radar, 1 to 10.
        with_cameras: also render images, most of the work.
        with_lidar: also return one LiDAR revolution.

    Returns:
        The frame. ``boxes`` are all actors within ``config.annotation_range``. ``num_points`` counts the newest radar
        returns inside each box plus the LiDAR rays that meet it first. An actor
        that is entirely hidden has no ray; a rare radar return may still reach it around an obstacle.

    Raises:
        SynthError: the stamp lies outside the drive.
    """
    config = drive.config
    cameras = {
        mount.name: camera_image(drive, mount, stamp_ns - round(mount.lead_ms * 1e6), image_width)
        for mount in (config.cameras if with_cameras else ())
    }
    radars = radar_history(drive, stamp_ns, sweeps)
    result = scan(drive, stamp_ns)
    frame = SensorFrame(
        cameras=cameras,
        radars=radars,
        stamp=stamp_ns,
        T_world_from_base=drive.ego_pose(stamp_ns),
        T_base_from_bev=lidar_mounting(config),
        lidar=(lidar_sweep(drive, stamp_ns, result),) if with_lidar else (),
    )
    boxes, pick = annotated(drive, stamp_ns)
    points = result.hits()[pick] + radar_points_in_boxes([r[0] for r in radars.values() if r], boxes)
    return AnnotatedFrame(
        frame=frame,
        boxes=boxes.transformed(inverse(frame.T_world_from_base)),
        labels=drive.labels[pick],
        num_points=points.astype(np.int64),
        token=f"synth-{drive.seed}-{stamp_ns}",
    )


def radar_history(drive: Drive, stamp_ns: int, sweeps: int) -> dict[str, list[RadarSweep]]:
    """For each radar the sweep nearest to a stamp and those before it, newest first."""
    hz, scans = drive.config.radar_hz, []
    for mount in drive.config.radars:
        newest = round(((stamp_ns - drive.start_ns) * 1e-9 - mount.phase_ms * 1e-3) * hz)
        scans += [(mount, _on_grid(drive, newest - k, hz, mount.phase_ms)) for k in range(sweeps)]
    results = radar_sweeps(drive, scans)
    return {m.name: results[k * sweeps : (k + 1) * sweeps] for k, m in enumerate(drive.config.radars)}


def annotated(drive: Drive, stamp_ns: int) -> tuple[Boxes3D, NDArray[np.int64]]:
    """The actors within ``config.annotation_range``: boxes in the world frame, and their indices among the actors."""
    states, n = drive.states(stamp_ns), len(drive.actors)
    T = drive.ego_pose(stamp_ns)
    pick = np.flatnonzero(np.linalg.norm(states.xy[:n] - T[:2, 3], axis=1) < drive.config.annotation_range)
    sizes = drive.sizes[pick]
    centers = np.concatenate([states.xy[pick], sizes[:, 2:] / 2], axis=1)
    return Boxes3D(centers, sizes, states.yaw[pick], states.velocity[pick]), pick


def radar_points_in_boxes(sweeps: list[RadarSweep], boxes: Boxes3D) -> NDArray[np.int64]:
    """(N,) radar returns inside each box of the world frame, seen from above (radars do not measure height)."""
    world: list[FloatArray] = []
    for sweep in sweeps:
        p = sweep.points
        xyz = np.stack([p["x"], p["y"], p["z"]], axis=1)
        world.append(apply(sweep.T_world_from_base @ sweep.T_base_from_radar, xyz)[:, :2])
    points = np.concatenate(world) if world else np.zeros((0, 2))
    offset = points[:, None] - boxes.centers[None, :, :2]
    c, s = np.cos(boxes.yaws), np.sin(boxes.yaws)
    along = np.abs(offset[..., 0] * c + offset[..., 1] * s) <= boxes.sizes[:, 0] / 2
    across = np.abs(offset[..., 1] * c - offset[..., 0] * s) <= boxes.sizes[:, 1] / 2
    return np.asarray((along & across).sum(axis=0), dtype=np.int64)


def visibility(result: Scan, pick: NDArray[np.int64]) -> FloatArray:
    """(N,) share of each picked actor's rays that no other body stops before; 0 where no ray points at it.

    Whether they come back does not count: an actor in full view stays visible however far, dark or rained upon.
    """
    return np.asarray(result.met[pick] / np.maximum(result.would_hit[pick], 1))


def _on_grid(drive: Drive, index: int, hz: int, shift_ms: float) -> int:
    """Stamp of a sensor's ``index``-th measurement, rounded to nuScenes' microseconds."""
    return drive.start_ns + round(index * 1_000_000 / hz + shift_ms * 1000) * 1000


def _grid(drive: Drive, hz: int, shift_ms: float, first: int = 0) -> list[int]:
    count = int(np.ceil(drive.duration_s * hz - 1e-9))
    return [_on_grid(drive, k, hz, shift_ms) for k in range(first, count)]
