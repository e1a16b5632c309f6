"""Arrays that travel to the GPU together: one piece of memory, one copy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 256


class Layout:
    """Where each named array lies in one piece of memory.

    Attributes:
        size: bytes of the whole.
    """

    def __init__(self, arrays: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> None:
        """Names with shapes and types, in the order in which they are to lie."""
        self._places: dict[str, tuple[int, tuple[int, ...], torch.dtype]] = {}
        offset = 0
        for name, (shape, dtype) in arrays.items():
            self._places[name] = (offset, shape, dtype)
            bytes_needed = math.prod(shape) * dtype.itemsize
            offset += -(-bytes_needed // _ALIGNMENT) * _ALIGNMENT
        self.size = offset

    def span(self, name: str) -> slice:
        """The bytes of one array."""
        offset, shape, dtype = self._places[name]
        return slice(offset, offset + math.prod(shape) * dtype.itemsize)

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The arrays within ``memory``, (size,) uint8."""
        return {
            name: memory[self.span(name)].view(dtype).view(shape) for name, (_, shape, dtype) in self._places.items()
        }

    def arrays(self, memory: Tensor) -> dict[str, NDArray[Any]]:
        """The same as NumPy arrays, of memory on the host."""
        return {name: view.numpy() for name, view in self.views(memory).items()}
