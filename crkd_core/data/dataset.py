"""Training samples in an order that any step can be resumed at.

A sample is addressed by (epoch, index). Its augmentation is drawn from ``default_rng([seed, epoch, index])``, the order
of an epoch from ``default_rng([seed, epoch])``: what a run reads at a position depends on nothing it did before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from crkd_core.config import Recipe
from crkd_core.data.encode import TrainingSample, collate, encode_training
from crkd_core.data.errors import DataError
from crkd_core.types import AnnotatedFrame, NetworkInput

Position = tuple[int, int]
"""(epoch, index of the sample)."""


class FrameSource(Protocol):
    """Anything that gives the i-th annotated frame: a data set, a simulator, a list."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: int, /) -> AnnotatedFrame:
        """Frame ``index``, 0 <= index < len."""
        ...


@dataclass(frozen=True)
class TrainingBatch:
    """A batch of B samples to learn from.

    Boxes of all samples lie one after the other: a batch crosses from a loading process as few tensors, each of which
    costs a handshake.

    Attributes:
        inputs: network input.
        all_boxes: (n1 + n2 + ..., 9) float32, see ``TrainingSample``.
        all_labels: (n1 + n2 + ...,) int64.
        counts: B numbers of boxes.
        tokens: the samples' names.
    """

    inputs: NetworkInput
    all_boxes: torch.Tensor
    all_labels: torch.Tensor
    counts: tuple[int, ...]
    tokens: tuple[str, ...]

    @property
    def boxes(self) -> tuple[torch.Tensor, ...]:
        """B tensors (n, 9)."""
        return torch.split(self.all_boxes, list(self.counts))

    @property
    def labels(self) -> tuple[torch.Tensor, ...]:
        """B tensors (n,)."""
        return torch.split(self.all_labels, list(self.counts))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> TrainingBatch:
        """The same batch on ``device``."""
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=non_blocking),
            all_boxes=self.all_boxes.to(device, non_blocking=non_blocking),
            all_labels=self.all_labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> TrainingBatch:
        """The same batch in page-locked memory, for quick copies to a GPU; ``DataLoader`` calls it."""
        pinned = {name: getattr(self.inputs, name).pin_memory() for name in NetworkInput.__dataclass_fields__}
        return replace(
            self,
            inputs=NetworkInput(**pinned),
            all_boxes=self.all_boxes.pin_memory(),
            all_labels=self.all_labels.pin_memory(),
        )


class TrainingSet(Dataset[TrainingSample]):
    """Annotated frames as training samples, addressed by (epoch, index).

    Attributes:
        frames: where the annotated frames come from.
        recipe: how they are encoded and augmented.
        seed: of the augmentation.
        augment: whether to augment at all. If not, every epoch reads the same samples: they are encoded once and kept
            in memory (26 MB each at 256x704), so this is for small sets.
    """

    def __init__(self, frames: FrameSource, recipe: Recipe, *, seed: int = 0, augment: bool = True) -> None:
        self.frames = frames
        self.recipe = recipe
        self.seed = seed
        self.augment = augment
        self._kept: dict[int, TrainingSample] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, position: Position) -> TrainingSample:
        """The sample at ``position``.

        Raises:
            DataError: a damaged file; names the sample and the file or camera.
        """
        epoch, index = position
        if not self.augment:
            if index not in self._kept:
                self._kept[index] = self._encoded(index, None)
            return self._kept[index]
        return self._encoded(index, np.random.default_rng([self.seed, epoch, index]))

    def _encoded(self, index: int, rng: np.random.Generator | None) -> TrainingSample:
        try:
            frame = self.frames[index]
        except DataError as error:
            raise DataError(f"sample {index}: {error}") from None
        try:
            return encode_training(frame, self.recipe, rng)
        except DataError as error:
            raise DataError(f"sample {index} ({frame.token}): {error}") from None


class StepSampler(Sampler[Position]):
    """Positions ``start`` to ``stop`` of an endless sequence of shuffled epochs.

    With several processes, each reads every ``world_size``-th position from its rank on; ``start`` and ``stop`` count
    the positions of all processes together.
    """

    def __init__(self, n: int, *, seed: int, start: int, stop: int, rank: int = 0, world_size: int = 1) -> None:
        """Set the part of the sequence to read.

        Args:
            n: number of samples in the data set.
            seed: of the order.
            start: first position, samples read so far.
            stop: end of the positions.
            rank: this process.
            world_size: number of processes.

        Raises:
            ValueError: no sample, or ranges that make no sense.
        """
        if n <= 0 or start < 0 or not 0 <= rank < world_size:
            raise ValueError(f"StepSampler: n={n}, start={start}, rank={rank} of {world_size}: out of range")
        self._n = n
        self._seed = seed
        self._positions = range(start + rank, stop, world_size)
        self._length = len(range(rank, stop, world_size))

    def __len__(self) -> int:
        """Positions of the whole run, the part before ``start`` included: a resumed loop counts on from there."""
        return self._length

    def __iter__(self) -> Iterator[Position]:
        order, order_epoch = np.zeros(0, dtype=np.int64), -1
        for position in self._positions:
            epoch, place = divmod(position, self._n)
            if epoch != order_epoch:
                order, order_epoch = np.random.default_rng([self._seed, epoch]).permutation(self._n), epoch
            yield epoch, int(order[place])


def collate_training(samples: Sequence[TrainingSample]) -> TrainingBatch:
    """Training samples as one batch, in this order."""
    return TrainingBatch(
        inputs=collate([sample.inputs for sample in samples]),
        all_boxes=torch.cat([sample.boxes for sample in samples]),
        all_labels=torch.cat([sample.labels for sample in samples]),
        counts=tuple(len(sample.labels) for sample in samples),
        tokens=tuple(sample.token for sample in samples),
    )
