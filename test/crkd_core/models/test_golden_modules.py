"""Every module against the original's numeric test vectors (1e-5 relative, unless a line says why not)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crkd_core.config import DecoderConfig, FuserConfig, HeadConfig, RadarConfig
from crkd_core.geometry.grid import BevGrid
from crkd_core.models.bev_decoder import BevDecoder, BevNeck
from crkd_core.models.center_head import CenterHead
from crkd_core.models.fusers import build_fuser
from crkd_core.models.necks import GeneralizedLSSFPN, SecondFPN
from crkd_core.models.official_keys import our_key
from crkd_core.models.radar_encoder import RadarEncoder
from crkd_core.models.resnet import ResNet
from crkd_core.models.swin import SwinTiny
from crkd_core.models.view_transform import DepthLiftSplat, LiftSplat, depth_raster
from crkd_core.ops.frustum import frustum_points, pixel_grid
from crkd_core.ops.pillars import decorate

pytestmark = pytest.mark.golden
Load = Callable[[str], Any]
Weights = Callable[..., dict[str, Tensor]]
RADAR_GRID = BevGrid((-5.4, -3.6), (0.6, 0.6), (18, 12), (-5.0, 3.0))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference at most ``tolerance`` of the largest value."""
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max()
    assert error <= tolerance * expected.double().abs().max(), f"largest error {error:.3g}"


def assert_stats(values: Tensor, expected: Tensor) -> None:
    v = values.double()
    torch.testing.assert_close(torch.stack([v.mean(), v.std(), v.abs().sum()]), expected, rtol=1e-5, atol=1e-7)


