"""ImageNet weights for image backbones, from local files under the names that their publishers use.

ResNets: torchvision's (and timm's) names, which are ours. Swin-T: the official names, timm's, or mmdetection's, which
are ours. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from crkd_core.cli import UserError
from crkd_core.models.swin import SwinTiny

_CLASSIFIER = re.compile(r"^(fc|head|norm|avgpool)\.")
_COMPUTED = re.compile(r"\.(relative_position_index|attn_mask|relative_coords_table)$")
_SWIN_NAMES: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^layers[._](\d)\.", r"stages.\1."),
    (r"\.attn\.(qkv|proj|relative_position_bias_table)\b", r".attn.w_msa.\1"),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
)
_PREFIXES = ("module.", "backbone.")


class PretrainedError(UserError):
    """A file of weights that does not fit the backbone."""


@dataclass(frozen=True)
class PretrainedReport:
    """What was taken from a file.

    Attributes:
        loaded: number of entries.
        dropped: entries that the backbone has no use for: the classifier and what is computed.
        missing: entries of the backbone that the file lacks and that kept their fresh values: Swin's output norms,
            which classifiers do not have.
    """

    loaded: int
    dropped: tuple[str, ...]
    missing: tuple[str, ...]


def load_pretrained(backbone: nn.Module, path: Path | str) -> PretrainedReport:
    """Fill an image backbone from a file.

    Args:
        backbone: ``ResNet`` or ``SwinTiny``.
        path: ``.pth``, ``.pt`` (a state dict, bare or under ``state_dict`` or ``model``) or ``.safetensors``.

    Raises:
        PretrainedError: unreadable, or entries that are missing, unknown or of another shape; lists them.
    """
    found = _read(Path(path))
    kept = {k: v for k, v in found.items() if not _CLASSIFIER.match(k) and not _COMPUTED.search(k)}
    weights = from_swin_names(kept) if isinstance(backbone, SwinTiny) else kept
    expected = backbone.state_dict()
    missing = [key for key in expected if key not in weights]
    # BatchNorm's counters are absent from old files, the norms of Swin's inner outputs from classifiers.
    tolerated = [k for k in missing if k.endswith("num_batches_tracked") or re.match(r"norm[123]\.", k)]
    unknown = [key for key in weights if key not in expected]
    reshaped = [
        f"{key} {tuple(value.shape)} instead of {tuple(expected[key].shape)}"
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    absent = [key for key in missing if key not in tolerated]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for what, names in (("missing", absent), ("unknown", unknown), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise PretrainedError(f"{path}: does not fit a {type(backbone).__name__}: {'; '.join(problems)}")
    backbone.load_state_dict(weights, strict=False)
    return PretrainedReport(len(weights), tuple(k for k in found if k not in kept), tuple(tolerated))


def from_swin_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Swin weights by our names and with our order of channels, from the official names, timm's or ours.

    Where four patches are merged, the official code and timm order the channels by patch (0, 0), (1, 0), (0, 1), (1, 1)
    first (row, column), then by channel; ours are ordered by channel first, then by patch row by row. timm (0.9 and
    later) counts a merging to the stage after it, all others to the stage before.
    """
    if any(key.startswith("stages.") for key in weights):
        return dict(weights)
    later = any(re.match(r"layers[._]3\.downsample\.", key) for key in weights)
    result = {}
    for key, value in weights.items():
        name = key
        for pattern, replacement in _SWIN_NAMES:
            name = re.sub(pattern, replacement, name)
        merging = re.match(r"stages\.(\d)\.downsample\.(.+)", name)
        if merging:
            stage = int(merging[1]) - (1 if later else 0)
            name = f"stages.{stage}.downsample.{merging[2]}"
            result[name] = _channel_first(value)
        else:
            result[name] = value
    return result


def _channel_first(by_patch: Tensor) -> Tensor:
    """(..., 4 C) in the official order of merged channels -> ours."""
    column_row_channel = by_patch.reshape(*by_patch.shape[:-1], 2, 2, -1)
    return column_row_channel.transpose(-3, -2).movedim(-1, -3).flatten(-3)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise PretrainedError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise PretrainedError(f"{path}: not a safetensors file: {error}") from None
    except Exception as error:  # noqa: BLE001  what is no pickle at all can raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise PretrainedError(f"{path}: expected a .pth, .pt or .safetensors of tensors only: {reason}") from None
    wrapper: dict[str, Any] = content if isinstance(content, dict) else {}
    state = next((wrapper[key] for key in ("state_dict", "model") if isinstance(wrapper.get(key), Mapping)), wrapper)
    weights = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    for prefix in _PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    if not weights:
        raise PretrainedError(f"{path}: holds no weights; expected a state dict, bare or under state_dict or model")
    return weights
