"""Numbers that a computation on a device needs besides its tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(
    values: Sequence[float] | Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers as a tensor on a device; int64 or float32 unless a type is given.

    Unlike with ``torch.tensor(values, device=device)`` the host does not wait until the device has done all before.
    """
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
