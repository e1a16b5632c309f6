"""The script that prepares a data set, called as a user calls it, and training on what it has made."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from micro import micro_recipe
from scripts import script
from tiny_set import TinySet

from crkd_core.cli import UserError
from crkd_core.config import PasteConfig, recipe_to_dict
from crkd_core.data import lidar_database
from crkd_core.types import LIDAR_DTYPE

Call = Callable[..., int]


@pytest.fixture
def data(tmp_path: Path) -> TinySet:
    """Two scenes with a LiDAR that sees the car of scene-0001."""
    tiny = TinySet(tmp_path / "data")
    points = np.zeros(500, dtype=LIDAR_DTYPE)
    points["x"], points["y"] = np.random.default_rng(0).uniform([-3, 0], [3, 30], (500, 2)).T
    for file in tiny.files("LIDAR_TOP", key=True):
        file.write_bytes(points.tobytes())
    return tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The smallest recipe; it pastes the boxes, for want of a LiDAR branch."""
    micro = micro_recipe(steps=2, batch_size=2)
    samples = msgspec.structs.replace(
        micro.samples, paste=PasteConfig(stop_epoch=9, min_points=1, without_lidar=True), class_balanced=True
    )
    path = tmp_path / "pasting.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(msgspec.structs.replace(micro, samples=samples))))
    return path


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, data: TinySet, recipe: Path, tmp_path: Path) -> Call:
    """Runs the script's ``main`` on the data set, into the folder ``prepared``."""

    def call(*words: str | Path) -> int:
        line = [recipe, "--dataroot", data.root, "--version", data.version, "--out", tmp_path / "prepared", *words]
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, line), "--no-progress"])
        code: int = script("prepare.py").main()
        return code

    return call


