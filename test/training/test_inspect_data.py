"""The page of samples, on the tiny set: what is written, and that a mistake is told."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from micro import micro_recipe
from scripts import script
from tiny_set import TinySet

from crkd_core.cli import UserError
from crkd_core.config import Recipe, recipe_from_dict, recipe_to_dict
from crkd_core.data.dataset import TrainingSet
from crkd_core.data.encode import TrainingSample
from crkd_core.data.simulated import prerendered, simulated_keys
from crkd_core.training.nuscenes_data import nuscenes_frames
from crkd_core.types import NetworkInput

Inspect = Callable[..., list[dict[str, str]]]


@pytest.fixture
def data(tmp_path: Path) -> TinySet:
    return TinySet(tmp_path / "data")


def dropping_recipe() -> Recipe:
    """The smallest recipe, in half of whose samples a sensor is missing."""
    values = recipe_to_dict(micro_recipe())
    values["samples"]["dropout"] = {"camera": 0.5, "radar": 0.5}
    return recipe_from_dict(values, source="test")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The smallest recipe as a file."""
    path = tmp_path / "micro.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(micro_recipe())))
    return path


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, data: TinySet, recipe: Path, tmp_path: Path) -> Inspect:
    """Runs the script on the tiny set; the samples of the page."""

    def call(*words: str | Path) -> list[dict[str, str]]:
        line = [recipe, "--dataroot", data.root, "--version", data.version, "--out", tmp_path / "look", *words]
        monkeypatch.setattr(sys, "argv", ["inspect_data.py", *map(str, line)])
        assert script("inspect_data.py").main() == 0
        page = (tmp_path / "look" / "index.html").read_text()
        found = re.search(r"const samples = (.*);$", page, re.MULTILINE)
        assert found is not None
        samples: list[dict[str, str]] = json.loads(found[1])
        return samples

    return call


def test_the_page_shows_every_sample_and_needs_nothing_else(inspect: Inspect, tmp_path: Path):
    samples = inspect()
    assert [sample["file"] for sample in samples] == [f"sample-0000{i}.png" for i in range(4)]
    assert samples[3]["name"] == "scene-0002, sample 3, scene-0002-0"
    assert {path.name for path in (tmp_path / "look").iterdir()} == {"index.html", *(s["file"] for s in samples)}
    page = (tmp_path / "look" / "index.html").read_text()
    assert "://" not in page
    assert "TITLE" not in page
    for sample in samples:
        picture = cv2.imread(str(tmp_path / "look" / sample["file"]))
        assert picture.shape[0] > 1400  # one above the other
        assert picture.std() > 5


def test_augmentation_is_that_of_the_epoch_and_the_seed(inspect: Inspect, tmp_path: Path):
    def halves(*words: str) -> tuple[bytes, bytes]:
        inspect("--index", "1", *words)
        picture = cv2.imread(str(tmp_path / "look" / "sample-00001.png"))
        half = len(picture) // 2
        return picture[:half].tobytes(), picture[half:].tobytes()

    before, after = halves()
    assert before != after
    assert halves() == (before, after)
    assert halves("--epoch", "1")[0] == before
    assert halves("--epoch", "1")[1] != after
    assert halves("--seed", "1")[1] != after


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path) -> Callable[..., list[TrainingSample]]:
    """Runs the script with ``dropping_recipe``; the samples it draws as training reads them, in turn."""
    recipe.write_text(yaml.safe_dump(recipe_to_dict(dropping_recipe())))

    def call(*words: object) -> list[TrainingSample]:
        module, seen = script("inspect_data.py"), list[TrainingSample]()
        draw = module.draw_input
        monkeypatch.setattr(module, "draw_input", lambda sample, **how: seen.append(sample) or draw(sample, **how))
        monkeypatch.setattr(sys, "argv", ["inspect_data.py", *map(str, [recipe, "--out", tmp_path / "look", *words])])
        assert module.main() == 0
        return seen[1::2]  # each before augmentation and after

    return call


