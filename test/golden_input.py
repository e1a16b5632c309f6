"""Network input of the vectors of whole models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crkd_core.types import NetworkInput


def network_input(g: Any, generator: Callable[[int, str], np.random.Generator]) -> NetworkInput:
    """All samples of a file; their images come from the random stream that it names."""
    matrices = {name: g[f"in.{name}"] for name in ("camera_intrinsics", "camera2lidar", "img_aug_matrix")}
    batch, cameras = matrices["camera2lidar"].shape[:2]
    images = generator(g.meta["weight_seed"], "e2e.img").standard_normal((batch, cameras, 3, 256, 704))
    images = images.astype(np.float32)
    if "image_sha256" in g.meta:
        assert hashlib.sha256(images.tobytes()).hexdigest() == g.meta["image_sha256"]
    augment = torch.eye(3).repeat(batch * cameras, 1, 1)
    augment[:, :2, :2] = matrices["img_aug_matrix"].flatten(0, 1)[:, :2, :2]
    augment[:, :2, 2] = matrices["img_aug_matrix"].flatten(0, 1)[:, :2, 3]
    samples = torch.arange(batch)

    def points(name: str, columns: int) -> tuple[Tensor, Tensor]:
        clouds = [g[f"in.{name}{i}"] if f"in.{name}{i}" in g else torch.zeros(0, columns) for i in range(batch)]
        return torch.cat(clouds), torch.repeat_interleave(samples, torch.tensor([len(cloud) for cloud in clouds]))

    radar, radar_sample = points("radar", 45)
    lidar, lidar_sample = points("points", 5)
    return NetworkInput(
        images=torch.from_numpy(images).flatten(0, 1),
        image_sample=samples.repeat_interleave(cameras),
        intrinsics=matrices["camera_intrinsics"].flatten(0, 1)[:, :3, :3].contiguous(),
        T_bev_from_cam=matrices["camera2lidar"].flatten(0, 1),
        image_augment=augment,
        bev_augment=g["in.lidar_aug_matrix"],
        radar=radar,
        radar_sample=radar_sample,
        lidar=lidar,
        lidar_sample=lidar_sample,
    )
