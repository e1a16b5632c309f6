"""A small teacher: from LiDAR sweeps to boxes, training, checkpoints, and where it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import micro_frame_with_lidar, micro_teacher

from crkd_core.cli import UserError
from crkd_core.config import RecipeError
from crkd_core.data.dataset import TrainingSet, collate_training
from crkd_core.data.encode import encode
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import center_targets
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint, save_checkpoint
from crkd_core.runtime.detector import Detector
from crkd_core.types import LIDAR_DTYPE, LidarSweep
from crkd_ros.answers import make_detector
from crkd_ros.parameters import load_parameters

pytest.importorskip("spconv")


def test_a_training_step_reaches_every_weight() -> None:
    torch.manual_seed(0)
    recipe = micro_teacher()
    samples = TrainingSet([micro_frame_with_lidar(0), micro_frame_with_lidar(1)], recipe)
    batch = collate_training([samples[0, 0], samples[0, 1]])
    model = FusionDetector(recipe).train()
    losses = center_loss(
        model(batch.inputs).joined, center_targets(batch.boxes, batch.labels, recipe), recipe.model.head
    )
    torch.stack(list(losses.values())).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []


@torch.no_grad()
def test_lidar_points_reach_the_camera_map_and_the_lidar_map() -> None:
    torch.manual_seed(0)
    model = FusionDetector(micro_teacher()).eval()
    frame = micro_frame_with_lidar(0).frame
    inputs = encode(frame, model.recipe)
    none = encode(replace(frame, lidar=()), model.recipe)
    with_points, without = model(inputs), model(none)
    assert model.camera.depth_map(inputs, **geometry(inputs)).count_nonzero() > 20
    assert model.camera.depth_map(none, **geometry(none)).count_nonzero() == 0
    assert with_points.other.abs().sum() > 0
    assert without.other.abs().sum() == 0
    assert not torch.allclose(model.camera(inputs), model.camera(none))
    assert with_points.radar_activation is None


def geometry(inputs: object) -> dict[str, torch.Tensor]:
    return {n: getattr(inputs, n) for n in ("intrinsics", "T_bev_from_cam", "image_augment", "bev_augment")}


def test_a_depth_is_drawn_where_its_point_is_seen() -> None:
    """A point 10 m ahead of a camera, at the pixel that the pinhole formula gives."""
    frame = micro_frame_with_lidar(0).frame
    recipe = micro_teacher()
    camera = frame.cameras["CAM_FRONT"]
    in_base = (camera.T_base_from_cam @ [1.0, 0.5, 10.0, 1.0])[:3]
    in_lidar = (np.linalg.inv(frame.T_base_from_bev) @ [*in_base, 1.0])[:3]
    points = np.zeros(1, dtype=LIDAR_DTYPE)
    points["x"], points["y"], points["z"] = in_lidar
    sweep = LidarSweep(points, frame.T_base_from_bev, np.eye(4), frame.stamp)
    inputs = encode(replace(frame, cameras={"CAM_FRONT": camera}, lidar=(sweep,)), recipe)
    model = FusionDetector(recipe)
    (raster,) = model.camera.depth_map(inputs, **geometry(inputs))[:, 0]
    pixel = inputs.image_augment[0].numpy() @ [60 * 0.1 + 48, 60 * 0.05 + 36, 1.0]
    assert raster[int(pixel[1]), int(pixel[0])] == pytest.approx(10.0, abs=1e-3)
    assert raster.count_nonzero() == 1


def test_a_teacher_detects_from_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FusionDetector(micro_teacher()).eval()
    save_checkpoint(tmp_path / "teacher", model, model.recipe)
    loaded, _ = load_checkpoint(tmp_path / "teacher")
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    found = Detector(tmp_path / "teacher", device="cpu")(micro_frame_with_lidar(0).frame)
    assert found.frame_id == "base_link"
    assert len(found) > 0


def test_a_live_detector_refuses_a_teacher_in_one_line(tmp_path: Path) -> None:
    model = FusionDetector(micro_teacher())
    save_checkpoint(tmp_path / "teacher", model, model.recipe)
    parameters = load_parameters(None, {"checkpoint": str(tmp_path / "teacher")})
    with pytest.raises(
        UserError, match=r"recipe 'micro_teacher': a teacher, which reads LiDAR points; .* use a"
    ) as error:
        make_detector(parameters)
    assert isinstance(error.value, RecipeError)
    assert "\n" not in str(error.value)
