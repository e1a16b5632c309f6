"""Sensor frames read from a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crkd_core.config import load_recipe
from crkd_core.data.errors import DataError
from crkd_core.data.frames import NuScenesFrames, annotated_frame, channels_read, read_samples
from crkd_core.data.nuscenes import load_index
from crkd_core.geometry.transforms import apply
from crkd_core.types import RADAR_DTYPE


def frame_of(tiny_set: Any, token: str, **options: Any) -> Any:
    index = load_index(tiny_set.root, tiny_set.version)
    return annotated_frame(index, index.sample(token), **options)


def test_reference_is_the_lidar_key_frame(tiny_set: Any):
    frame = frame_of(tiny_set, "scene-0001-1").frame
    np.testing.assert_allclose(frame.T_world_from_base[:3, 3], [105, 50, 0])
    # x of the BEV frame is the vehicle's right, y its front.
    in_base = apply(frame.T_base_from_bev, [[0, 10, 0], [2, 0, 0]])
    np.testing.assert_allclose(in_base, [[11, 0, 1.5], [1, -2, 1.5]], atol=1e-9)


def test_every_sweep_has_its_own_stamp_and_pose_newest_first(tiny_set: Any):
    frame = frame_of(tiny_set, "scene-0001-1", radar_sweeps=3).frame
    sweeps = frame.radars["RADAR_FRONT"]
    assert [(frame.stamp - s.stamp) // 1_000_000 for s in sweeps] == [0, 50, 125]
    np.testing.assert_allclose([s.T_world_from_base[0, 3] for s in sweeps], [105, 104.5, 103.75])
    assert sweeps[0].points.dtype == RADAR_DTYPE


def test_image_is_the_file(tiny_set: Any):
    frame = frame_of(tiny_set, "scene-0001-2").frame
    assert frame.cameras["CAM_FRONT"].image == tiny_set.files("CAM_FRONT", key=True)[2].read_bytes()


def test_boxes_of_the_ten_classes_are_in_base(tiny_set: Any):
    sample = frame_of(tiny_set, "scene-0001-0")
    assert sample.labels.tolist() == [0, 9]
    assert sample.num_points.tolist() == [7, 0]
    np.testing.assert_allclose(sample.boxes.centers[0], [20, 0, 1])
    np.testing.assert_allclose(sample.boxes.sizes[0], [4, 2, 1.5])
    np.testing.assert_allclose(sample.boxes.velocities[0], [2, 0], atol=1e-5)
    assert np.isnan(sample.boxes.velocities[1]).all()
    # Half a second later the vehicle has turned left by 0.1 rad: the box turns right in base.
    later = frame_of(tiny_set, "scene-0001-1")
    np.testing.assert_allclose(later.boxes.yaws, [-0.1], atol=1e-9)
    np.testing.assert_allclose(later.boxes.velocities, [[2 * np.cos(0.1), -2 * np.sin(0.1)]], atol=1e-5)


def test_sample_without_annotations(tiny_set: Any):
    assert len(frame_of(tiny_set, "scene-0002-0").boxes) == 0


def test_absent_files_are_left_out(tiny_set: Any):
    tiny_set.files("CAM_FRONT", key=True)[1].unlink()
    tiny_set.files("RADAR_FRONT", key=False)[5].unlink()
    frame = frame_of(tiny_set, "scene-0001-1", radar_sweeps=3).frame
    assert frame.cameras == {}
    # The window stays three records long: nothing older takes the place of the absent one.
    assert [(frame.stamp - s.stamp) // 1_000_000 for s in frame.radars["RADAR_FRONT"]] == [0, 125]


def test_radar_without_any_file_is_absent(tiny_set: Any):
    for key in (True, False):
        for file in tiny_set.files("RADAR_FRONT", key=key):
            file.unlink()
    assert frame_of(tiny_set, "scene-0001-1").frame.radars == {}


def test_lidar_is_read_when_asked_for(tiny_set: Any):
    assert frame_of(tiny_set, "scene-0001-1").frame.lidar == ()
    sweeps = frame_of(tiny_set, "scene-0001-1", lidar_sweeps=range(2)).frame.lidar
    assert [len(s.points) for s in sweeps] == [2, 2]
    assert sweeps[0].stamp - sweeps[1].stamp == 50_000_000
    apart = frame_of(tiny_set, "scene-0001-1", lidar_sweeps=range(0, 10, 3)).frame.lidar
    assert [(sweeps[0].stamp - sweep.stamp) // 1_000_000 for sweep in apart] == [0, 150, 300, 450]


def test_truncated_radar_file_is_named(tiny_set: Any):
    file = tiny_set.files("RADAR_FRONT", key=True)[1]
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"{file.name}: truncated"):
        frame_of(tiny_set, "scene-0001-1")


def test_sample_without_reference_is_refused(tiny_set: Any):
    rows = tiny_set.tables["sample_data"]
    tiny_set.tables["sample_data"] = [r for r in rows if "samples/LIDAR_TOP" not in r["filename"]]
    tiny_set.write("sample_data")
    with pytest.raises(DataError, match="sample scene-0001-1: no LIDAR_TOP key frame"):
        frame_of(tiny_set, "scene-0001-1")


def test_frames_of_chosen_samples(tiny_set: Any):
    index = load_index(tiny_set.root, tiny_set.version)
    frames = NuScenesFrames(index, index.scene("scene-0001").samples[1:], radar_sweeps=2)
    assert [frames[i].token for i in range(len(frames))] == ["scene-0001-1", "scene-0001-2"]
    assert len(frames[0].frame.radars["RADAR_FRONT"]) == 2


@pytest.mark.parametrize(
    ("recipe", "prefixes"),
    [
        ("student_tiny", {"CAM", "RADAR"}),
        ("camera_tiny", {"CAM"}),
        ("radar_tiny", {"RADAR"}),
        ("teacher_tiny", {"CAM", "LIDAR"}),
    ],
)
def test_a_recipe_reads_the_sensors_of_its_branches(tiny_set: Any, recipe: str, prefixes: set[str]):
    index = load_index(tiny_set.root, tiny_set.version)
    channels = channels_read(index, load_recipe(recipe))
    assert {channel.partition("_")[0] for channel in channels} == prefixes
    assert set(channels) <= {c.channel for c in index.calibrations}


def test_sensors_are_known_by_what_they_are_not_by_their_names(tiny_set: Any):
    for row in tiny_set.tables["sensor"]:
        row["channel"] = {"CAM_FRONT": "FRONT_CAMERA", "RADAR_FRONT": "LIDAR_LIKE_RADAR"}.get(
            row["channel"], "LIDAR_TOP"
        )
    tiny_set.write("sensor")
    index = load_index(tiny_set.root, tiny_set.version)
    names = {
        "camera_tiny": ["FRONT_CAMERA"],
        "radar_tiny": ["LIDAR_LIKE_RADAR"],
        "teacher_tiny": ["FRONT_CAMERA", "LIDAR_TOP"],
    }
    for recipe, expected in names.items():
        assert channels_read(index, load_recipe(recipe)) == expected
    frames = NuScenesFrames(index, index.samples, radar_sweeps=3, lidar_sweeps=range(0, 10, 3))
    windows = {"FRONT_CAMERA": range(1), "LIDAR_LIKE_RADAR": range(3), "LIDAR_TOP": range(0, 10, 3)}
    assert frames.windows() == windows
    assert list(frames[1].frame.cameras) == ["FRONT_CAMERA"]


def test_a_second_lidar_is_not_read(tiny_set: Any):
    tiny_set.tables["sensor"].append({"token": "rear", "channel": "LIDAR_REAR", "modality": "lidar"})
    mounting = next(row for row in tiny_set.tables["calibrated_sensor"] if row["token"].endswith("LIDAR_TOP"))
    tiny_set.tables["calibrated_sensor"].append({**mounting, "token": "rear", "sensor_token": "rear"})
    tiny_set.write("sensor")
    tiny_set.write("calibrated_sensor")
    index = load_index(tiny_set.root, tiny_set.version)
    assert channels_read(index, load_recipe("teacher_tiny")) == ["CAM_FRONT", "LIDAR_TOP"]


def test_a_recipe_of_a_sensor_that_the_set_has_not_is_refused(tiny_set: Any):
    for row in tiny_set.tables["sensor"]:
        row["modality"] = "lidar"
    tiny_set.write("sensor")
    index = load_index(tiny_set.root, tiny_set.version)
    with pytest.raises(DataError, match="recipe 'student_tiny' reads a camera, and there is none"):
        channels_read(index, load_recipe("student_tiny"))


def test_earlier_sweeps_are_counted_as_the_samples_read_them(tiny_set: Any):
    index = load_index(tiny_set.root, tiny_set.version)
    frames = NuScenesFrames(index, index.samples, radar_sweeps=3, lidar_sweeps=range(0, 10, 3))
    # The first samples of both scenes have none before them, the other two all.
    assert frames.earlier_sweeps() == {"RADAR_FRONT": (4, 4), "LIDAR_TOP": (6, 6)}
    assert len(frames.files()["RADAR_FRONT"]) == 4 + 4
    for file in tiny_set.files("RADAR_FRONT", key=False)[4:6]:  # the two before the second sample
        file.unlink()
    for file in tiny_set.files("LIDAR_TOP", key=False):
        file.unlink()
    index = load_index(tiny_set.root, tiny_set.version)
    frames = NuScenesFrames(index, index.samples, radar_sweeps=3, lidar_sweeps=range(0, 10, 3))
    read = [len(frames[i].frame.radars["RADAR_FRONT"]) - 1 for i in range(4)]
    assert frames.earlier_sweeps()["RADAR_FRONT"] == (sum(read), 4) == (2, 4)
    assert frames.earlier_sweeps()["LIDAR_TOP"] == (0, 6)
    assert NuScenesFrames(index, index.samples, channels=["CAM_FRONT"]).earlier_sweeps() == {}


def test_sensors_that_are_short_are_named_when_no_sample_is_complete(tiny_set: Any):
    index = load_index(tiny_set.root, tiny_set.version)
    channels = ["CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT"]
    assert read_samples(index, index.samples[1:3], channels) == list(index.samples[1:3])
    for file in (*tiny_set.files("CAM_FRONT", key=True)[1:], tiny_set.files("RADAR_FRONT", key=True)[0]):
        file.unlink()
    index = load_index(tiny_set.root, tiny_set.version)
    message = "CAM_FRONT: 1 of 4 key frames, RADAR_FRONT: 3 of 4 key frames$"
    with pytest.raises(DataError, match=message) as raised:
        read_samples(index, index.samples, channels)
    assert "\n" not in str(raised.value)


@pytest.mark.nuscenes
def test_lidar_returns_of_real_data_lie_in_the_boxes_as_counted(nuscenes_root: Path, nuscenes_version: str):
    """Boxes and LiDAR meet in base: for each box with many returns, their number is that of the annotation."""
    index = load_index(nuscenes_root, nuscenes_version)
    sample = index.complete_samples()[0]
    annotated = annotated_frame(index, sample, lidar_sweeps=range(1))
    sweep = annotated.frame.lidar[0]
    xyz = np.stack([sweep.points[name] for name in ("x", "y", "z")], axis=1)
    points = apply(sweep.T_base_from_lidar, xyz)
    expected = [a.num_lidar_pts for a in index.annotations(sample) if a.label is not None]
    boxes = annotated.boxes
    for i, count in enumerate(expected):
        if count < 20:
            continue
        offset = points - boxes.centers[i]
        c, s = np.cos(boxes.yaws[i]), np.sin(boxes.yaws[i])
        local = np.stack([offset @ [c, s, 0], offset @ [-s, c, 0], offset[:, 2]], axis=1)
        inside = int((np.abs(local) <= boxes.sizes[i] / 2).all(axis=1).sum())
        assert inside == pytest.approx(count, rel=0.1, abs=5)
