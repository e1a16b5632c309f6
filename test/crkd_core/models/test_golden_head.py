"""Targets, losses and decoding of the CenterHead against the original's numeric test vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from crkd_core.config import HeadConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.center_head import BOX_MAPS, TASKS, TaskMaps, joined_maps
from crkd_core.models.center_loss import center_loss
from crkd_core.models.center_targets import draw_targets, gaussian_radius
from crkd_core.models.decode import decode, find_peaks, gather_codes, peak_boxes

pytestmark = pytest.mark.golden
Load = Callable[[str], Any]
BRANCHES = (*(name for name, _ in BOX_MAPS), "heatmap")


def square_grid(half_extent: float, cells: int) -> BevGrid:
    edge = 2 * half_extent / cells
    return BevGrid((-half_extent, -half_extent), (edge, edge), (cells, cells), (-5.0, 3.0))


def task_maps(g: Any, prefix: str) -> tuple[TaskMaps, ...]:
    return tuple(TaskMaps(**{n: g[f"{prefix}task{t}.{n}"].clone() for n in BRANCHES}) for t in range(len(TASKS)))


def test_targets(load_golden: Load) -> None:
    g = load_golden("center_head_targets")
    boxes, labels = [g["in.boxes0"], g["in.boxes1"]], [g["in.labels0"], g["in.labels1"]]
    targets = draw_targets(boxes, labels, square_grid(54.0, 180), HeadConfig())
    for t, target in enumerate(targets.tasks()):
        slots = g[f"out.task{t}.mask"].shape[1]
        mask = g[f"out.task{t}.mask"].bool()
        assert torch.equal(target.mask[:, :slots], mask)
        assert not target.mask[:, slots:].any()
        assert torch.equal(target.cells[:, :slots][mask], g[f"out.task{t}.ind"][mask])
        torch.testing.assert_close(
            target.codes[:, :slots][mask], g[f"out.task{t}.anno_box"][mask], rtol=1e-5, atol=2e-5
        )
        torch.testing.assert_close(target.heatmap, g[f"out.task{t}.heatmap"], rtol=1e-5, atol=1e-6)


def test_gaussian_radius(load_golden: Load) -> None:
    g = load_golden("center_head_targets")
    width, length = g["out.radius_table_cells"].double().T / 0.6
    radius = gaussian_radius(length, width, 0.1)
    torch.testing.assert_close(radius, g["out.radius_table"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("variant", "velocity_weight"), [("amp", 1.0), ("teacher_codeweights", 0.2)])
def test_losses(load_golden: Load, variant: str, velocity_weight: float) -> None:
    g = load_golden("center_head_losses")
    head = HeadConfig(velocity_code_weight=velocity_weight)
    boxes, labels = [g["in.boxes0"], g["in.boxes1"]], [g["in.labels0"], g["in.labels1"]]
    targets = draw_targets(boxes, labels, square_grid(g.meta["half_extent"], g.meta["cells"]), head)
    losses = center_loss(joined_maps(task_maps(g, "in.student.")), targets, head)
    for t in range(len(TASKS)):
        torch.testing.assert_close(
            losses[f"heatmap/task{t}"], g[f"out.{variant}.loss.heatmap/task{t}"], rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(losses[f"box/task{t}"], g[f"out.{variant}.loss.bbox/task{t}"], rtol=1e-5, atol=1e-6)


def test_peaks(load_golden: Load) -> None:
    g = load_golden("center_head_get_bboxes")
    grid = square_grid(g.meta["half_extent"], g.meta["cells"])
    for t, maps in enumerate(task_maps(g, "in.pred.")):
        peaks = find_peaks(maps.heatmap, HeadConfig())
        boxes = peak_boxes(peaks, gather_codes(maps, peaks), grid)
        for sample in range(2):
            prefix, keep = f"out.decode.task{t}.sample{sample}.", peaks.sample == sample
            torch.testing.assert_close(peaks.score[keep], g[prefix + "scores"], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(boxes[keep], g[prefix + "bboxes"], rtol=1e-5, atol=1e-5)
            assert torch.equal(peaks.label[keep], g[prefix + "labels"].long())


def test_decode_keeps_the_same_boxes(load_golden: Load) -> None:
    g = load_golden("center_head_get_bboxes")
    grid = square_grid(g.meta["half_extent"], g.meta["cells"])
    # These vectors keep the sizes of the heads' NMS (the released recipes use the same numbers).
    decoded = decode(task_maps(g, "in.pred."), grid, HeadConfig())
    for sample, found in enumerate(decoded):
        assert torch.equal(found.labels, g[f"out.labels{sample}"].long())
        torch.testing.assert_close(found.scores, g[f"out.scores{sample}"], rtol=1e-6, atol=1e-6)
        same_box = (found.boxes - g[f"out.boxes{sample}"]).abs().amax()
        assert same_box <= 1e-4