def contents(folder: Path) -> dict[str, bytes]:
    """All but the list of what files there were when, which notes the time."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.endswith(".files.npz")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_second_run_has_nothing_to_do(prepare: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert prepare("--image-cache", "--jobs", "1") == 0
    first = capsys.readouterr().out
    assert "complete key frames: 4 of 4" in first
    assert "index: made in" in first
    assert "LiDAR objects: 2 scenes in" in first
    assert "3 from 4 samples, " in first
    assert "  3 car, 0 truck" in first
    assert "smaller images: 4 in" in first
    assert "network input differs by 0.0" in first
    made = contents(tmp_path / "prepared")
    assert sum(name.startswith("images-100-pil_bicubic-q92/samples/CAM_FRONT/") for name in made) == 4
    assert {name for name in made if "lidar-objects" in name} == {
        f"v1.0-tiny.lidar-objects/scene-000{i}.{kind}" for i in (1, 2) for kind in ("objects", "points")
    }

    assert prepare("--image-cache", "--jobs", "1") == 0
    assert capsys.readouterr().out.count("nothing to do") == 3
    assert contents(tmp_path / "prepared") == made


def test_several_processes_make_the_same(prepare: Call, tmp_path: Path):
    assert prepare("--image-cache", "--jobs", "1") == 0
    alone = contents(tmp_path / "prepared")
    for name in alone:
        if "index" not in name:
            (tmp_path / "prepared" / name).unlink()
    assert prepare("--image-cache", "--jobs", "2") == 0
    assert contents(tmp_path / "prepared") == alone


def test_a_run_that_was_killed_goes_on_where_it_was(
    prepare: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    write = lidar_database._write

    def killed_at_the_second_scene(path: Path, content: bytes) -> None:
        if path.name == "scene-0002.points":
            path.with_name(f".{path.name}.1").write_bytes(content[:3])
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(lidar_database, "_write", killed_at_the_second_scene)
        with pytest.raises(KeyboardInterrupt):
            prepare("--jobs", "1")
    objects = tmp_path / "prepared" / "v1.0-tiny.lidar-objects"
    assert {path.name for path in objects.glob("[!.]*")} == {"scene-0001.objects", "scene-0001.points"}
    before = (objects / "scene-0001.objects").stat().st_mtime_ns
    capsys.readouterr()
    assert prepare("--jobs", "1") == 0
    shown = capsys.readouterr().out
    assert "index: nothing to do" in shown
    assert "LiDAR objects: 1 scenes in" in shown
    assert (objects / "scene-0001.objects").stat().st_mtime_ns == before
    assert (objects / "scene-0002.objects").is_file()


def test_damaged_files_are_named_and_the_rest_is_made(prepare: Call, data: TinySet, capsys: pytest.CaptureFixture[str]):
    image, cloud = data.files("CAM_FRONT", key=True)[0], data.files("LIDAR_TOP", key=True)[1]
    image.write_bytes(b"no image")
    cloud.write_bytes(cloud.read_bytes()[:-1])
    assert prepare("--image-cache", "--jobs", "1") == 1
    shown = capsys.readouterr()
    assert "2 from 3 samples, " in shown.out
    assert "1 samples have no LiDAR key frame, or a damaged one" in shown.out
    assert "3 of 4, " in shown.out
    assert f"damaged: {cloud}: truncated" in shown.err
    assert f"damaged: {image}: not a JPEG or PNG image" in shown.err
    mended = data.files("CAM_FRONT", key=True)[1].read_bytes(), data.files("LIDAR_TOP", key=True)[0].read_bytes()
    assert prepare("--image-cache", "--jobs", "1") == 1
    image.write_bytes(mended[0])
    cloud.write_bytes(mended[1])
    capsys.readouterr()
    assert prepare("--image-cache", "--jobs", "1") == 0
    shown = capsys.readouterr()
    assert "LiDAR objects: 1 scenes in" in shown.out
    assert "smaller images: 1 in" in shown.out


def test_every_file_that_is_read_is_checked(
    prepare: Call, data: TinySet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert prepare("--check", "--jobs", "1") == 0
    shown = capsys.readouterr().out
    # Of each radar six records are read: of the 17 there are, the first sample and the two later ones need 14.
    assert "CAM_FRONT: 4 files, 0 damaged\nRADAR_FRONT: 14 files, 0 damaged\ncheck: 18 files, 0 damaged, in" in shown
    assert {path.suffix for path in (tmp_path / "prepared").iterdir()} == {".npz"}
    image, sweep = data.files("CAM_FRONT", key=True)[2], data.files("RADAR_FRONT", key=False)[4]
    image.write_bytes(image.read_bytes()[:-20])
    sweep.write_bytes(sweep.read_bytes()[:-20])
    data.files("LIDAR_TOP", key=True)[0].write_bytes(b"")  # which this recipe does not read
    assert prepare("--check", "--jobs", "1") == 1
    shown = capsys.readouterr()
    assert (
        "CAM_FRONT: 4 files, 1 damaged\nRADAR_FRONT: 14 files, 1 damaged\ncheck: 18 files, 2 damaged, in" in shown.out
    )
    first, second = shown.err.splitlines()
    assert first.startswith(f"damaged: {image}: truncated JPEG image (")
    assert second.startswith(f"damaged: {sweep}: truncated: expected")
    assert prepare("--check", "--dry-run", "--scenes", "scene-0002") == 0
    assert "check: 2 files to read" in capsys.readouterr().out


def test_lidar_files_much_shorter_than_the_others_are_pointed_out(
    monkeypatch: pytest.MonkeyPatch, data: TinySet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def check() -> tuple[int, str]:
        line = ["teacher_tiny", "--dataroot", data.root, "--version", data.version, "--out", tmp_path / "prepared"]
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, line), "--check", "--jobs", "1", "--no-progress"])
        return script("prepare.py").main(), capsys.readouterr().out

    for file in data.files("LIDAR_TOP", key=False):
        file.write_bytes(data.files("LIDAR_TOP", key=True)[0].read_bytes())
    assert "LIDAR_TOP: none is suspiciously short" in check()[1]
    cut = data.files("LIDAR_TOP", key=True)[2]
    cut.write_bytes(cut.read_bytes()[:2000])
    code, shown = check()
    assert code == 0  # it may be a foggy day
    assert f"suspiciously short: {cut}: 2000 bytes; LIDAR_TOP has 10000 as a rule\n" in shown
    assert shown.count("suspiciously short") == 1


def test_cameras_are_found_whatever_their_names(prepare: Call, data: TinySet, capsys: pytest.CaptureFixture[str]):
    data.tables["sensor"][0]["channel"] = "FRONT_CAMERA"
    data.write("sensor")
    assert prepare("--image-cache", "--dry-run") == 0
    assert "smaller images: 4 of 4 to do" in capsys.readouterr().out


def test_a_second_run_says_why_it_makes_the_index_again(
    prepare: Call, data: TinySet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert prepare("--dry-run") == 0
    assert ", because" not in capsys.readouterr().out
    data.tables["log"][0]["location"] = "elsewhere, now"
    data.write("log")
    assert prepare("--dry-run") == 0
    assert "MB), because the tables have changed since\n" in capsys.readouterr().out
    index = tmp_path / "prepared" / "v1.0-tiny.index.npz"
    index.write_bytes(index.read_bytes()[:-100])
    assert prepare("--dry-run") == 0
    assert f"MB), because {index} is damaged (" in capsys.readouterr().out


def test_missing_sweeps_are_counted(prepare: Call, data: TinySet, capsys: pytest.CaptureFixture[str]):
    assert prepare("--dry-run") == 0
    assert "earlier sweeps: all that the recipe reads are there" in capsys.readouterr().out
    for file in data.files("RADAR_FRONT", key=False):
        file.unlink()
    assert prepare("--dry-run") == 0
    assert "RADAR_FRONT: 0 of 10 earlier sweeps that samples read are there" in capsys.readouterr().out


def test_what_is_to_be_done_can_be_asked(prepare: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert prepare("--image-cache", "--dry-run", "--scenes", "scene-0002") == 0
    shown = capsys.readouterr().out
    assert "LiDAR objects: 1 of 1 scenes to do" in shown
    assert "smaller images: 1 of 1 to do" in shown
    assert {path.suffix for path in (tmp_path / "prepared").iterdir()} == {".npz"}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--jobs", "0"], "--jobs: expected 1 or more"), (["--scenes", "scene-1"], "no scene 'scene-1'; expected one of")],
)
def test_a_mistake_is_one_line(prepare: Call, words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        prepare(*words)


class TestTraining:
    @pytest.fixture
    def train(self, monkeypatch: pytest.MonkeyPatch, data: TinySet, recipe: Path, tmp_path: Path) -> Call:
        def call(*words: str | Path) -> int:
            line = [recipe, "--dataroot", data.root, "--version", data.version, "--out", tmp_path / "run", *words]
            line += ["--workers", "0", "--precision", "fp32", "--no-progress"]
            monkeypatch.setattr(sys, "argv", ["train.py", *map(str, line)])
            code: int = script("train.py").main()
            return code

        return call

    def test_runs_on_what_was_prepared(self, prepare: Call, train: Call, data: TinySet, tmp_path: Path):
        assert prepare("--image-cache", "--jobs", "1") == 0
        # Not needed any more: the run reads the smaller images.
        for file in data.files("CAM_FRONT", key=True):
            file.write_bytes(b"no image")
        assert train("--prepared", tmp_path / "prepared", "--image-cache") == 0
        assert (tmp_path / "run" / "model" / "model.safetensors").is_file()

    def test_says_what_the_data_lack_before_it_begins(
        self, prepare: Call, train: Call, data: TinySet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        assert prepare("--jobs", "1") == 0
        prepared = ("--prepared", tmp_path / "prepared", "--dry-run")
        capsys.readouterr()
        assert train(*prepared) == 0
        shown = capsys.readouterr().out
        assert shown.rstrip().endswith("micro: 4 samples, 2 steps of 2")
        assert "earlier sweeps" not in shown
        assert "index:" not in shown
        for file in data.files("RADAR_FRONT", key=False)[4:6]:
            file.unlink()
        data.tables["log"][0]["location"] = "elsewhere, now"
        data.write("log")
        assert train(*prepared) == 0
        assert capsys.readouterr().out.rstrip().splitlines()[-3:] == [
            "index: read from the tables again: the tables have changed since",
            "RADAR_FRONT: 8 of 10 earlier sweeps that samples read are there",
            "micro: 4 samples, 2 steps of 2",
        ]

    def test_names_the_sensors_that_no_sample_has(self, train: Call, data: TinySet):
        for file in data.files("RADAR_FRONT", key=True):
            file.unlink()
        with pytest.raises(UserError, match=r"sensors that are read; RADAR_FRONT: 0 of 4 key frames$"):
            train()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "samples.paste needs LiDAR objects; make them with training/prepare.py"),
            (["--image-cache"], "name the folder of prepared data with --prepared"),
            (["--prepared", "nothing"], "nothing/v1.0-tiny.lidar-objects: no LiDAR objects of scene-0001"),
            (["--prepared", "nothing", "--image-cache"], "no smaller images; make them with training/prepare.py"),
        ],
    )
    def test_says_what_is_lacking_before_anything_is_written(
        self, train: Call, tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=message):
            train(*words)
        assert not (tmp_path / "run").exists()
