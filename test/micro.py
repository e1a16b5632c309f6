"""A recipe and frames so small that a whole training or detection takes well under a second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from crkd_core.config import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.geometry.transforms import transform
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

# Optical axes (x right, y down, z forward) of a camera that looks along base_link's x.
_FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def micro_recipe(**train: Any) -> Recipe:
    """student_tiny's parts at their smallest; ``train`` replaces training values."""
    values = recipe_to_dict(load_recipe("student_tiny"))
    values["name"] = "micro"
    values["image"] |= {"size": [64, 96], "resized_width": 96, "train_resized_width": [90, 100]}
    values["bev"]["cell"] = 5.4
    camera = {"backbone_width": 16, "neck_channels": 4, "depth": [1.0, 40.0, 4.0], "channels": 8}
    values["model"]["camera"] |= camera
    values["model"]["radar"]["channels"] = [8, 8]
    values["model"]["fuser"]["channels"] = 16
    values["model"]["decoder"] |= {"channels": [16, 16, 16], "blocks": [1, 1, 1], "out_channels": 16}
    values["model"]["head"] |= {"channels": 8, "score_threshold": 0.05}
    values["train"] |= {"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 2, **train}
    return recipe_from_dict(values, source="micro")


def micro_teacher(**train: Any) -> Recipe:
    """A camera + LiDAR teacher of ``micro_recipe``'s sizes, on cells of 1.8 m."""
    values = _on_finer_cells(recipe_to_dict(micro_recipe(**train)))
    values["name"] = "micro_teacher"
    values["model"]["camera"]["view_transform"] = "depth_lss"
    values["model"]["radar"] = None
    values["model"]["lidar"] = {"sweeps": 2, "voxel": [0.225, 0.225, 0.2], "channels": [4, 4, 8, 8], "out_channels": 4}
    return recipe_from_dict(values, source="micro_teacher")


def micro_crkd(distillation: dict[str, Any] | None = None, **train: Any) -> Recipe:
    """A student that can learn from ``micro_teacher``."""
    values = _on_finer_cells(recipe_to_dict(micro_recipe(**train)))
    values["name"] = "micro_crkd"
    values["model"]["radar"]["calibration"] = True
    values["distillation"] = distillation or {}
    return recipe_from_dict(values, source="micro_crkd")


def _on_finer_cells(values: dict[str, Any]) -> dict[str, Any]:
    values["bev"] |= {"cell": 1.8, "x_range": [-43.2, 43.2], "y_range": [-43.2, 43.2]}
    return values


def micro_frame_with_lidar(seed: int) -> AnnotatedFrame:
    """``micro_frame`` with three LiDAR sweeps."""
    annotated = micro_frame(seed)
    rng = np.random.default_rng(seed)
    sweeps = []
    for age in range(3):
        points = np.zeros(800, dtype=LIDAR_DTYPE)
        points["x"], points["y"] = rng.uniform(-30, 30, 800), rng.uniform(2, 40, 800)
        points["z"] = rng.uniform(-2, 1, 800)
        frame = annotated.frame
        sweeps.append(LidarSweep(points, frame.T_base_from_bev, np.eye(4), frame.stamp - age * 50_000_000))
    return replace(annotated, frame=replace(annotated.frame, lidar=tuple(sweeps)))


def micro_frame(seed: int) -> AnnotatedFrame:
    """Two cameras, one radar with two sweeps, three boxes; all random."""
    rng = np.random.default_rng(seed)
    stamp = 1_000_000_000 * (1 + seed)
    cameras = {
        name: CameraImage(
            image=rng.integers(0, 255, (72, 96, 3), dtype=np.uint8),
            intrinsics=np.array([[60.0, 0, 48], [0, 60, 36], [0, 0, 1]]),
            T_base_from_cam=transform(_FORWARD, [1.5, y, 1.5]),
            T_world_from_base=np.eye(4),
            stamp=stamp,
        )
        for name, y in (("CAM_FRONT", 0.0), ("CAM_FRONT_LEFT", 0.5))
    }
    sweeps = []
    for age in range(2):
        points = np.zeros(20, dtype=RADAR_DTYPE)
        points["x"], points["y"] = rng.uniform(2, 40, 20), rng.uniform(-20, 20, 20)
        points["ambig_state"] = 3
        sweeps.append(RadarSweep(points, transform(np.eye(3), [3.5, 0, 0.5]), np.eye(4), stamp - age * 75_000_000))
    frame = SensorFrame(
        cameras=cameras,
        radars={"RADAR_FRONT": sweeps},
        stamp=stamp,
        T_world_from_base=np.eye(4),
        T_base_from_bev=transform([np.sqrt(0.5), 0, 0, -np.sqrt(0.5)], [1.0, 0, 1.8]),
    )
    boxes = Boxes3D(
        centers=np.column_stack([rng.uniform(5, 40, 3), rng.uniform(-15, 15, 3), np.full(3, 0.8)]),
        sizes=np.tile([4.5, 1.9, 1.6], (3, 1)),
        yaws=rng.uniform(-3, 3, 3),
        velocities=rng.normal(0, 3, (3, 2)),
    )
    return AnnotatedFrame(frame, boxes, np.array([0, 1, 8]), np.array([5, 1, 3]), token=f"micro-{seed}")
