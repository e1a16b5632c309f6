"""Batch norm folded into convolutions changes nothing but the work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crkd_core.models.bev_decoder import BevNeck
from crkd_core.models.folding import folded, fused
from crkd_core.models.necks import GeneralizedLSSFPN, SecondFPN
from crkd_core.models.resnet import ResNet

MODULES = {
    "resnet18": (lambda: ResNet(18, 16), [torch.randn(2, 3, 64, 64)]),
    "resnet50": (lambda: ResNet(50, 16), [torch.randn(1, 3, 64, 64)]),
    "second_fpn": (lambda: SecondFPN((4, 4, 4, 4), 8), [[torch.randn(1, 4, 16 // s, 16 // s) for s in (1, 2, 4, 8)]]),
    "lss_fpn": (lambda: GeneralizedLSSFPN((4, 4, 4), 8), [[torch.randn(1, 4, 16 // s, 16 // s) for s in (1, 2, 4)]]),
    "bev_neck": (lambda: BevNeck(4, 8, 6), [torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)]),
}


@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_folded_network_is_the_same_network(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = MODULES[name]
    module = build().double()
    inputs = [[x.double() for x in i] if isinstance(i, list) else i.double() for i in inputs]
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.running_mean, norm.bias):
                nn.init.uniform_(values, -0.5, 0.5)  # type: ignore[arg-type]
            for values in (norm.running_var, norm.weight):
                nn.init.uniform_(values, 0.5, 1.5)  # type: ignore[arg-type]
    lighter = folded(module)
    torch.testing.assert_close(lighter(*inputs), module.eval()(*inputs), rtol=1e-9, atol=1e-9)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in lighter.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "bev_neck", "lss_fpn"])
@torch.inference_mode()
def test_fused_network_is_the_same_network(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = MODULES[name]
    inputs = [[x.cuda() for x in i] if isinstance(i, list) else i.cuda() for i in inputs]
    module = build().cuda().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected, found = module(*inputs), fused(folded(module))(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
