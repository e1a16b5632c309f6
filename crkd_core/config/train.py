"""How the network is optimised."""

from __future__ import annotations

from typing import Annotated

import msgspec

from crkd_core.config.section import Count, Fraction, NonNegative, Positive, Section


class TrainConfig(Section, frozen=True, kw_only=True):
    """Optimisation."""

    steps: Count
    batch_size: Count
    """Samples per process and step."""
    accumulate: Count = 1
    """Batches whose gradients make one step."""
    sync_batch_norm: bool = False
    """Batch statistics over all processes (GPU only; the original: each its own)."""
    learning_rate: Positive = 2e-4
    reference_batch: Count | None = None
    """Samples per step, of all processes together, that ``learning_rate`` is meant for: it grows in proportion with
    more. None: it is used as it is (the original)."""
    final_learning_rate_ratio: Fraction = 1e-3
    cosine_interval: Count = 1
    """Steps between two values of the cosine (the original: the steps of an epoch)."""
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 500
    warmup_ratio: Fraction = 1 / 3
    camera_backbone_learning_rate_ratio: Positive = 1.0
    """Factor on the learning rate of the camera backbone (the original's teacher: 0.1)."""
    weight_decay: NonNegative = 0.01
    gradient_clip: Positive = 35.0
    """L2 norm."""
    ema_decay: Fraction = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and saved, reached by and by so that a
    young run keeps little of what it began with. 0: the raw weights."""
