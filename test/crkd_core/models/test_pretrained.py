"""Published weights: names, containers, the order of merged channels, and what does not fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from crkd_core.models.pretrained import PretrainedError, from_swin_names, load_pretrained
from crkd_core.models.resnet import ResNet
from crkd_core.models.swin import PatchMerging, SwinTiny


def official_merging(x: Tensor, norm: nn.LayerNorm, reduction: nn.Linear) -> Tensor:
    """(M, H, W, C): patches concatenated in the order of the official Swin code."""
    patches = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    return reduction(norm(torch.cat(patches, dim=-1)))


def timm_merging(x: Tensor, norm: nn.LayerNorm, reduction: nn.Linear) -> Tensor:
    """The same with timm's reshape: columns, rows, channels."""
    m, height, width, channels = x.shape
    x = x.reshape(m, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
    return reduction(norm(x))


@pytest.mark.parametrize("reference", [official_merging, timm_merging])
@torch.no_grad()
def test_merged_channels_are_put_in_our_order(reference: Any) -> None:
    torch.manual_seed(0)
    norm, reduction = nn.LayerNorm(24), nn.Linear(24, 12, bias=False)
    nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
    theirs = {"norm." + k: v for k, v in norm.state_dict().items()} | {"reduction.weight": reduction.weight}
    converted = from_swin_names({f"layers.0.downsample.{key}": value for key, value in theirs.items()})
    ours = PatchMerging(6)
    ours.load_state_dict({key.removeprefix("stages.0.downsample."): value for key, value in converted.items()})
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(ours(x), reference(x, norm, reduction))


def by_patch(ours: Tensor) -> Tensor:
    """Our order of merged channels -> the official one."""
    channels = ours.shape[-1] // 4
    places = [c * 4 + row * 2 + column for row, column in ((0, 0), (1, 0), (0, 1), (1, 1)) for c in range(channels)]
    return ours[..., places]


def published(net: SwinTiny, style: str) -> dict[str, Tensor]:
    """The weights of a backbone under the names of a publisher, with the classifier's."""
    result = {"norm.weight": torch.ones(768), "norm.bias": torch.zeros(768)}
    head = "head.fc" if style == "timm" else "head"
    result |= {f"{head}.weight": torch.zeros(1000, 768), f"{head}.bias": torch.zeros(1000)}
    for key, value in net.state_dict().items():
        if re.match(r"norm[123]\.", key):
            continue
        name = key.replace("patch_embed.projection", "patch_embed.proj").replace("attn.w_msa.", "attn.")
        name = (
            name.replace("ffn.layers.0.0", "mlp.fc1").replace("ffn.layers.1", "mlp.fc2").replace("stages.", "layers.")
        )
        merging = re.match(r"layers\.(\d)\.downsample\.(.*)", name)
        if merging and style == "timm":
            name = f"layers.{int(merging[1]) + 1}.downsample.{merging[2]}"
        result[name] = by_patch(value) if merging else value.clone()
    result["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    result["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    return result


@pytest.mark.parametrize(("style", "wrapper"), [("official", "model"), ("timm", "safetensors"), ("timm", "bare")])
def test_swin_under_the_names_of_its_publishers(tmp_path: Path, style: str, wrapper: str) -> None:
    torch.manual_seed(0)
    source, target = SwinTiny(), SwinTiny()
    for merge in source.modules():
        if isinstance(merge, PatchMerging):
            nn.init.uniform_(merge.norm.weight)
    weights = {key: value.contiguous() for key, value in published(source, style).items()}
    path = tmp_path / ("x.safetensors" if wrapper == "safetensors" else "x.pth")
    if wrapper == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"model": weights} if wrapper == "model" else weights, path)
    report = load_pretrained(target, path)
    expected = source.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in target.state_dict().items())
    assert {key.split(".")[0] for key in report.missing} == {"norm1", "norm2", "norm3"}
    assert "norm.weight" in report.dropped
    assert report.loaded == len(expected) - 6


@pytest.mark.parametrize("wrapper", ["bare", "state_dict", "model", "safetensors"])
def test_resnet_in_every_container(tmp_path: Path, wrapper: str) -> None:
    torch.manual_seed(0)
    source, target = ResNet(50, 16), ResNet(50, 16)
    weights = {**source.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / ("x.safetensors" if wrapper == "safetensors" else "x.pth")
    if wrapper == "safetensors":
        save_file(weights, path)
    else:
        torch.save(weights if wrapper == "bare" else {wrapper: weights}, path)
    report = load_pretrained(target, path)
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in source.state_dict().items())
    assert set(report.dropped) == {"fc.weight", "fc.bias"}
    assert report.missing == ()


def test_names_are_those_of_torchvision() -> None:
    keys = ResNet(50).state_dict()
    assert len(keys) == 318
    for key in ("conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.num_batches_tracked"):
        assert key in keys


def test_every_mismatch_is_listed_and_nothing_is_loaded(tmp_path: Path) -> None:
    source, target = ResNet(50, 16), ResNet(50, 16)
    weights = source.state_dict()
    del weights["layer1.0.conv1.weight"]
    weights["extra.weight"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save(weights, tmp_path / "x.pth")
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(PretrainedError) as raised:
        load_pretrained(target, tmp_path / "x.pth")
    message = str(raised.value)
    assert "1 missing (layer1.0.conv1.weight)" in message
    assert "1 unknown (extra.weight)" in message
    assert "conv1.weight (64, 3, 7, 7) instead of (16, 3, 7, 7)" in message
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    torch.save(ResNet(18, 16).state_dict(), tmp_path / "x.pth")
    with pytest.raises(PretrainedError, match="does not fit a SwinTiny"):
        load_pretrained(SwinTiny(), tmp_path / "x.pth")


@pytest.mark.parametrize(("name", "content"), [("x.pth", b"nothing"), ("x.safetensors", b"nothing"), ("x.pt", b"")])
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PretrainedError, match=re.escape(name)):
        load_pretrained(ResNet(18, 16), tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("x.pth", "x.safetensors"):
        with pytest.raises(PretrainedError, match=f"{name}: no such file"):
            load_pretrained(ResNet(18, 16), tmp_path / name)
