"""Arrays in one piece of memory do not touch each other."""

from __future__ import annotations

import torch

from crkd_core.runtime.buffers import Layout


def test_each_array_has_its_own_aligned_bytes() -> None:
    layout = Layout(
        {
            "bytes": ((3, 5), torch.uint8),
            "none": ((0, 4), torch.float64),
            "doubles": ((2, 3), torch.float64),
            "integer": ((1,), torch.int32),
        }
    )
    memory = torch.zeros(layout.size, dtype=torch.uint8)
    views = layout.views(memory)
    for i, view in enumerate(views.values()):
        view.fill_(i + 1)
    assert {name: view.unique().tolist() for name, view in views.items()} == {
        "bytes": [1],
        "none": [],
        "doubles": [3.0],
        "integer": [4],
    }
    assert layout.span("doubles").start % 256 == 0
    assert int((memory != 0).sum()) < layout.size
    layout.arrays(memory)["doubles"][1, 2] = 7.5
    assert views["doubles"][1, 2] == 7.5
