from collections.abc import Callable

import numpy as np
import pytest

from crkd_core.data.synthscenes import frame_at, keyframe_stamps
from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.data.synthscenes.frames import annotated, camera_stamps, radar_stamps, visibility
from crkd_core.data.synthscenes.lidar import scan
from crkd_core.data.synthscenes.population import Actor, Block
from crkd_core.data.synthscenes.tables import scene_events, scene_rows
from crkd_core.data.synthscenes.world import Drive, SynthError
from crkd_core.geometry.transforms import apply, inverse
from crkd_core.types import DETECTION_CLASSES, AnnotatedFrame

Stage = Callable[..., Drive]


@pytest.fixture(scope="module")
def frame(drive: Drive):
    return frame_at(drive, drive.start_ns + 3_000_000_000, image_width=160, with_lidar=True)


def test_a_frame_has_all_sensors_each_at_its_own_stamp_and_pose(drive: Drive, frame: AnnotatedFrame):
    assert list(frame.frame.cameras) == [c.name for c in drive.config.cameras]
    assert list(frame.frame.radars) == [r.name for r in drive.config.radars]
    for camera in frame.frame.cameras.values():
        assert camera.image.shape == (90, 160, 3)
        assert camera.image.dtype == np.uint8
        assert 0 < frame.frame.stamp - camera.stamp < 50_000_000
        np.testing.assert_array_equal(camera.T_world_from_base, drive.ego_pose(camera.stamp))
    assert len({c.stamp for c in frame.frame.cameras.values()}) == 6
    for sweeps in frame.frame.radars.values():
        assert len(sweeps) == 6
        steps = -np.diff([s.stamp for s in sweeps])
        np.testing.assert_allclose(steps, 1e9 / 13, atol=2000)
        assert abs(sweeps[0].stamp - frame.frame.stamp) <= 1e9 / 26 + 1000
    assert frame.token == f"synth-4-{frame.frame.stamp}"


def test_intrinsics_belong_to_the_size_of_the_image(frame: AnnotatedFrame):
    K = frame.frame.cameras["CAM_FRONT"].intrinsics
    assert K[0, 0] == pytest.approx(126.6)
    assert K[0, 2] == pytest.approx((810 + 0.5) / 10 - 0.5)


def test_boxes_are_those_of_the_world_in_the_vehicles_frame(drive: Drive, frame: AnnotatedFrame):
    boxes, pick = annotated(drive, frame.frame.stamp)
    back = apply(frame.frame.T_world_from_base, frame.boxes.centers)
    np.testing.assert_allclose(back, boxes.centers, atol=1e-9)
    np.testing.assert_array_equal(frame.labels, drive.labels[pick])
    assert np.hypot(*frame.boxes.centers[:, :2].T).max() < 60
    assert len(frame.boxes) == len(frame.num_points) > 40
    assert (frame.num_points > 0).sum() > 30
    assert set(frame.labels) == set(range(len(DETECTION_CLASSES)))


def test_lidar_points_of_a_frame_fall_into_the_boxes_that_claim_them(frame: AnnotatedFrame):
    sweep = frame.frame.lidar[0]
    points = apply(sweep.T_base_from_lidar, np.stack([sweep.points[a] for a in "xyz"], axis=1))
    rich = np.flatnonzero(frame.num_points > 200)
    assert len(rich) > 2
    for i in rich:
        b = frame.boxes
        local = (points - b.centers[i])[:, :2] @ np.array(
            [[np.cos(b.yaws[i]), -np.sin(b.yaws[i])], [np.sin(b.yaws[i]), np.cos(b.yaws[i])]]
        )
        inside = (np.abs(local) < b.sizes[i, :2] / 2 + 0.1).all(axis=1) & (points[:, 2] > 0.05)
        assert inside.sum() > 0.8 * frame.num_points[i]


def test_entirely_hidden_actors_have_no_points(stage: Stage):
    car = Actor("car", (4.6, 1.9, 1.7), 15.0, -1.75, 0.5)
    wall = Block("building", (1.0, 20.0, 8.0), 8.0, -1.75)
    hidden, clear = stage([car], [wall]), stage([car])
    points = [frame_at(d, d.start_ns, image_width=64, sweeps=1).num_points[0] for d in (hidden, clear)]
    assert points[0] == 0
    assert points[1] > 100


def test_visibility_says_what_is_hidden_and_nothing_of_rays_lost_on_the_way(stage: Stage):
    cars = [Actor("car", (4.6, 1.9, 1.7), 45.0, d, 0.0) for d in (-10.0, -6.0, -2.0, 2.0, 6.0)]
    walls = [Block("wall", (0.4, 1.0, 5.0), 42.0, 2.0), Block("wall", (0.4, 5.0, 5.0), 42.0, 6.0)]
    drive = stage(cars, walls, conditions=Conditions("day", 0.7, 2.5, cloud=1.0, rain=20.0))
    result, pick = scan(drive, drive.start_ns), np.arange(5)
    come_back = result.hits() / np.maximum(result.would_hit, 1)
    dark = int(np.argmin(drive.reflection.albedo[:3]))
    assert come_back[dark] < 0.7  # far, dark, in rain, but in full view
    shares = visibility(result, pick)
    np.testing.assert_array_equal(shares[:3], 1.0)
    assert 0.3 < shares[3] < 0.7
    assert shares[4] == 0.0
    tables = scene_rows(drive, "scene", scene_events(drive, "scene", sweeps=False, lidar_sweeps=False))
    first = [row for row in tables["sample_annotation"] if row["prev"] == ""]
    assert [row["visibility_token"] for row in first[:3]] == ["4", "4", "4"]
    assert first[dark]["num_lidar_pts"] == result.hits()[dark]


def test_a_moving_object_is_where_each_camera_saw_it(stage: Stage):
    # 15 m/s and 48 ms between the cameras and the reference stamp: 0.7 m.
    drive = stage([Actor("car", (4.6, 1.9, 1.7), 10.0, 6.0, 0.0, v_s=15.0)])
    frame = frame_at(drive, drive.start_ns + 500_000_000, image_width=64, sweeps=2)
    stamp = frame.frame.cameras["CAM_BACK_RIGHT"].stamp
    moved = drive.states(frame.frame.stamp).xy[0] - drive.states(stamp).xy[0]
    np.testing.assert_allclose(moved, [0.72, 0.0], atol=1e-6)
    np.testing.assert_allclose(frame.boxes.velocities[0], [15.0, 0.0], atol=1e-6)


def test_a_key_frame_is_made_of_measurements_on_the_sensors_own_grids(drive: Drive):
    frame = frame_at(drive, keyframe_stamps(drive)[3], image_width=64)
    for camera in drive.config.cameras:
        assert frame.frame.cameras[camera.name].stamp in camera_stamps(drive, camera)
    for radar in drive.config.radars:
        assert {s.stamp for s in frame.frame.radars[radar.name]} <= set(radar_stamps(drive, radar))


def test_a_stamp_outside_the_drive_is_refused(drive: Drive):
    with pytest.raises(SynthError, match=r"expected between 0 and 10\.00 s"):
        frame_at(drive, drive.start_ns + 20_000_000_000, image_width=64)


def test_base_from_bev_is_the_lidar_mounting(frame: AnnotatedFrame):
    forward = frame.frame.T_base_from_bev @ [0.0, 1.0, 0.0, 0.0]
    np.testing.assert_allclose(forward[:3], [1, 0, 0], atol=1e-12)
    assert inverse(frame.frame.T_base_from_bev)[2, 3] == pytest.approx(-1.84)
