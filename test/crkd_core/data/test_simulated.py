"""SynthScenes on the fly, as training reads it."""

from __future__ import annotations

import numpy as np
import pytest

from crkd_core.data.images import image_size
from crkd_core.data.lidar import lidar_points
from crkd_core.data.simulated import FRAME_SPACING_S, FrameKey, prerendered, simulated_frame, simulated_keys
from crkd_core.types import AnnotatedFrame

WIDTH = 160


@pytest.fixture(scope="module")
def frames() -> list[AnnotatedFrame]:
    keys = simulated_keys([3], frames_per_drive=2)
    return [simulated_frame(key, image_width=WIDTH, radar_sweeps=2) for key in keys]


def test_keys_name_every_key_frame_of_every_drive():
    assert simulated_keys(range(2), frames_per_drive=2) == [
        FrameKey(0, 0, 2),
        FrameKey(0, 1, 2),
        FrameKey(1, 0, 2),
        FrameKey(1, 1, 2),
    ]


def test_frames_hold_all_sensors_with_jpeg_images(frames: list[AnnotatedFrame]):
    frame = frames[0].frame
    assert len(frame.cameras) == 6
    assert len(frame.radars) == 5
    assert {len(sweeps) for sweeps in frame.radars.values()} == {2}
    for name, camera in frame.cameras.items():
        assert isinstance(camera.image, bytes)
        assert camera.image.startswith(b"\xff\xd8\xff")
        assert image_size(camera, name) == (WIDTH, 90)


def test_frames_of_a_drive_lie_apart_in_time_and_hold_annotated_boxes(frames: list[AnnotatedFrame]):
    assert frames[1].frame.stamp - frames[0].frame.stamp == round(FRAME_SPACING_S * 1e9)
    assert frames[0].token != frames[1].token
    for sample in frames:
        assert len(sample.boxes) == len(sample.labels) == len(sample.num_points) > 10
        assert (sample.num_points > 0).any()


def test_frames_made_by_other_processes_are_the_same(frames: list[AnnotatedFrame]):
    [again] = prerendered([FrameKey(3, 1, 2)], image_width=WIDTH, radar_sweeps=2, jobs=1)
    assert again.token == frames[1].token
    np.testing.assert_array_equal(again.boxes.centers, frames[1].boxes.centers)
    for name, camera in frames[1].frame.cameras.items():
        assert again.frame.cameras[name].image == camera.image
    for name, sweeps in frames[1].frame.radars.items():
        np.testing.assert_array_equal(again.frame.radars[name][0].points, sweeps[0].points)


def test_only_what_is_asked_for_is_kept_and_the_annotation_stays(frames: list[AnnotatedFrame]):
    key = FrameKey(3, 1, 2)
    bare = simulated_frame(key, image_width=WIDTH, radar_sweeps=0, cameras=False)
    assert (bare.frame.cameras, bare.frame.radars, bare.frame.lidar) == ({}, {}, ())
    lidar = simulated_frame(key, image_width=WIDTH, radar_sweeps=0, lidar_sweeps=range(0, 10, 3))
    assert len(lidar.frame.cameras) == 6
    assert [(lidar.frame.stamp - sweep.stamp) // 1_000_000 for sweep in lidar.frame.lidar] == [0, 150, 300, 450]
    assert min(len(sweep.points) for sweep in lidar.frame.lidar) > 5000
    for sample in (bare, lidar):
        np.testing.assert_array_equal(sample.num_points, frames[1].num_points)
        np.testing.assert_array_equal(sample.boxes.centers, frames[1].boxes.centers)


def test_earlier_lidar_sweeps_of_a_simulated_frame_meet_in_the_bev_frame():
    """Walls and parked cars stand still: most points of a sweep have one of the key frame within 0.3 m."""
    sample = simulated_frame(FrameKey(3, 0, 1), image_width=WIDTH, radar_sweeps=0, lidar_sweeps=range(2), cameras=False)
    points = lidar_points(sample.frame, sweeps=1)
    raised = points[points[:, 2] > -1.2]
    age = raised[:, 4]
    assert np.unique(age).tolist() == pytest.approx([0.0, 0.05])
    key = {tuple(cell) for cell in np.floor(raised[age == 0, :2] / 0.3).astype(int)}
    near = np.array([(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)])
    cells = np.floor(raised[age > 0, :2] / 0.3).astype(int)
    met = [any(tuple(cell + step) in key for step in near) for cell in cells]
    assert np.mean(met) > 0.9
