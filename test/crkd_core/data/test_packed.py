"""Frames in one file: the same frames again, LiDAR to a few millimetres, and clear words where something is wrong."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from micro import micro_frame_with_lidar, micro_recipe, micro_teacher

from crkd_core.config import recipe_from_dict, recipe_to_dict
from crkd_core.data.dataset import LabelledSource
from crkd_core.data.errors import DataError
from crkd_core.data.packed import PackedFrames, pack_simulated, packed, packed_frames, unpacked
from crkd_core.data.simulated import simulated_frame, simulated_keys

KEYS = simulated_keys([3], frames_per_drive=2)
WIDTH = 96
SWEEPS = range(0, 5, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "frames"
    pack_simulated(path, KEYS, image_width=WIDTH, radar_sweeps=2, lidar_sweeps=SWEEPS, jobs=1)
    return path


def test_packed_frames_are_the_simulated_ones(folder: Path):
    source = PackedFrames(folder)
    assert isinstance(source, LabelledSource)
    assert len(source) == 2
    for i, key in enumerate(KEYS):
        found, expected = source[i], simulated_frame(key, image_width=WIDTH, radar_sweeps=2, lidar_sweeps=SWEEPS)
        assert found.token == expected.token
        assert found.frame.manifest == expected.frame.manifest
        for name in ("centers", "sizes", "yaws", "velocities"):
            np.testing.assert_array_equal(getattr(found.boxes, name), getattr(expected.boxes, name))
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.num_points, expected.num_points)
        np.testing.assert_array_equal(source.labels()[i], expected.labels[expected.num_points > 0])
        for name, camera in expected.frame.cameras.items():
            assert found.frame.cameras[name].image == camera.image
        for name, sweeps in expected.frame.radars.items():
            for a, b in zip(found.frame.radars[name], sweeps, strict=True):
                np.testing.assert_array_equal(a.points, b.points)
        for a, b in zip(found.frame.lidar, expected.frame.lidar, strict=True):
            assert a.stamp == b.stamp
            for name in ("intensity", "ring"):
                np.testing.assert_array_equal(a.points[name], b.points[name])
            for name in ("x", "y", "z"):
                np.testing.assert_allclose(a.points[name], b.points[name], atol=0.5 / 256 + 1e-6)


def test_a_source_goes_to_other_processes_by_its_path(folder: Path):
    assert len(pickle.dumps(PackedFrames(folder))) < 20_000
    assert pickle.loads(pickle.dumps(PackedFrames(folder)))[1].token == PackedFrames(folder)[1].token  # noqa: S301


def test_a_lidar_point_takes_eight_bytes():
    frame = micro_frame_with_lidar(0)
    points = sum(len(sweep.points) for sweep in frame.frame.lidar)
    bare = replace(frame, frame=replace(frame.frame, lidar=()))
    assert 8 * points < len(packed(frame)) - len(packed(bare)) < 8 * points + 3000
    assert len(unpacked(packed(frame)).frame.lidar[2].points) == 800


def test_points_too_far_away_to_be_packed_are_refused():
    frame = micro_frame_with_lidar(0)
    frame.frame.lidar[1].points["y"][5] = 200.0
    with pytest.raises(ValueError, match=r"expected y within 128 m, got 200\.0 m"):
        packed(frame)


def test_what_a_recipe_reads_must_be_there_and_the_lidar_of_its_teacher_is_read(folder: Path):
    teacher, camera = recipe_to_dict(micro_teacher()), recipe_to_dict(micro_recipe())
    teacher["model"]["lidar"]["sweep_step"] = 2
    camera["model"]["radar"] = None
    camera["model"]["fuser"]["type"] = "conv"  # nothing to weigh against
    alone, beside = recipe_from_dict(camera, source="camera"), recipe_from_dict(teacher, source="teacher")
    assert packed_frames(folder, alone)[0].frame.lidar == ()
    assert len(packed_frames(folder, alone, teacher=beside)[0].frame.lidar) == len(SWEEPS)
    with pytest.raises(DataError, match="radar_sweeps: recipe 'micro' needs 6, found 2"):
        packed_frames(folder, micro_recipe())


def test_a_run_gets_the_revolutions_that_it_reads(folder: Path):
    whole = PackedFrames(folder)[1].frame.lidar
    every_fourth = PackedFrames(folder, lidar_sweeps=range(0, 5, 4))[1].frame.lidar
    assert [sweep.stamp for sweep in every_fourth] == [whole[0].stamp, whole[2].stamp]
    assert whole[0].stamp - whole[2].stamp == 200_000_000
    for found, expected in zip(every_fourth, (whole[0], whole[2]), strict=True):
        np.testing.assert_array_equal(found.points, expected.points)
    assert PackedFrames(folder, lidar_sweeps=range(0))[1].frame.lidar == ()


@pytest.mark.parametrize(("missing", "options"), [(range(3), "3 --lidar-step 1"), (range(0, 7, 2), "4 --lidar-step 2")])
def test_revolutions_that_are_not_there_are_refused(folder: Path, missing: range, options: str):
    with pytest.raises(DataError, match=rf"found \[0, 2, 4\].*pack them again with --lidar-sweeps {options}$"):
        PackedFrames(folder, lidar_sweeps=missing)


def test_a_damaged_record_is_named_whatever_has_changed_in_it(folder: Path, tmp_path: Path):
    whole = (folder / "frames.bin").read_bytes()
    (tmp_path / "frames.json").write_bytes((folder / "frames.json").read_bytes())
    first = PackedFrames(folder).contents.offsets[1]
    draw = np.random.default_rng(0)
    names = [whole.find(word, first) for word in (b"frame", b"radars", b"stamp", b"points", b"labels")]
    (tmp_path / "frames.bin").write_bytes(whole)
    refused = 0
    for place in [first, *names, *(first + draw.integers(0, 400, 200)).tolist()]:
        damaged = bytearray(whole)
        damaged[place] ^= int(draw.integers(1, 256))
        (tmp_path / "frames.bin").write_bytes(damaged)
        try:
            PackedFrames(tmp_path)[1]
        except DataError as error:
            refused += 1
            assert str(error).startswith(f"{tmp_path / 'frames.bin'}: frame 1 is damaged (")  # noqa: PT017
            assert str(error).endswith("); pack them again")  # noqa: PT017
    assert refused > 20
    assert PackedFrames(tmp_path)[0].token == PackedFrames(folder)[0].token


@pytest.mark.timeout(60)
def test_a_killed_process_ends_the_packing_and_nothing_is_left(tmp_path: Path):
    def kill_one() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.05)
        os.kill(children[0].pid or 0, signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    with pytest.raises(DataError, match=r"one of 2 processes has died.* under way: .*drive [34]; use"):
        pack_simulated(
            tmp_path / "frames",
            simulated_keys([3, 4], frames_per_drive=4),
            image_width=0,
            radar_sweeps=1,
            lidar_sweeps=range(0),
            jobs=2,
        )
    thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/frames: cannot be written: Not a directory; nothing of it is kept$"):
        pack_simulated(tmp_path / "file" / "frames", KEYS, image_width=0, radar_sweeps=1, lidar_sweeps=range(0), jobs=1)


def test_a_folder_that_is_none_or_damaged_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no packed frames .*pack_synthscenes\.py makes them"):
        PackedFrames(tmp_path)
    for name in ("frames.json", "frames.bin"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "frames.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"expected \d+ bytes, found 5"):
        PackedFrames(tmp_path)
    counted = (folder / "frames.json").read_text().replace('"lidar_sweeps":[0,2,4]', '"lidar_sweeps":3')
    for other in ("{}", counted):
        (tmp_path / "frames.json").write_text(other)
        with pytest.raises(DataError, match=r"or one of another version .*; pack them again"):
            PackedFrames(tmp_path)
    with pytest.raises(DataError, match="exists already"):
        pack_simulated(folder, KEYS, image_width=WIDTH, radar_sweeps=2, lidar_sweeps=range(0), jobs=1)
