"""Pillars against a loop over points, against the original's voxeliser, and their pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from crkd_core.geometry.grid import BevGrid
from crkd_core.ops.pillars import Pillars, pillarize, pool_pillars, scatter_pillars

GRID = BevGrid((-5.4, -3.6), (0.6, 0.6), (18, 12), (-5.0, 3.0))


def stored(points: Tensor, pillars: Pillars, grid: BevGrid, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pillars as the original stores them: voxels (K, slots, F), coords (K, 2), count (K,)."""
    number = int((pillars.count > 0).sum())
    voxels = points.new_zeros(number, slots, points.shape[1])
    kept = pillars.pillar < len(points)
    voxels[pillars.pillar[kept], pillars.slot[kept]] = points[kept]
    flat = pillars.flat_cell[:number]
    return voxels, torch.stack([flat // grid.shape[1] % grid.shape[0], flat % grid.shape[1]], 1), pillars.count[:number]


def by_loop(points: Tensor, sample: Tensor, max_points: int, max_pillars: int) -> dict[tuple[int, int, int], list[int]]:
    """The points of each pillar, in order of first appearance."""
    found: dict[tuple[int, int, int], list[int]] = {}
    lower, size = torch.tensor([-5.4, -3.6, -5.0]), torch.tensor([0.6, 0.6, 8.0])
    for i, (point, b) in enumerate(zip(points, sample.tolist(), strict=True)):
        ix, iy, iz = torch.floor((point[:3] - lower) / size).int().tolist()
        if not (0 <= ix < 18 and 0 <= iy < 12 and iz == 0):
            continue
        if (b, ix, iy) not in found and sum(key[0] == b for key in found) >= max_pillars:
            continue
        members = found.setdefault((b, ix, iy), [])
        if len(members) < max_points:
            members.append(i)
    return found


def random_points(seed: int, counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = sum(counts)
    points = torch.rand(n, 6, generator=generator) * torch.tensor([8.0, 5.0, 9.0, 1, 1, 1])
    points[:, :3] += torch.tensor([-6.0, -4.0, -5.5])
    sample = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return points, sample


@pytest.mark.parametrize("counts", [(120, 0, 80), (1,), (0, 0), (0, 300)])
@pytest.mark.parametrize(("max_points", "max_pillars"), [(20, 1000), (2, 1000), (3, 7), (1, 1)])
def test_pillars_are_those_of_a_loop(counts: tuple[int, ...], max_points: int, max_pillars: int) -> None:
    points, sample = random_points(3, counts)
    limits = {"max_points": max_points, "max_pillars": max_pillars}
    pillars = pillarize(points, sample, GRID, batch_size=len(counts), **limits)
    expected = by_loop(points, sample, **limits)
    assert int((pillars.count > 0).sum()) == len(expected)
    dropped = set(range(len(points)))
    for number, ((b, ix, iy), members) in enumerate(expected.items()):
        assert pillars.flat_cell[number] == (b * 18 + ix) * 12 + iy
        assert pillars.count[number] == len(members)
        assert pillars.pillar[members].tolist() == [number] * len(members)
        assert pillars.slot[members].tolist() == list(range(len(members)))
        dropped -= set(members)
    assert (pillars.pillar[sorted(dropped)] == len(points)).all()


@pytest.mark.golden
@pytest.mark.parametrize(("variant", "max_pillars"), [("train", 40), ("eval", 50), ("nolimit", 10**6)])
def test_original_voxeliser(load_golden: Callable[[str], Any], variant: str, max_pillars: int) -> None:
    g = load_golden("radar_voxelize")
    points = torch.cat([g["in.points0"], g["in.points1"]])
    sample = torch.repeat_interleave(torch.arange(2), len(g["in.points0"]))
    pillars = pillarize(points, sample, GRID, batch_size=2, max_points=20, max_pillars=max_pillars)
    voxels, coords, count = stored(points, pillars, GRID, 20)
    names = [k for k in ("coords", "num", "voxels") if f"out.{variant}.{k}0" in g]
    expected = {k: torch.cat([g[f"out.{variant}.{k}{b}"] for b in range(2)]) for k in names}
    assert torch.equal(coords, expected["coords"][:, :2].long())
    assert torch.equal(count, expected["num"].long())
    if "voxels" in expected:
        assert torch.equal(voxels, expected["voxels"])


@pytest.mark.parametrize("requires_grad", [False, True])
def test_pooling_counts_empty_slots_as_padding(requires_grad: bool) -> None:
    points, sample = random_points(5, (60, 40))
    pillars = pillarize(points, sample, GRID, batch_size=2, max_points=2, max_pillars=100)
    features = torch.randn(len(points), 4, generator=torch.Generator().manual_seed(0)).requires_grad_(requires_grad)
    padding = torch.zeros(4).requires_grad_(requires_grad)
    pooled = pool_pillars(features, padding, pillars, max_points=2)
    number = int((pillars.count > 0).sum())
    expected = []
    for pillar in range(number):
        rows = features[pillars.pillar == pillar]
        expected.append((rows if len(rows) == 2 else torch.cat([rows, padding[None]])).amax(0))
    assert {int(c) for c in pillars.count[:number]} == {1, 2}
    torch.testing.assert_close(pooled[:number], torch.stack(expected))
    if requires_grad:
        ours = torch.autograd.grad(pooled[:number].square().sum(), (features, padding))
        reference = torch.autograd.grad(torch.stack(expected).square().sum(), (features, padding))
        for a, b in zip(ours, reference, strict=True):
            torch.testing.assert_close(a, b)


def test_scatter_puts_rows_along_x() -> None:
    points = torch.tensor([[-5.4 + 0.6 * 17.5, -3.6 + 0.6 * 2.5, 0.0]])
    pillars = pillarize(points, torch.tensor([1]), GRID, batch_size=3, max_points=20, max_pillars=10)
    bev = scatter_pillars(torch.tensor([[2.0, 5.0], [7.0, 7.0]]), pillars, GRID, batch_size=3)
    assert bev.shape == (3, 2, 18, 12)
    assert bev[1, :, 17, 2].tolist() == [2.0, 5.0]
    assert bev.abs().sum() == 7.0


def test_no_points() -> None:
    pillars = pillarize(
        torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), GRID, batch_size=2, max_points=20, max_pillars=9
    )
    table = pool_pillars(torch.zeros(0, 3), torch.ones(3), pillars, max_points=20)
    assert torch.equal(scatter_pillars(table, pillars, GRID, batch_size=2), torch.zeros(2, 3, 18, 12))
