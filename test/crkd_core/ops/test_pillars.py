"""Pillars against a loop over points and the original's voxeliser; their kernels against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.pillars import (
    Pillars,
    _decorate,
    _pillar_map,
    _pillar_map_backward,
    decorate,
    pillar_map,
    pillar_map_reference,
    pillarize,
)

GRID = BevGrid((-5.4, -3.6), (0.6, 0.6), (18, 12), (-5.0, 3.0))
KERNEL_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def grouped_points(points: Tensor, sample: Tensor, *, batch_size: int, max_points: int, max_pillars: int) -> Pillars:
    _, cell = decorate(points, sample, GRID, batch_size=batch_size)
    limits = {"max_points": max_points, "max_pillars": max_pillars}
    return pillarize(cell, sample, num_cells=batch_size * GRID.cells, batch_size=batch_size, **limits)


def members(pillars: Pillars) -> dict[int, list[int]]:
    """The points that count, by cell."""
    found: dict[int, list[int]] = {}
    for cell, point in zip(pillars.cell.tolist(), pillars.order.tolist(), strict=True):
        if cell < pillars.num_cells and len(found.setdefault(cell, [])) < pillars.max_points:
            found[cell].append(point)
    return found


def by_loop(points: Tensor, sample: Tensor, max_points: int, max_pillars: int) -> dict[int, list[int]]:
    """The same, by the definition."""
    found: dict[int, list[int]] = {}
    lower, size = torch.tensor([-5.4, -3.6, -5.0]), torch.tensor([0.6, 0.6, 8.0])
    for i, (point, b) in enumerate(zip(points, sample.tolist(), strict=True)):
        ix, iy, iz = torch.floor((point[:3] - lower) / size).int().tolist()
        if not (0 <= ix < 18 and 0 <= iy < 12 and iz == 0):
            continue
        cell = (b * 18 + ix) * 12 + iy
        if cell not in found and sum(key // (18 * 12) == b for key in found) >= max_pillars:
            continue
        in_pillar = found.setdefault(cell, [])
        if len(in_pillar) < max_points:
            in_pillar.append(i)
    return found


def random_points(seed: int, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = sum(counts)
    points = torch.rand(n, 6, generator=generator) * torch.tensor([8.0, 5.0, 9.0, 1, 1, 1])
    points[:, :3] += torch.tensor([-6.0, -4.0, -5.5])
    sample = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return points, sample


def random_pillars(counts: tuple[int, ...], channels: int, *, max_points: int = 2) -> tuple[Tensor, Pillars]:
    """(P + 1, channels) rows, no two equal in a channel in any type, and pillars of which some are full."""
    points, sample = random_points(5, counts)
    pillars = grouped_points(points, sample, batch_size=len(counts), max_points=max_points, max_pillars=100)
    generator = torch.Generator().manual_seed(0)
    values = [torch.randperm(len(points) + 1, generator=generator) - len(points) // 2 for _ in range(channels)]
    return torch.stack(values, dim=1).float(), pillars


@pytest.mark.parametrize("counts", [(120, 0, 80), (1,), (0, 0), (0, 300)])
@pytest.mark.parametrize(("max_points", "max_pillars"), [(20, 1000), (2, 1000), (3, 7), (1, 1)])
def test_pillars_are_those_of_a_loop(counts: tuple[int, ...], max_points: int, max_pillars: int) -> None:
    points, sample = random_points(3, counts)
    limits = {"max_points": max_points, "max_pillars": max_pillars}
    pillars = grouped_points(points, sample, batch_size=len(counts), **limits)
    assert members(pillars) == by_loop(points, sample, **limits)


@pytest.mark.golden
@pytest.mark.parametrize(("variant", "max_pillars"), [("train", 40), ("eval", 50), ("nolimit", 10**6)])
def test_original_voxeliser(load_golden: Callable[[str], Any], variant: str, max_pillars: int) -> None:
    g = load_golden("radar_voxelize")
    points = torch.cat([g["in.points0"], g["in.points1"]])
    sample = torch.repeat_interleave(torch.arange(2), len(g["in.points0"]))
    pillars = grouped_points(points, sample, batch_size=2, max_points=20, max_pillars=max_pillars)
    names = [k for k in ("coords", "num", "voxels") if f"out.{variant}.{k}0" in g]
    expected = {k: torch.cat([g[f"out.{variant}.{k}{b}"] for b in range(2)]) for k in names}
    # The original stores pillars in the order of their first points.
    found = sorted(members(pillars).items(), key=lambda item: item[1][0])
    assert [(cell // 12 % 18, cell % 12) for cell, _ in found] == [tuple(c) for c in expected["coords"][:, :2].tolist()]
    assert [len(in_pillar) for _, in_pillar in found] == expected["num"].tolist()
    if "voxels" in expected:
        for voxel, (_, in_pillar) in zip(expected["voxels"], found, strict=True):
            assert torch.equal(voxel[: len(in_pillar)], points[in_pillar])


def test_points_added_outside_the_grid_change_nothing() -> None:
    points, sample = random_points(7, (30, 20))
    beyond = points[:9].clone()
    beyond[:, 0] = 1e6
    padded, padded_sample = torch.cat([points, beyond]), torch.cat([sample, torch.ones(9, dtype=torch.int64)])
    limits = {"batch_size": 2, "max_points": 20, "max_pillars": 100}
    assert members(grouped_points(padded, padded_sample, **limits)) == members(grouped_points(points, sample, **limits))


def test_map_counts_empty_slots_as_the_last_row() -> None:
    rows, pillars = random_pillars((60, 40), 4)
    leaf, reference = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    expected = torch.zeros(pillars.num_cells, 4)
    sizes = set()
    for cell, in_pillar in members(pillars).items():
        slots = reference[in_pillar] if len(in_pillar) == 2 else torch.cat([reference[in_pillar], reference[-1:]])
        expected[cell] = slots.amax(0)
        sizes.add(len(in_pillar))
    assert sizes == {1, 2}
    result = pillar_map(leaf, pillars)
    torch.testing.assert_close(result, expected)
    result.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(leaf.grad, reference.grad)


def test_map_has_rows_along_x() -> None:
    points = torch.tensor([[-5.4 + 0.6 * 17.5, -3.6 + 0.6 * 2.5, 0.0]])
    pillars = grouped_points(points, torch.tensor([1]), batch_size=3, max_points=20, max_pillars=10)
    bev = pillar_map(torch.tensor([[2.0, 5.0], [1.0, 1.0]]), pillars).view(3, 18, 12, 2)
    assert bev[1, 17, 2].tolist() == [2.0, 5.0]
    assert bev.abs().sum() == 7.0


def test_no_points() -> None:
    rows, pillars = random_pillars((0, 0), 3)
    assert torch.equal(pillar_map(rows, pillars), torch.zeros(2 * 18 * 12, 3))


def arguments_of_map(rows: Tensor, pillars: Pillars) -> tuple[Any, ...]:
    on_device = (x.to(KERNEL_DEVICE) for x in (rows, pillars.cell, pillars.order))
    return (*on_device, pillars.num_cells, pillars.max_points)


@pytest.mark.kernels
@pytest.mark.parametrize("counts", [(60, 40), (1,), (0, 0), (0, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_kernel_decorates_as_torch_does(counts: tuple[int, ...], dtype: torch.dtype) -> None:
    points, sample = random_points(3, counts)
    points[::7, 0] = -5.4 + 0.6 * torch.arange(len(points[::7])).float()  # on the borders of cells
    if len(points):
        points[-1, 1] = torch.nan
    rows, cell = decorate(points, sample, GRID, batch_size=len(counts), dtype=dtype)
    settings = ([-5.4, -3.6, -5.0], [0.6, 0.6, 8.0], [18, 12], len(counts) * GRID.cells, dtype)
    strided = points.T.contiguous().T.to(KERNEL_DEVICE)
    kernel_rows, kernel_cell = _decorate(strided, sample.to(KERNEL_DEVICE), *settings)
    assert torch.equal(kernel_cell.cpu(), cell)
    tolerance = {"rtol": torch.finfo(dtype).eps, "atol": 2e-6, "equal_nan": True}
    torch.testing.assert_close(kernel_rows.cpu(), rows, **tolerance)


@pytest.mark.kernels
@pytest.mark.parametrize("counts", [(60, 40), (1,), (0, 0)])
@pytest.mark.parametrize(
    ("dtype", "channels", "max_points"),
    [(torch.float32, 5, 2), (torch.float32, 32, 20), (torch.float16, 7, 2), (torch.bfloat16, 7, 3)],
)
def test_kernel_maps_as_torch_does(counts: tuple[int, ...], dtype: torch.dtype, channels: int, max_points: int) -> None:
    rows, pillars = random_pillars(counts, channels, max_points=max_points)
    leaf = rows.to(dtype).requires_grad_()
    expected = pillar_map_reference(leaf, pillars)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    expected.backward(grad)
    rows_on_device, cell, order, num_cells, max_points = arguments_of_map(leaf.detach(), pillars)
    result = _pillar_map(rows_on_device, cell, order, num_cells, max_points)
    assert torch.equal(result.cpu(), expected)
    gradient = _pillar_map_backward(grad.to(KERNEL_DEVICE), rows_on_device, cell, order, max_points).cpu()
    assert leaf.grad is not None
    assert torch.equal(gradient[:-1], leaf.grad[:-1])
    # The empty slot's gradient is a sum over pillars; torch rounds it at each step.
    tolerance = 1e-5 if dtype == torch.float32 else 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(gradient[-1], leaf.grad[-1], rtol=tolerance, atol=tolerance)


@pytest.mark.kernels
def test_torch_sees_through_the_operations() -> None:
    rows, pillars = random_pillars((6, 3), 4)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(_pillar_map, arguments_of_map(rows.requires_grad_(), pillars), test_utils=checks)
    points, sample = (x.to(KERNEL_DEVICE) for x in random_points(3, (6, 3)))
    settings = ([-5.4, -3.6, -5.0], [0.6, 0.6, 8.0], [18, 12], 2 * GRID.cells, torch.float32)
    torch.library.opcheck(_decorate, (points, sample, *settings), test_utils=checks)


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    points, sample = random_points(3, (300, 200))
    maps = []
    for device in ("cpu", "cuda"):
        rows, cell = decorate(points.to(device), sample.to(device), GRID, batch_size=2)
        limits = {"batch_size": 2, "max_points": 3, "max_pillars": 90}
        pillars = pillarize(cell, sample.to(device), num_cells=2 * GRID.cells, **limits)
        rows = rows.detach().requires_grad_()
        result = pillar_map(rows, pillars)
        result.square().sum().backward()
        assert rows.grad is not None
        maps.append((result.detach().cpu(), rows.grad.cpu()))
    for cpu, gpu in zip(*maps, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=1e-5, atol=1e-5)
