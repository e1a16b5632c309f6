"""Numeric test vectors: one .npz each, with inputs, weights, outputs and a JSON description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


class Golden:
    """One file of test vectors.

    Attributes:
        meta: its description.
    """

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path, allow_pickle=False)
        self.meta: dict[str, Any] = json.loads(str(self._arrays["meta"]))

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self._arrays[key])

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def keys(self) -> list[str]:
        """Names of all arrays."""
        return [key for key in self._arrays.files if key != "meta"]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The arrays whose name starts with ``prefix``, without it."""
        return {key.removeprefix(prefix): self[key] for key in self.keys() if key.startswith(prefix)}


@pytest.fixture(scope="session")
def load_golden(golden_dir: Path) -> Callable[[str], Golden]:
    """``load_golden("name")`` reads ``name.npz``."""
    return lambda name: Golden(golden_dir / f"{name}.npz")


@pytest.fixture(scope="session")
def recipe_weights() -> Callable[..., dict[str, Tensor]]:
    """The weights that large vectors name by a rule, see ``weights_by_rule``."""
    return weights_by_rule


def weights_by_rule(
    state: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    official: Callable[[str], str] = lambda key: key,
    keep: Iterable[str] = ("num_batches_tracked", "relative_position_index", "dx", "bx", "nx", "frustum"),
) -> dict[str, Tensor]:
    """Weights by METHOD section 13, "recipe v1".

    Args:
        state: names and shapes of the module, and the values of what is kept.
        meta: description of the vectors (seed, prefix, heat-map bias, transposed convolutions).
        official: the original's name of an entry.
        keep: last words of names that keep their constructed value.
    """
    result = {}
    for key, value in state.items():
        name = str(meta.get("weight_prefix", "")) + official(key)
        if name.rsplit(".", 1)[-1] in set(keep):
            result[key] = value
            continue
        drawn = _drawn(name, tuple(value.shape), meta)
        result[key] = torch.from_numpy(drawn.astype(np.float32))
    return result


def generator(seed: int, name: str) -> np.random.Generator:
    """The random stream of one name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=0))


def _drawn(name: str, shape: tuple[int, ...], meta: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    stream = generator(int(meta["weight_seed"]), name)
    count = int(np.prod(shape, dtype=np.int64))
    last = name.rsplit(".", 1)[-1]
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        uniform = stream.random(count).reshape(shape)
        return 0.5 + uniform if last == "running_var" else _norm_scale(name) * (0.75 + 0.5 * uniform)
    normal = stream.standard_normal(count).reshape(shape)
    if last in ("running_mean", "bias"):
        heatmap = last == "bias" and ".heatmap.1." in name
        return 0.1 * normal + (float(meta.get("heatmap_bias", -2.0)) if heatmap else 0.0)
    if last == "relative_position_bias_table":
        return 0.2 * normal
    gain = 1.4
    if "task_heads." in name and name.endswith(".1.weight"):
        gain = 1.0 if ".heatmap." in name else 0.5
    fan = np.prod(shape[1:])
    if len(shape) == 5:
        fan = np.prod(shape[:-1])
    elif name in meta.get("deconv_weight_keys", ()):
        fan = shape[0]
    return gain * normal / np.sqrt(fan)


def _norm_scale(name: str) -> float:
    if name.endswith(".bn3.weight"):
        return 0.25
    if name.endswith(".bn2.weight") and "decoder" in name:
        return 0.4
    if name.endswith(".downsample.1.weight"):
        return 0.7
    return 1.0


@pytest.fixture(scope="session")
def random_stream() -> Callable[[int, str], np.random.Generator]:
    """``random_stream(seed, name)``, see ``generator``."""
    return generator
