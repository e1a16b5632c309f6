"""Training samples by position, their order, and batches."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from crkd_core.config import Recipe, load_recipe
from crkd_core.data.dataset import StepSampler, TrainingBatch, TrainingSet, collate_training
from crkd_core.data.errors import DataError
from crkd_core.data.frames import NuScenesFrames
from crkd_core.data.nuscenes import load_index
from crkd_core.types import NetworkInput


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("student_tiny")


@pytest.fixture
def samples(tiny_set: Any, recipe: Recipe) -> TrainingSet:
    index = load_index(tiny_set.root, tiny_set.version)
    return TrainingSet(NuScenesFrames(index, index.samples), recipe, seed=3)


def same(a: NetworkInput, b: NetworkInput) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(NetworkInput))


class TestTrainingSet:
    def test_same_position_gives_the_same_sample(self, samples: TrainingSet):
        first = samples[2, 1]
        samples[0, 0]
        again = samples[2, 1]
        assert same(first.inputs, again.inputs)
        assert torch.equal(first.boxes, again.boxes)

    def test_augmentation_differs_by_epoch_index_and_seed(self, samples: TrainingSet):
        other_seed = TrainingSet(samples.frames, samples.recipe, seed=4)
        drawn = [s.inputs.bev_augment for s in (samples[0, 0], samples[1, 0], samples[0, 1], other_seed[0, 0])]
        assert len({tuple(a.flatten().tolist()) for a in drawn}) == 4

    def test_without_augmentation_epochs_are_equal(self, samples: TrainingSet):
        plain = TrainingSet(samples.frames, samples.recipe, augment=False)
        assert same(plain[0, 0].inputs, plain[7, 0].inputs)
        assert torch.equal(plain[0, 0].inputs.bev_augment[0], torch.eye(4))

    def test_damaged_image_names_sample_and_camera(self, samples: TrainingSet, tiny_set: Any):
        tiny_set.files("CAM_FRONT", key=True)[1].write_bytes(b"not an image")
        with pytest.raises(DataError, match=r"^sample 1 \(scene-0001-1\): CAM_FRONT: not a JPEG or PNG image"):
            samples[0, 1]

    @pytest.mark.parametrize("channel", ["CAM_FRONT", "RADAR_FRONT"])
    def test_truncated_file_names_sample_and_file(self, samples: TrainingSet, tiny_set: Any, channel: str):
        file = tiny_set.files(channel, key=True)[1]
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(DataError, match=rf"^sample 1: .*{file.name}: truncated"):
            samples[0, 1]


class TestStepSampler:
    def test_every_epoch_has_every_sample_once_in_another_order(self):
        positions = list(StepSampler(10, seed=0, start=0, stop=30))
        epochs = [[i for e, i in positions if e == epoch] for epoch in range(3)]
        assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
        assert len({tuple(epoch) for epoch in epochs}) == 3

    @pytest.mark.parametrize("start", [1, 9, 10, 25])
    def test_resumed_at_any_position_it_goes_on_as_before(self, start: int):
        whole = list(StepSampler(10, seed=5, start=0, stop=35))
        assert list(StepSampler(10, seed=5, start=start, stop=35)) == whole[start:]
        assert len(StepSampler(10, seed=5, start=start, stop=35)) == 35  # the whole run, also when resumed

    def test_seed_changes_the_order(self):
        orders = {tuple(StepSampler(10, seed=seed, start=0, stop=10)) for seed in range(5)}
        assert len(orders) == 5

    def test_processes_share_the_sequence(self):
        whole = list(StepSampler(7, seed=1, start=4, stop=24))
        parts = [list(StepSampler(7, seed=1, start=4, stop=24, rank=r, world_size=2)) for r in range(2)]
        assert parts[0] == whole[::2]
        assert parts[1] == whole[1::2]

    def test_can_be_read_twice(self):
        sampler = StepSampler(5, seed=0, start=0, stop=5)
        assert list(sampler) == list(sampler)

    @pytest.mark.parametrize("options", [{"n": 0}, {"start": -1}, {"rank": 2, "world_size": 2}])
    def test_nonsense_is_refused(self, options: dict[str, int]):
        with pytest.raises(ValueError, match="StepSampler"):
            StepSampler(**({"n": 4, "seed": 0, "start": 0, "stop": 8} | options))


def test_loader_gives_batches_and_resumes_exactly(samples: TrainingSet):
    def loaded(start: int) -> list[TrainingBatch]:
        sampler = StepSampler(len(samples), seed=3, start=start, stop=8)
        loader: Any = DataLoader(samples, batch_size=2, sampler=sampler, collate_fn=collate_training)  # type: ignore[arg-type]
        return list(loader)

    whole, resumed = loaded(0), loaded(4)
    assert [len(batch.tokens) for batch in whole] == [2, 2, 2, 2]
    for expected, batch in zip(whole[2:], resumed, strict=True):
        assert batch.tokens == expected.tokens
        assert same(batch.inputs, expected.inputs)
        assert [b.tolist() for b in batch.boxes] == [b.tolist() for b in expected.boxes]


def test_batch_keeps_boxes_per_sample(samples: TrainingSet):
    batch = collate_training([samples[0, 0], samples[0, 3], samples[0, 1]]).to("cpu")
    assert batch.inputs.batch_size == 3
    assert [len(boxes) for boxes in batch.boxes] == [1, 0, 1]
    assert [labels.tolist() for labels in batch.labels] == [[0], [], [0]]
    assert batch.tokens == ("scene-0001-0", "scene-0002-0", "scene-0001-1")


@pytest.mark.nuscenes
def test_real_samples_have_six_images_and_boxes_in_range(nuscenes_root: Path, nuscenes_version: str):
    index = load_index(nuscenes_root, nuscenes_version)
    samples = TrainingSet(NuScenesFrames(index, index.complete_samples()), load_recipe("student_r50"), seed=0)
    sample = samples[0, len(samples) - 1]
    assert sample.inputs.images.shape == (6, 3, 256, 704)
    assert len(sample.boxes) > 5
    assert np.abs(sample.boxes[:, :2].numpy()).max() < 54
    assert torch.isfinite(sample.boxes).all()
    assert len(sample.inputs.radar) > 100
