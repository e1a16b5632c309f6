"""Training samples by position, their order, and batches."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from crkd_core.config import Recipe, load_recipe
from crkd_core.data.dataset import TrainingBatch, TrainingSet, collate_training
from crkd_core.data.encode import collate, encode, encode_training
from crkd_core.data.errors import DataError
from crkd_core.data.frames import NuScenesFrames
from crkd_core.data.nuscenes import load_index
from crkd_core.data.sampling import Position, StepSampler
from crkd_core.types import AnnotatedFrame, NetworkInput


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("student_tiny")


@pytest.fixture
def samples(tiny_set: Any, recipe: Recipe) -> TrainingSet:
    index = load_index(tiny_set.root, tiny_set.version)
    return TrainingSet(NuScenesFrames(index, index.samples), recipe, seed=3)


def changed(samples: TrainingSet, **values: Any) -> TrainingSet:
    """The same set with other values of the recipe's section ``samples``."""
    section = msgspec.structs.replace(samples.recipe.samples, **values)
    recipe = msgspec.structs.replace(samples.recipe, samples=section)
    return TrainingSet(samples.frames, recipe, seed=samples.seed)


def same(a: NetworkInput, b: NetworkInput) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(NetworkInput))


class TestTrainingSet:
    def test_same_position_gives_the_same_sample(self, samples: TrainingSet):
        first = samples[2, 1]
        samples[0, 0]
        again = samples[2, 1]
        assert same(first.loaded, again.loaded)
        assert torch.equal(first.boxes, again.boxes)

    def test_augmentation_differs_by_epoch_index_and_seed(self, samples: TrainingSet):
        other_seed = TrainingSet(samples.frames, samples.recipe, seed=4)
        drawn = [s.loaded.bev_augment for s in (samples[0, 0], samples[1, 0], samples[0, 1], other_seed[0, 0])]
        assert len({tuple(a.flatten().tolist()) for a in drawn}) == 4

    def test_without_augmentation_epochs_are_equal(self, samples: TrainingSet):
        plain = TrainingSet(samples.frames, samples.recipe, augment=False)
        assert same(plain[0, 0].loaded, plain[7, 0].loaded)
        assert torch.equal(plain[0, 0].loaded.bev_augment[0], torch.eye(4))

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


class TestSampleWithoutBoxes:
    """Sample 3 of the tiny set has no object."""

    def test_is_kept_unless_the_recipe_says_so(self, samples: TrainingSet):
        assert (samples[0, 3].token,) == ("scene-0002-0",)
        assert len(samples[0, 3].labels) == 0

    def test_is_replaced_by_others_as_the_position_says(self, samples: TrainingSet):
        filtering = changed(samples, filter_empty_gt=True)
        found = [filtering[epoch, 3] for epoch in range(12)]
        assert {sample.token for sample in found} == {"scene-0001-0", "scene-0001-1", "scene-0001-2"}
        assert all(len(sample.labels) > 0 for sample in found)
        again = filtering[5, 3]
        assert again.token == found[5].token
        assert same(again.loaded, found[5].loaded)

    def test_alone_it_is_an_error(self, samples: TrainingSet):
        frames = [samples.frames[3]]
        with pytest.raises(DataError, match="100 samples drawn in a row, none of which can be used; all without a box"):
            _ = TrainingSet(frames, changed(samples, filter_empty_gt=True).recipe)[0, 0]


