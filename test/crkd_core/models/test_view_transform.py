"""Lift-splat: which type it computes in, and its plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crkd_core.geometry.grid import BevGrid
from crkd_core.models.view_transform import DepthLiftSplat, LiftSplat, depth_raster

GRID = BevGrid((-6.0, -6.0), (1.0, 1.0), (12, 12), (-5.0, 3.0))
SIZES = {"image_size": (32, 48), "feature_size": (4, 6), "depth": (1.0, 6.0, 1.0), "grid": GRID}


def geometry() -> dict[str, Tensor]:
    """One level camera that looks along +y of the BEV frame."""
    T_bev_from_cam = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]])
    return {
        "intrinsics": torch.tensor([[[40.0, 0, 24], [0, 40, 16], [0, 0, 1]]]),
        "T_bev_from_cam": T_bev_from_cam,
        "image_augment": torch.eye(3)[None],
        "bev_augment": torch.eye(4)[None],
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computes_in_the_type_of_its_weights_also_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lss = LiftSplat(8, 5, **SIZES).to(dtype)
    features = torch.randn(1, 8, 4, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        bev = lss(features, torch.tensor([0]), **geometry())
        other = torch.bfloat16 if dtype == torch.float32 else torch.float32
        from_other = lss(features.to(other), torch.tensor([0]), **geometry())
    assert bev.dtype == dtype
    assert from_other.dtype == dtype
    assert bev.shape == (1, 5, 12, 12)
    assert bev[..., :6].abs().sum() == 0  # nothing behind the camera
    assert bev[..., 6:].abs().sum() > 0


@torch.no_grad()
def test_a_kept_plan_gives_the_same_map() -> None:
    lss, features = LiftSplat(8, 5, **SIZES), torch.randn(1, 8, 4, 6)
    plan = lss.plan(torch.tensor([0]), **geometry())
    assert torch.equal(lss.splat(lss.per_pixel(features), plan), lss(features, torch.tensor([0]), **geometry()))


def test_geometry_stays_exact_in_half_precision() -> None:
    sizes = SIZES | {"image_size": (256, 704), "feature_size": (32, 88)}
    lss, reduced = LiftSplat(8, 5, **sizes), LiftSplat(8, 5, **sizes).half()
    assert next(reduced.parameters()).dtype == torch.float16
    plans = [module.plan(torch.tensor([0]), **geometry()) for module in (lss, reduced)]
    assert torch.equal(plans[0].cells, plans[1].cells)


def test_gradients_reach_all_weights() -> None:
    lss = DepthLiftSplat(8, 5, **SIZES)
    bev = lss(torch.randn(1, 8, 4, 6), torch.rand(1, 1, 32, 48), torch.tensor([0]), **geometry())
    bev.square().sum().backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in lss.parameters())
    assert lss.depthnet[-1].weight.grad.abs().sum() > 0


@torch.no_grad()
def test_is_exported_with_the_pooling_as_one_operator() -> None:
    lss, arguments = LiftSplat(8, 5, **SIZES), (torch.randn(1, 8, 4, 6), torch.tensor([0]))
    program = torch.export.export(lss, arguments, geometry())
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    assert [str(node.target) for graph in graphs for node in graph.nodes].count("crkd.bev_pool.default") == 1
    assert torch.equal(program.module()(*arguments, **geometry()), lss(*arguments, **geometry()))


def test_an_image_shows_the_depths_of_its_own_sample_whatever_else_is_in_the_batch() -> None:
    torch.manual_seed(0)
    counts = [300, 0, 500]
    points = torch.rand(sum(counts), 5) * torch.tensor([8.0, 8.0, 4.0, 1.0, 1.0]) - torch.tensor([4.0, -1.0, 2.0, 0, 0])
    sample = torch.repeat_interleave(torch.arange(3), torch.tensor(counts))

    def raster(points: Tensor, sample: Tensor, samples: int) -> Tensor:
        """Of one camera for each sample."""
        cameras = {name: value.expand(samples, *value.shape[1:]) for name, value in geometry().items()}
        return depth_raster(points, sample, image_size=(32, 48), image_sample=torch.arange(samples), **cameras)

    together = raster(points, sample, 3)
    for i, count in enumerate(counts):
        alone = raster(points[sample == i], torch.zeros(count, dtype=torch.int64), 1)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=0)
        assert int((alone > 0).sum()) == 0 if count == 0 else int((alone > 0).sum()) > 50


def test_the_work_of_drawing_depths_grows_with_the_batch_not_with_its_square() -> None:
    """No tensor holds all images times all points."""
    largest = []
    for samples in (2, 8):
        points, sample = torch.rand(samples * 400, 5), torch.arange(samples).repeat_interleave(400)
        cameras = {name: value.expand(samples, *value.shape[1:]) for name, value in geometry().items()}
        with Largest() as seen:
            depth_raster(points, sample, image_size=(32, 48), image_sample=torch.arange(samples), **cameras)
        largest.append(seen.elements)
    assert largest[1] <= 4.5 * largest[0]


class Largest(TorchDispatchMode):
    """Notes the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))])
        return result
