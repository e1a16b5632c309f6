"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from crkd_core.config import TrainConfig


def optimizer(
    model: nn.Module, config: TrainConfig, *, beside: nn.Module | None = None, samples: int = 0
) -> torch.optim.AdamW:
    """AdamW as the original: weight decay on norms and biases too, none on relative position biases.

    The camera backbone of a detector learns at its own rate where the recipe sets one.

    Args:
        model: the detector.
        config: rates.
        beside: trained with it.
        samples: per step, of all processes together; scales the rates where the recipe names a reference.
    """
    rate = config.learning_rate * (samples / config.reference_batch if config.reference_batch else 1.0)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    ratio = config.camera_backbone_learning_rate_ratio
    backbone = [(name, p) for name, p in trained if name.startswith("camera.backbone.")] if ratio != 1 else []
    slow = {name for name, _ in backbone}
    trained += [] if beside is None else [(f"beside.{name}", p) for name, p in beside.named_parameters()]
    groups = _by_decay([(name, p) for name, p in trained if name not in slow])
    groups += [{**group, "lr": ratio * rate} for group in _by_decay(backbone)]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=config.weight_decay,
        fused=True,
    )
    # Whoever scales losses is to unscale gradients before they are clipped, and not to leave it to this optimiser.
    adamw._step_supports_amp_scaling = False  # noqa: SLF001
    return adamw


def _by_decay(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    return [
        {"params": [p for name, p in named if "relative_position_bias_table" not in name]},
        {"params": [p for name, p in named if "relative_position_bias_table" in name], "weight_decay": 0.0},
    ]


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Factor on the learning rate at step ``step`` (from 0): linear warm-up times a cosine over all steps."""
    low = config.final_learning_rate_ratio
    progress = min(step // config.cosine_interval * config.cosine_interval / config.steps, 1.0)
    cosine = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    if step >= config.warmup_steps:
        return cosine
    return cosine * (config.warmup_ratio + (1 - config.warmup_ratio) * step / config.warmup_steps)
