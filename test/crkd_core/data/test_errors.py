"""The error of data loading, also from a data loader's worker process."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from crkd_core.data.errors import DataError


class Broken(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise DataError(f"sample {index}: front.jpg: truncated: expected 9, got 3")


def test_error_of_a_worker_is_the_same_one_line():
    loader = DataLoader(Broken(), num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(DataError) as raised:
        next(iter(loader))
    assert str(raised.value) == "sample 0: front.jpg: truncated: expected 9, got 3"
