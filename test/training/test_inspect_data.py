"""The page of samples, on the tiny set: what is written, and that a mistake is told."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import yaml
from micro import micro_recipe
from scripts import script
from tiny_set import TinySet

from crkd_core.cli import UserError
from crkd_core.config import recipe_to_dict

Inspect = Callable[..., list[dict[str, str]]]


@pytest.fixture
def data(tmp_path: Path) -> TinySet:
    return TinySet(tmp_path / "data")


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, data: TinySet, tmp_path: Path) -> Inspect:
    """Runs the script on the tiny set; the samples of the page."""
    recipe = tmp_path / "micro.yaml"
    recipe.write_text(yaml.safe_dump(recipe_to_dict(micro_recipe())))

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
        (["--count", "0"], "--count of 1 or more"),
        (["--synthscenes", "1"], "name either --dataroot DIR or --synthscenes SEED"),
        (["--version", "v1"], "no version 'v1'; found v1.0-tiny"),
        (["--out", "/proc/look"], "--out /proc/look: cannot be written"),
    ],
)
def test_mistakes_are_told(inspect: Inspect, words: list[str], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        inspect(*words)
