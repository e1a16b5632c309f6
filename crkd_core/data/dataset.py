"""Training samples by position, and batches of them.

All that is random about a sample is drawn from its position and the seed (``data.sampling``): what a run reads at a
position depends on nothing it did before, so that it can be resumed at any step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from crkd_core.config import LidarConfig, Recipe
from crkd_core.data.encode import (
    Skipped,
    TrainingSample,
    collate,
    encode_scene,
    training_scene,
    with_normalized_images,
)
from crkd_core.data.errors import DataError
from crkd_core.data.lidar_database import LidarDatabase
from crkd_core.data.paste import Paster
from crkd_core.data.sampling import ClassBalanced, EpochOrder, Position, Shuffled
from crkd_core.types import AnnotatedFrame, NetworkInput

MAX_ATTEMPTS = 100
"""Samples tried for one position before the data set is taken to be unusable."""


class FrameSource(Protocol):
    """Anything that gives the i-th annotated frame: a data set, a simulator, a list."""

    def __len__(self) -> int:
        """Number of frames."""
        ...

    def __getitem__(self, index: int, /) -> AnnotatedFrame:
        """Frame ``index``, 0 <= index < len."""
        ...


@runtime_checkable
class LabelledSource(Protocol):
    """A frame source that knows its objects without reading its frames."""

    def labels(self) -> list[NDArray[np.int64]]:
        """For each frame, the classes of its objects that have LiDAR or radar returns."""
        ...


@dataclass(frozen=True)
class TrainingBatch:
    """A batch of B samples to learn from.

    Boxes of all samples lie one after the other: a batch crosses from a loading process as few tensors, each of which
    costs a handshake. Images cross as pixels, a quarter of the bytes that the network reads.

    Attributes:
        loaded: network input whose images are still uint8 pixels.
        all_boxes: (n1 + n2 + ..., 9) float32, see ``TrainingSample``.
        all_labels: (n1 + n2 + ...,) int64.
        counts: B numbers of boxes.
        tokens: the samples' names.
        skipped: damaged samples in whose place others are.
    """

    loaded: NetworkInput
    all_boxes: torch.Tensor
    all_labels: torch.Tensor
    counts: tuple[int, ...]
    tokens: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    @functools.cached_property
    def inputs(self) -> NetworkInput:
        """Network input, its images normalised where the batch lies when it is first asked for."""
        return with_normalized_images(self.loaded)

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
            loaded=self.loaded.to(device, non_blocking=non_blocking),
            all_boxes=self.all_boxes.to(device, non_blocking=non_blocking),
            all_labels=self.all_labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> TrainingBatch:
        """The same batch in page-locked memory, for quick copies to a GPU; ``DataLoader`` calls it."""
        pinned = {name: getattr(self.loaded, name).pin_memory() for name in NetworkInput.__dataclass_fields__}
        return replace(
            self,
            loaded=NetworkInput(**pinned),
            all_boxes=self.all_boxes.pin_memory(),
            all_labels=self.all_labels.pin_memory(),
        )


def sample_rng(seed: int, position: Position, *, attempt: int = 0) -> np.random.Generator:
    """Draws all that is random about the sample at a position; a later ``attempt`` is another sample in its place."""
    return np.random.default_rng([seed, *position, attempt])


class TrainingSet(Dataset[TrainingSample]):
    """Annotated frames as training samples, addressed by position.

    Attributes:
        frames: where the annotated frames come from.
        recipe: how they are drawn, encoded and augmented.
        seed: of the augmentation.
        augment: whether to augment at all. If not, every epoch reads the same samples: they are encoded once and kept
            in memory (3.5 MB each with six images of 256x704, LiDAR not counted), so this is for small sets.
    """

    def __init__(
        self,
        frames: FrameSource,
        recipe: Recipe,
        *,
        seed: int = 0,
        augment: bool = True,
        database: LidarDatabase | None = None,
        teacher: LidarConfig | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            frames: as the attribute; likewise ``recipe``, ``seed`` and ``augment``.
            database: objects to paste.
            teacher: LiDAR that a teacher beside the student reads.

        Raises:
            DataError: the recipe pastes objects, and there are none.
        """
        self.frames = frames
        self.recipe = recipe
        self.seed = seed
        self.augment = augment
        self._teacher = teacher
        self._paster = _paster(recipe, database) if augment else None
        self._kept: dict[int, TrainingSample] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def order(self, seed: int) -> EpochOrder:
        """The samples of every epoch, as the recipe wants them.

        A source without ``labels`` is read once to balance the classes: for frames in memory that costs nothing.

        Raises:
            DataError: classes are to be balanced, and no sample has an object.
        """
        if not self.recipe.samples.class_balanced:
            return Shuffled(len(self), seed)
        if isinstance(self.frames, LabelledSource):
            return ClassBalanced(self.frames.labels(), seed=seed)
        samples = (self.frames[i] for i in range(len(self)))
        return ClassBalanced([sample.labels[sample.num_points > 0] for sample in samples], seed=seed)

    def __getitem__(self, position: Position | tuple[int, int]) -> TrainingSample:
        """The sample at ``position``, or the one in its place if the recipe leaves it out.

        Raises:
            DataError: a damaged file that the recipe does not skip, naming the sample and the file or camera; or many
                samples in a row of which none can be used.
        """
        place = Position(*position)
        index, skipped = place.sample, list[Skipped]()
        for attempt in range(MAX_ATTEMPTS):
            try:
                sample = self._read(index, place, attempt)
            except DataError as error:
                if self.recipe.samples.on_error == "raise":
                    raise
                skipped.append(Skipped(index, str(error)))
            else:
                if sample is not None:
                    return replace(sample, skipped=tuple(skipped))
            index = int(np.random.default_rng([self.seed, *place, attempt, 0]).integers(len(self)))
        reason = f"the last damaged one: {skipped[-1].reason}" if skipped else "all without a box to learn"
        raise DataError(f"{MAX_ATTEMPTS} samples drawn in a row, none of which can be used; {reason}")

    def _read(self, index: int, place: Position, attempt: int) -> TrainingSample | None:
        """One sample; None if there is nothing to learn in it and the recipe leaves such out."""
        if self.augment:
            rng = sample_rng(self.seed, place, attempt=attempt)
            return self._encoded(index, rng, self._pasting(place.epoch))
        if index not in self._kept:
            sample = self._encoded(index, None, None)
            if sample is None:
                return None
            self._kept[index] = sample
        return self._kept[index]

    def _pasting(self, epoch: int) -> Paster | None:
        return self._paster if self._paster is not None and self._paster.active(epoch) else None

    def _encoded(self, index: int, rng: np.random.Generator | None, paster: Paster | None) -> TrainingSample | None:
        try:
            frame = self.frames[index]
        except DataError as error:
            raise DataError(f"sample {index}: {error}") from None
        try:
            scene = training_scene(frame, self.recipe, rng, paster=paster)
            if self.recipe.samples.filter_empty_gt and len(scene.labels) == 0:
                return None
            return encode_scene(scene, self.recipe, teacher=self._teacher)
        except DataError as error:
            raise DataError(f"sample {index} ({frame.token}): {error}") from None


def _paster(recipe: Recipe, database: LidarDatabase | None) -> Paster | None:
    config = recipe.samples.paste
    if config is None:
        return None
    if database is None or len(database) == 0:
        raise DataError(
            f"recipe {recipe.name}: samples.paste needs the LiDAR objects that training/prepare.py cuts out; name its "
            "folder with --prepared, or set samples.paste: null"
        )
    return Paster(database, config)


def collate_training(samples: Sequence[TrainingSample]) -> TrainingBatch:
    """Training samples as one batch, in this order."""
    return TrainingBatch(
        loaded=collate([sample.loaded for sample in samples]),
        all_boxes=torch.cat([sample.boxes for sample in samples]),
        all_labels=torch.cat([sample.labels for sample in samples]),
        counts=tuple(len(sample.labels) for sample in samples),
        tokens=tuple(sample.token for sample in samples),
        skipped=tuple(skipped for sample in samples for skipped in sample.skipped),
    )
