"""Numbers for a device."""

from __future__ import annotations

import torch

from crkd_core.ops.constants import constant


def test_numbers_keep_their_kind_unless_a_type_is_given() -> None:
    cpu = torch.device("cpu")
    assert torch.equal(constant([1, -1], cpu), torch.tensor([1, -1], dtype=torch.int64))
    assert constant([(0.5, 1), (2, 3)], cpu).dtype == torch.float32
    third = constant([1 / 3], cpu, torch.float64)
    assert float(third) == 1 / 3
