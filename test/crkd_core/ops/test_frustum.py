"""Cells of the points on the rays: the kernel against torch, and places that are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.frustum import Z_RANGE, _frustum_cells, frustum_cells, frustum_cells_reference, pixel_grid

KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GRID = BevGrid((-10.0, -12.0), (0.5, 0.75), (40, 32), (-5.0, 3.0))
SETTINGS = ([*GRID.lower, Z_RANGE[0]], [*GRID.cell, Z_RANGE[1] - Z_RANGE[0]], list(GRID.shape))


def random_geometry(images: int, samples: int) -> dict[str, Tensor]:
    """Cameras in any attitude, images and scenes turned, scaled and moved."""
    generator = torch.Generator().manual_seed(images)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    T_bev_from_cam, bev_augment = torch.eye(4).repeat(images, 1, 1), torch.eye(4).repeat(samples, 1, 1)
    T_bev_from_cam[:, :3, :3] = torch.linalg.qr(normal(images, 3, 3)).Q
    T_bev_from_cam[:, :3, 3] = normal(images, 3)
    bev_augment[:, :3] += 0.2 * normal(samples, 3, 4)
    intrinsics = torch.tensor([[90.0, 0.5, 50.0], [0.0, 95.0, 30.0], [0.0, 0.0, 1.0]]).repeat(images, 1, 1)
    image_augment = torch.eye(3).repeat(images, 1, 1)
    image_augment[:, :2, :2] += 0.2 * normal(images, 2, 2)
    image_augment[:, :2, 2] = 4 * normal(images, 2)
    return {
        "image_sample": torch.arange(images) % max(samples, 1),
        "intrinsics": intrinsics,
        "T_bev_from_cam": T_bev_from_cam,
        "image_augment": image_augment,
        "bev_augment": bev_augment,
    }


def test_cells_of_a_level_camera() -> None:
    # Looks along +y of the BEV frame from its origin: bin d is d m ahead, the middle column straight ahead.
    T_bev_from_cam = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]])
    intrinsics = torch.tensor([[[2.0, 0, 1], [0, 2, 1], [0, 0, 1]]])
    pixels = pixel_grid((3, 3), (3, 3)).view(3, 3, 2)
    depths, image_sample = torch.tensor([1.0, 5.0, 20.0]), torch.tensor([0])
    scene, image = torch.eye(4)[None], torch.eye(3)[None]
    cells = frustum_cells(pixels, depths, image_sample, intrinsics, T_bev_from_cam, image, scene, GRID)
    assert cells.shape == (1, 3, 3, 3)
    assert cells[0, 1, :, 1].tolist() == [20 * 32 + 17, 20 * 32 + 22, -1]
    assert (cells[0, 0, 1] == 15 * 32 + 22).all()  # 2.5 m to the left, at any height


def test_the_cell_below_the_lower_border_counts_into_the_first() -> None:
    down = torch.tensor([[[1.0, 0, 0, -10.4], [0, -1, 0, -12.7], [0, 0, -1, 0], [0, 0, 0, 1]]])
    eye, scene = torch.eye(3)[None], torch.eye(4)[None]
    origin, depths = torch.zeros(1, 1, 2), torch.tensor([1.0, 29.9, 30.1])
    cells = frustum_cells(origin, depths, torch.tensor([0]), eye, down, eye, scene, GRID)
    assert Z_RANGE == (-10.0, 10.0)
    assert cells.flatten().tolist() == [0, 0, -1]


@pytest.mark.kernels
@pytest.mark.parametrize(("images", "samples", "size"), [(4, 2, (7, 5)), (1, 1, (1, 1)), (0, 0, (2, 3))])
def test_kernel_equals_reference(images: int, samples: int, size: tuple[int, int]) -> None:
    geometry = random_geometry(images, samples)
    pixels, depths = pixel_grid((56, 100), size).unflatten(0, size), torch.arange(1.0, 12.0, 0.5)
    expected = frustum_cells_reference(pixels, depths, **geometry, grid=GRID)
    first, *matrices = (x.to(KERNEL_DEVICE) for x in geometry.values())
    matrices[0] = matrices[0].mT.contiguous().mT  # not contiguous
    cells = _frustum_cells(pixels.to(KERNEL_DEVICE), depths.to(KERNEL_DEVICE), first, matrices, *SETTINGS).cpu()
    assert cells.shape == expected.shape
    if images == 4:
        assert 0.2 < (expected >= 0).float().mean() < 0.95
    # Another order of rounding may move a point over a border.
    assert (cells != expected).sum() <= 1e-3 * cells.numel()


@pytest.mark.kernels
def test_torch_sees_through_the_operation() -> None:
    geometry = random_geometry(2, 1)
    pixels, depths = pixel_grid((56, 100), (2, 3)).unflatten(0, (2, 3)), torch.arange(1.0, 5.0)
    pixels, depths, first, *matrices = (x.to(KERNEL_DEVICE) for x in (pixels, depths, *geometry.values()))
    arguments = (pixels, depths, first, matrices, *SETTINGS)
    torch.library.opcheck(_frustum_cells, arguments, test_utils=("test_schema", "test_faketensor"))
