"""Voxels: means, order, limits, samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from crkd_core.ops.voxels import VoxelGrid, voxel_means

GRID = VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 3, 2))


def means(points: Any, sample: list[int] | None = None, **limits: int) -> tuple[torch.Tensor, torch.Tensor]:
    cloud = torch.tensor(points, dtype=torch.float32).view(-1, 4)
    index = torch.tensor(sample or [0] * len(cloud))
    settings = {"batch_size": 2, "max_points": 10, "max_voxels": 10, **limits}
    return voxel_means(cloud, index.long(), GRID, **settings)


@pytest.mark.golden
def test_means_coordinates_and_order(load_golden: Callable[[str], Any]) -> None:
    g = load_golden("lidar_voxelize_mean")
    lower, upper = g.meta["point_cloud_range"][:3], g.meta["point_cloud_range"][3:]
    size = g.meta["voxel_size"]
    shape = tuple(round((b - a) / s) for a, b, s in zip(lower, upper, size, strict=True))
    points = g["in.points"]
    features, coordinates = voxel_means(
        points,
        torch.zeros(len(points), dtype=torch.int64),
        VoxelGrid(tuple(lower), tuple(size), shape),
        batch_size=1,
        max_points=g.meta["max_num_points"],
        max_voxels=g.meta["max_voxels_eval"],
    )
    assert torch.equal(coordinates[:, 1:], g["out.coords"])
    torch.testing.assert_close(features, g["out.mean_features"], rtol=1e-5, atol=1e-5)


def test_mean_of_a_voxel_counts_its_first_points() -> None:
    features, coordinates = means([[0.5, 0, 0, 1], [3, 2, 1, 9], [0.7, 0, 0, 3], [0.9, 0, 0, 50]], max_points=2)
    torch.testing.assert_close(features, torch.tensor([[0.6, 0, 0, 2], [3, 2, 1, 9]]))
    assert coordinates.tolist() == [[0, 0, 0, 0], [0, 3, 2, 1]]
    assert coordinates.dtype == torch.int32


def test_limit_of_voxels_is_per_sample_and_drops_the_later_ones() -> None:
    features, coordinates = means([[2, 0, 0, 1], [1, 0, 0, 2], [2, 0, 0, 3], [1, 0, 0, 4]], [0, 0, 0, 1], max_voxels=1)
    assert coordinates.tolist() == [[0, 2, 0, 0], [1, 1, 0, 0]]
    assert features[:, 3].tolist() == [2, 4]


def test_points_outside_are_dropped() -> None:
    features, _ = means([[-0.1, 0, 0, 1], [4, 0, 0, 1], [0, 0, 2.0, 1]])
    assert features.shape == (0, 4)


def test_no_point() -> None:
    features, coordinates = means([])
    assert features.shape == (0, 4)
    assert coordinates.shape == (0, 4)