def assert_equal(found: TrainingSample, expected: TrainingSample) -> None:
    """Every tensor."""
    for name in NetworkInput.__dataclass_fields__:
        assert torch.equal(getattr(found.loaded, name), getattr(expected.loaded, name)), name
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("scenes", [[], ["scene-0002"], ["scene-0002", "scene-0001"]])
def test_what_is_drawn_is_what_training_reads_at_that_position(
    drawn: Callable[..., list[TrainingSample]], data: TinySet, scenes: list[str]
):
    frames = nuscenes_frames(data.root, data.version, dropping_recipe(), scenes=scenes)
    samples = TrainingSet(frames, dropping_recipe(), seed=3)
    words = [
        "--dataroot",
        data.root,
        "--version",
        data.version,
        "--seed",
        3,
        *(["--scenes", *scenes] if scenes else []),
    ]
    kinds = set()
    for epoch in range(4):
        found = drawn(*words, "--epoch", epoch)
        assert len(found) == len(frames) == {0: 4, 1: 1, 2: 4}[len(scenes)]
        for number, sample in enumerate(found):
            assert_equal(sample, samples[epoch, number])
            kinds.add((len(sample.loaded.images), len(sample.loaded.radar) > 0))
    assert len(kinds) > 1  # a sensor was lost in some, in others not


def test_a_simulated_sample_is_drawn_as_training_on_the_drives_up_to_its_own_reads_it(
    drawn: Callable[..., list[TrainingSample]],
):
    how = {"image_width": 96, "radar_sweeps": 6, "jobs": 1}
    samples = TrainingSet(prerendered(simulated_keys(range(2), frames_per_drive=1), **how), dropping_recipe())
    (found,) = drawn("--synthscenes", 1, "--frames-per-drive", 1, "--image-width", 96, "--epoch", 2)
    assert_equal(found, samples[2, 1])


def test_samples_are_chosen_by_scene_number_or_token(inspect: Inspect):
    assert [s["file"] for s in inspect("--scene", "scene-0001", "--count", "2")] == [
        "sample-00000.png",
        "sample-00002.png",
    ]
    assert [s["file"] for s in inspect("--token", "scene-0002-0")] == ["sample-00003.png"]
    assert [s["file"] for s in inspect("--index", "2")] == ["sample-00002.png"]


def test_a_sample_without_a_file_names_the_sensor(inspect: Inspect, data: TinySet):
    data.files("RADAR_FRONT", key=True)[0].unlink()
    with pytest.raises(UserError, match=r"sample scene-0001-0 \(scene-0001\): RADAR_FRONT: .*\.pcd does not exist"):
        inspect("--token", "scene-0001-0")
    assert len(inspect()) == 3


@pytest.mark.parametrize(("channel", "message"), [("CAM_FRONT", "truncated JPEG"), ("RADAR_FRONT", "RADAR_FRONT_")])
def test_a_truncated_file_is_named(inspect: Inspect, data: TinySet, channel: str, message: str):
    file = data.files(channel, key=True)[1]
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=rf"^scene-0001, sample 1, scene-0001-1: .*{file.name}.*") as told:
        inspect("--index", "1")
    assert message in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--token", "scene-0001-9"], "no sample 'scene-0001-9'; expected one of scene-0001-0, scene-0001-1"),
        (["--scene", "scene-1"], "no scene 'scene-1'; expected one of scene-0001, scene-0002"),
        (["--index", "4"], "--index: expected 0 to 3, got 4"),
        (["--count", "0"], "--count and --frames-per-drive of 1 or more"),
        (["--synthscenes", "1"], "name either --dataroot DIR or --synthscenes SEED"),
        (["--split", "val", "--scenes", "scene-0001"], "not allowed with argument"),
        (["--scenes", "scene-3"], "no scene 'scene-3'; expected one of scene-0001, scene-0002"),
        (["--scenes", "scene-0002", "--token", "scene-0001-0"], "(scene-0001): not of the --split or --scenes"),
        (["--scenes", "scene-0002", "--index", "1"], "--index: expected 0 to 0, got 1"),
        (["--image-width", "100000"], "--image-width: expected 64 to 4096 pixels, got 100000"),
        (["--version", "v1"], "no version 'v1'; found v1.0-tiny"),
        (["--out", "/proc/look"], "--out /proc/look: cannot be written"),
    ],
)
def test_mistakes_are_told(inspect: Inspect, words: list[str], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        inspect(*words)