def loaded(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    module.load_state_dict(state)
    return module.eval()


@torch.no_grad()
def test_resnet50(load_golden: Load, recipe_weights: Weights) -> None:
    g = load_golden("resnet50")
    net = ResNet(50)
    maps = loaded(net, recipe_weights(net.state_dict(), g.meta))(g["in.x"])
    for i, (values, step) in enumerate(zip(maps, (32, 32, 32, 16), strict=True)):
        assert_close(values[:, ::step], g[f"out.y{i}_every{step}th_channel"])
        assert_stats(values, g[f"out.y{i}_stats"])


@torch.no_grad()
def test_swin_tiny(load_golden: Load, recipe_weights: Weights) -> None:
    g = load_golden("swin_t")
    net = SwinTiny()
    maps = loaded(net, recipe_weights(net.state_dict(), g.meta))(g["in.x"])
    for i, values in enumerate(maps):
        assert_close(values[:, ::8], g[f"out.y{i}_every8th_channel"])
        assert_stats(values, g[f"out.y{i}_stats"])


@torch.no_grad()
def test_second_fpn(load_golden: Load) -> None:
    g = load_golden("second_fpn")
    neck = loaded(SecondFPN(g.meta["in_channels"], 8), g.group("w."))
    assert_close(neck([g[f"in.x{i}"] for i in range(4)]), g["out.y"])


@torch.no_grad()
def test_generalized_lss_fpn(load_golden: Load) -> None:
    g = load_golden("generalized_lss_fpn")
    neck = loaded(GeneralizedLSSFPN(g.meta["in_channels"], g.meta["out_channels"]), g.group("w."))
    maps = [g[f"in.x{i}"] for i in range(3)]
    fine, middle = neck.pyramid(maps)  # type: ignore[operator]
    assert_close(fine, g["out.y0"])
    assert_close(middle, g["out.y1"])
    assert torch.equal(neck(maps), fine)


def geometry_inputs(g: Any) -> dict[str, Tensor]:
    """The matrices of ``lss_*`` vectors in the network's own terms; images of all samples in a row."""
    images = g["in.camera_intrinsics"].flatten(0, 1)
    augment = torch.eye(3).repeat(len(images), 1, 1)
    augment[:, :2, :2] = g["in.img_aug_matrix"].flatten(0, 1)[:, :2, :2]
    augment[:, :2, 2] = g["in.img_aug_matrix"].flatten(0, 1)[:, :2, 3]
    return {
        "intrinsics": images[:, :3, :3].contiguous(),
        "T_bev_from_cam": g["in.camera2lidar"].flatten(0, 1),
        "image_augment": augment,
        "bev_augment": g["in.lidar_aug_matrix"],
    }


def test_lss_geometry(load_golden: Load) -> None:
    g = load_golden("lss_geometry")
    (height, width), (rows, columns) = g.meta["image_size"], g.meta["feature_size"]
    pixels, depths = pixel_grid((height, width), (rows, columns)), torch.arange(*g.meta["dbound"])
    torch.testing.assert_close(pixels.view(rows, columns, 2), g["out.frustum"][0, ..., :2], rtol=1e-6, atol=1e-5)
    assert torch.equal(depths, g["out.frustum"][:, 0, 0, 2])
    inputs = geometry_inputs(g)
    inputs["bev_augment"] = inputs["bev_augment"].repeat_interleave(2, 0)
    points = torch.stack(frustum_points(pixels, depths, **inputs), dim=-1)
    points = points.view(2, 2, rows, columns, len(depths), 3).permute(0, 1, 4, 2, 3, 5)
    assert_close(points[:, :, ::3, :, ::2], g["out.geometry_every2nd_pixel"], 1e-6)


@torch.no_grad()
def test_lss_transform(load_golden: Load) -> None:
    g = load_golden("lss_transform")
    cell = (g.meta["xbound"][2], g.meta["ybound"][2])
    module = LiftSplat(
        g.meta["in_channels"],
        g.meta["out_channels"],
        image_size=tuple(g.meta["image_size"]),
        feature_size=tuple(g.meta["feature_size"]),
        depth=tuple(g.meta["dbound"]),
        grid=BevGrid((-54.0, -54.0), cell, (45, 30), (-5.0, 3.0)),
    )
    module.load_state_dict({k: v for k, v in g.group("w.").items() if k.startswith("depthnet.")})
    features = g["in.x"].flatten(0, 1)
    assert_close(module.depthnet(features), g["out.depthnet_out"])
    bev = module(features, torch.tensor([0, 0, 1, 1]), **geometry_inputs(g))
    # A cell with a point within 1e-4 cells of a border may gain or lose that point.
    robust = ~g["out.fragile_cell_mask"][:, None].expand_as(bev)
    assert robust.float().mean() > 0.9
    assert_close(bev[robust], g["out.bev"][robust])


@torch.no_grad()
def test_depth_lss_transform(load_golden: Load) -> None:
    g = load_golden("depth_lss_transform")
    cell, image_size = (2 * g.meta["xbound"][2], 2 * g.meta["ybound"][2]), tuple(g.meta["image_size"])
    module = DepthLiftSplat(
        g.meta["in_channels"],
        g.meta["out_channels"],
        image_size=image_size,
        feature_size=tuple(g.meta["feature_size"]),
        depth=tuple(g.meta["dbound"]),
        grid=BevGrid((-54.0, -54.0), cell, (30, 15), (-5.0, 3.0)),
    )
    constants = ("dx", "bx", "nx", "frustum")
    loaded(module, {k: v for k, v in g.group("w.").items() if k not in constants})
    images, geometry = torch.tensor([0, 0, 1, 1]), geometry_inputs(g)
    points = torch.cat([g["in.points0"], g["in.points1"]])
    sample = torch.repeat_interleave(torch.arange(2), torch.tensor([len(g["in.points0"]), len(g["in.points1"])]))
    raster = depth_raster(points, sample, image_size=image_size, image_sample=images, **geometry)
    expected = g["out.depth_raster"].flatten(0, 1)
    assert (raster > 0).sum() == (expected > 0).sum()
    assert_close(raster, expected)

    features = g["in.x"].flatten(0, 1)
    per_pixel = module.per_pixel(features, raster)
    assert_close(per_pixel[:, ::4], g["out.depthnet_out_every4th_bin"])
    summed = module.splat(per_pixel, module.plan(images, **geometry))
    robust = ~g["out.fragile_cell_mask"][:, None].expand_as(summed)
    assert robust.float().mean() > 0.9
    assert_close(summed[robust], g["out.bev_before_downsample"][robust])
    # Behind the convolutions every fragile cell reaches its neighbours: the map as a whole must agree.
    bev = module(features, raster, images, **geometry)
    assert (bev - g["out.bev"]).abs().median() <= 1e-5 * g["out.bev"].abs().max()


@torch.no_grad()
def test_conv_fuser(load_golden: Load) -> None:
    check_fuser(load_golden("conv_fuser"), "conv")


@torch.no_grad()
def test_gated_fuser(load_golden: Load) -> None:
    g = load_golden("gated_fuser")
    fuser = check_fuser(g, "gated")
    _, camera, other = fuser(g["in.camera"], g["in.other"])
    assert_close(camera, g["out.gated_camera"])
    assert_close(other, g["out.gated_other"])


def check_fuser(g: Any, kind: Any) -> nn.Module:
    config = FuserConfig(type=kind, channels=g.meta["out_channels"])
    camera, other = g.meta["in_channels"]
    fuser = build_fuser(config, camera_channels=camera, other_channels=other)
    state = {our_key(f"fuser.{k}", fuser=kind): v for k, v in g.group("w.").items()}
    loaded(fuser, {str(k).removeprefix("fuser."): v for k, v in state.items()})
    assert_close(fuser(g["in.camera"], g["in.other"])[0], g["out.fused"])
    fuser.train()
    assert_close(fuser(g["in.camera"], g["in.other"])[0], g["out.train_fused"])
    assert_close(fuser.merge[1].running_mean, g["out.train_running_mean"])
    assert_close(fuser.merge[1].running_var, g["out.train_running_var"])
    return loaded(fuser, {str(k).removeprefix("fuser."): v for k, v in state.items()})


@torch.no_grad()
def test_generalized_resnet(load_golden: Load) -> None:
    g = load_golden("generalized_resnet")
    decoder = BevDecoder(g.meta["in_channels"], DecoderConfig(channels=(8, 16, 32), out_channels=8))
    loaded(decoder.stages, g.group("w."))
    for i, values in enumerate(decoder.eval().stage_maps(g["in.x"])):
        assert_close(values, g[f"out.y{i}"])


@torch.no_grad()
def test_lss_fpn(load_golden: Load) -> None:
    g = load_golden("lss_fpn")
    coarse, fine = g.meta["in_channels"]
    neck = loaded(BevNeck(fine, coarse, g.meta["out_channels"]), g.group("w."))
    assert_close(neck(g["in.x0"], g["in.x2"]), g["out.y"])


@torch.no_grad()
def test_center_head_forward(load_golden: Load, recipe_weights: Weights) -> None:
    g = load_golden("center_head_forward")
    head = CenterHead(g.meta["in_channels"], HeadConfig(channels=64))

    def official(key: str) -> str:
        return key.replace("shared.", "shared_conv.", 1) if key.startswith("shared.") else "task_heads" + key[5:]

    loaded(head, recipe_weights(head.state_dict(), g.meta, official=official))
    for t, maps in enumerate(head(g["in.x"])):
        for name, expected in g.group(f"out.task{t}.").items():
            assert_close(getattr(maps, name), expected)


def unpacked(g: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The stored pillars as points with their samples; the pillar of each point; the flat cell of each pillar."""
    voxels, coords = g["in.voxels"], g["in.coords"].long()
    filled = torch.arange(voxels.shape[1]) < g["in.num_points"].long()[:, None]
    pillar = filled.nonzero()[:, 0]
    (nx, ny), (sample, ix, iy) = RADAR_GRID.shape, coords.T[:3]
    return voxels[filled], sample[pillar], pillar, (sample * nx + ix) * ny + iy


@torch.no_grad()
def test_radar_feature_net_and_scatter(load_golden: Load) -> None:
    g = load_golden("radar_feature_net_scatter")
    encoder = RadarEncoder(RadarConfig(channels=(32, 32, 32, 32)), RADAR_GRID).eval()
    weights = {k.removeprefix("pts_voxel_encoder.rfn_layers."): v for k, v in g.group("w.").items()}
    encoder.point_layers.load_state_dict(weights)
    points, sample, pillar, cell_of_pillar = unpacked(g)
    rows, cell = decorate(points, sample, encoder.grid, batch_size=2)
    assert torch.equal(cell.long(), cell_of_pillar[pillar])
    filled = torch.arange(20) < g["in.num_points"].long()[:, None]
    assert_close(rows[:-1], g["out.decorated_47"][filled])
    table = encoder.pillar_map(points, sample, 2)
    assert_close(table[cell_of_pillar], g["out.pillars"])
    assert_close(table.view(2, 18, 12, -1).permute(0, 3, 1, 2), g["out.bev"])

    encoder.train()
    table = encoder.pillar_map(points, sample, 2)
    assert_close(table[cell_of_pillar], g["out.train_pillars"])
    for i, layer in enumerate(encoder.point_layers):
        assert_close(layer.norm.running_mean, g[f"out.train_running_mean{i}"])
        assert_close(layer.norm.running_var, g[f"out.train_running_var{i}"])


@torch.no_grad()
def test_radar_encoder_with_calibration(load_golden: Load, recipe_weights: Weights) -> None:
    g = load_golden("radar_encoder_calib")
    encoder = RadarEncoder(RadarConfig(calibration=True), RADAR_GRID).eval()
    names = {
        "point_layers": "pts_voxel_encoder.rfn_layers",
        "calibration": "caliber",
        "activation_head": "distill_activation_head",
    }

    def official(key: str) -> str:
        first, _, rest = key.partition(".")
        return f"{names[first]}.{rest}"

    loaded(encoder, recipe_weights(encoder.state_dict(), g.meta, official=official))
    points, sample, *_ = unpacked(g)
    raw = encoder.pillar_map(points, sample, 2).view(2, 18, 12, -1).permute(0, 3, 1, 2)
    assert_close(raw[:, ::8], g["out.uncalibrated_every8th_channel"])
    assert_stats(raw, g["out.uncalibrated_stats"])
    # The whole branch, from points: slots of a pillar keep their order, pillars that of their first points.
    calibrated, activation = encoder(points, sample, 2)
    assert_close(calibrated[:, ::4], g["out.calibrated_every4th_channel"])
    assert_stats(calibrated, g["out.calibrated_stats"])
    assert_close(activation, g["out.activation"])