class TestDamagedSample:
    @pytest.fixture
    def damaged(self, samples: TrainingSet, tiny_set: Any) -> TrainingSet:
        """Sample 1 cannot be decoded."""
        tiny_set.files("CAM_FRONT", key=True)[1].write_bytes(b"not an image")
        return samples

    def test_ends_the_run(self, damaged: TrainingSet):
        with pytest.raises(DataError, match=r"^sample 1 \(scene-0001-1\): CAM_FRONT: not a JPEG or PNG image"):
            _ = damaged[0, 1]

    def test_is_skipped_and_named_where_the_recipe_says_so(self, damaged: TrainingSet):
        skipping = changed(damaged, on_error="skip")
        found = skipping[0, 1]
        assert found.token in {"scene-0001-0", "scene-0001-2", "scene-0002-0"}
        assert {skipped.index for skipped in found.skipped} == {1}
        assert "scene-0001-1): CAM_FRONT: not a JPEG" in found.skipped[0].reason
        assert skipping[0, 1].token == found.token
        assert skipping[0, 0].skipped == ()
        batch = collate_training([skipping[0, 0], found])
        assert batch.to("cpu").skipped == found.skipped

    def test_when_all_are_damaged_the_run_ends(self, damaged: TrainingSet, tiny_set: Any):
        for file in tiny_set.files("CAM_FRONT", key=True):
            file.write_bytes(b"not an image")
        with pytest.raises(DataError, match=r"100 samples drawn in a row.*the last damaged one: sample"):
            _ = changed(damaged, on_error="skip")[0, 1]


def test_each_repeat_of_a_sample_is_augmented_anew(samples: TrainingSet):
    first, second = samples[Position(0, 1, repeat=0)], samples[Position(0, 1, repeat=1)]
    assert first.token == second.token
    assert not torch.equal(first.loaded.bev_augment, second.loaded.bev_augment)


def test_classes_are_balanced_without_reading_a_frame(samples: TrainingSet, monkeypatch: pytest.MonkeyPatch):
    balanced = changed(samples, class_balanced=True)
    monkeypatch.setattr(NuScenesFrames, "__getitem__", lambda *_: pytest.fail("read a frame"))
    # The car is in samples 0, 1, 2; the cone has no returns; sample 3 is empty.
    assert set(np.concatenate([balanced.order(0).indices(epoch) for epoch in range(40)]).tolist()) == {0, 1, 2}


def test_classes_of_frames_in_memory_are_balanced(samples: TrainingSet):
    recipe = changed(samples, class_balanced=True).recipe
    in_memory = TrainingSet([samples.frames[i] for i in range(4)], recipe)
    expected = TrainingSet(samples.frames, recipe).order(7)
    assert [in_memory.order(7).indices(e).tolist() for e in range(9)] == [
        expected.indices(e).tolist() for e in range(9)
    ]


def test_loader_gives_batches_and_resumes_exactly(samples: TrainingSet):
    def loaded(start: int) -> list[TrainingBatch]:
        sampler = StepSampler(samples.order(3), start=start, stop=8)
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


def test_a_batch_carries_pixels_and_gives_what_encode_gives(samples: TrainingSet):
    plain = TrainingSet(samples.frames, samples.recipe, augment=False)
    blind = encode_training(without_cameras(samples.frames[1]), samples.recipe, None)
    batch = collate_training([plain[0, 0], blind, plain[0, 2]])
    assert batch.loaded.images.dtype == torch.uint8
    assert batch.inputs is batch.inputs
    frames = [samples.frames[0].frame, without_cameras(samples.frames[1]).frame, samples.frames[2].frame]
    assert same(batch.inputs, collate([encode(frame, samples.recipe) for frame in frames]))


def without_cameras(sample: AnnotatedFrame) -> AnnotatedFrame:
    return replace(sample, frame=replace(sample.frame, cameras={}))


@pytest.mark.nuscenes
def test_real_samples_have_six_images_and_boxes_in_range(nuscenes_root: Path, nuscenes_version: str):
    index = load_index(nuscenes_root, nuscenes_version)
    samples = TrainingSet(NuScenesFrames(index, index.complete_samples()), load_recipe("student_r50"), seed=0)
    sample = samples[0, len(samples) - 1]
    assert sample.loaded.images.shape == (6, 3, 256, 704)
    assert len(sample.boxes) > 5
    assert np.abs(sample.boxes[:, :2].numpy()).max() < 54
    assert torch.isfinite(sample.boxes).all()
    assert len(sample.loaded.radar) > 100
