"""In which order a run reads its samples, so that it can be resumed at any step.

The order of an epoch is drawn from ``default_rng([seed, epoch])``: what is read at a position depends on nothing that
was read before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from crkd_core.data.errors import DataError
from crkd_core.types import DETECTION_CLASSES


class Position(NamedTuple):
    """Which sample, and what tells its readings apart: each has its own augmentation.

    Attributes:
        epoch: 0 for the first.
        sample: its number in the data set.
        repeat: how often the epoch has had it before.
    """

    epoch: int
    sample: int
    repeat: int = 0


class EpochOrder(Protocol):
    """The samples of every epoch."""

    def __len__(self) -> int:
        """Samples of an epoch."""
        ...

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """(len,) the samples of one epoch in their order; the same whenever it is asked for."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every sample once an epoch.

    Attributes:
        count: number of samples.
        seed: of the order.
    """

    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """(count,) a permutation of all samples."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)


class ClassBalanced:
    """CBGS (arXiv 1908.09492): in an epoch every class gets as many samples that contain it, drawn with replacement.

    With n_c samples that contain class c and N their sum over the classes, class c gets int(0.1 n_c / (n_c / N)) of
    them: N / 10. Samples without any object are never drawn, and a class without samples gets none. The original draws
    once for all epochs; here each epoch is drawn anew.
    """

    def __init__(self, labels: Sequence[NDArray[np.int64]], *, seed: int) -> None:
        """Find the samples of each class.

        Args:
            labels: for each sample, the classes of its objects (positions in ``DETECTION_CLASSES``), in any order.
            seed: of the draws and the order.

        Raises:
            DataError: no sample has an object.
        """
        present = [np.unique(np.asarray(one, dtype=np.int64)) for one in labels]
        classes = np.concatenate([*present, np.zeros(0, dtype=np.int64)])
        samples = np.repeat(np.arange(len(present)), [len(one) for one in present])
        if len(classes) == 0:
            raise DataError(
                f"samples.class_balanced: none of {len(present)} samples has an annotated object with LiDAR or radar "
                "returns; check the split, or set class_balanced: false"
            )
        self._seed = seed
        self._samples_of_class = [samples[classes == c] for c in range(len(DETECTION_CLASSES))]
        self._share = len(classes) // len(DETECTION_CLASSES) or 1

    def __len__(self) -> int:
        return self._share * sum(len(samples) > 0 for samples in self._samples_of_class)

    def indices(self, epoch: int) -> NDArray[np.int64]:
        """(len,) samples drawn for each class, in random order."""
        rng = np.random.default_rng([self._seed, epoch])
        drawn = [rng.choice(samples, self._share) for samples in self._samples_of_class if len(samples)]
        return rng.permutation(np.concatenate(drawn))


class StepSampler(Sampler[Position]):
    """Positions ``start`` to ``stop`` of an endless sequence of epochs.

    With several processes, each reads every ``world_size``-th position from its rank on; ``start`` and ``stop`` count
    the positions of all processes together.
    """

    def __init__(self, order: EpochOrder, *, start: int, stop: int, rank: int = 0, world_size: int = 1) -> None:
        """Set the part of the sequence to read.

        Args:
            order: of the samples in each epoch.
            start: first position, samples read so far.
            stop: end of the positions.
            rank: this process.
            world_size: number of processes.

        Raises:
            ValueError: no sample, or ranges that make no sense.
        """
        if len(order) <= 0 or start < 0 or not 0 <= rank < world_size:
            raise ValueError(
                f"StepSampler: {len(order)} samples, start={start}, rank={rank} of {world_size}: out of range"
            )
        self._order = order
        self._rank = rank
        self._positions = range(start + rank, stop, world_size)
        self._length = len(range(rank, stop, world_size))

    def __len__(self) -> int:
        """Positions of the whole run, the part before ``start`` included: a resumed loop counts on from there."""
        return self._length

    def __iter__(self) -> Iterator[Position]:
        return self._at(self._positions)

    def following(self, start: int, count: int) -> list[Position]:
        """The next ``count`` positions of this process from position ``start`` of all processes on."""
        return list(self._at(range(start + self._rank, self._positions.stop, self._positions.step)[:count]))

    def _at(self, positions: range) -> Iterator[Position]:
        indices, repeats, shown = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), -1
        for position in positions:
            epoch, place = divmod(position, len(self._order))
            if epoch != shown:
                indices, shown = self._order.indices(epoch), epoch
                repeats = earlier_occurrences(indices)
            yield Position(epoch, int(indices[place]), int(repeats[place]))


def earlier_occurrences(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how many equal values stand before each of (n,) ``values``."""
    order = np.argsort(values, kind="stable")
    grouped = values[order]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]])) if len(values) else order
    sizes = np.diff(np.append(starts, len(values)))
    counts = np.empty(len(values), dtype=np.int64)
    counts[order] = np.arange(len(values)) - np.repeat(starts, sizes)
    return counts
