from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import KEY_FRAMES, LAST, MS, START, annotation, car, car_seen, pose, write_drive

from crkd_core.geometry.transforms import inverse
from crkd_core.runtime.poses import PoseBuffer
from crkd_ros import topics
from rosbag_tools.bags import open_bag
from rosbag_tools.moments import TruthTrack, sensor_frames, sensors_of
from rosbag_tools.recorded import RecordingError, VehiclePoses, vehicle_poses


def poses() -> VehiclePoses:
    buffer = PoseBuffer()
    for stamp in range(START - 100 * MS, LAST + 100 * MS, 20 * MS):
        buffer.insert(stamp, pose(stamp))
    return VehiclePoses([buffer])


def test_sensors_are_found_with_their_mounting(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:
        sensors = sensors_of(bag)
    assert [camera.name for camera in sensors.cameras.values()] == ["cam_front"]
    assert [radar.name for radar in sensors.radars.values()] == ["radar_front"]
    assert sensors.problems == ()


def test_a_camera_without_camera_info_is_said(tmp_path: Path):
    path = write_drive(tmp_path / "drive.mcap", without=[topics.camera_info_topic("cam_front")])
    with open_bag(path) as bag:
        sensors = sensors_of(bag)
    assert sensors.cameras == {}
    assert "no /cam_front/camera_info" in sensors.problems[0]


def test_nothing_to_show_is_an_error(tmp_path: Path):
    path = write_drive(tmp_path / "drive.mcap", without=[topics.TF_STATIC])
    with open_bag(path) as bag, pytest.raises(RecordingError, match=r"no camera .* and no radar .*not on /tf_static"):
        sensors_of(bag)


def test_a_moment_gets_its_nearest_image_and_its_sweeps_newest_first(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:
        moments = [START + 540 * MS, START + 660 * MS]
        frames = dict(sensor_frames(bag, sensors_of(bag), vehicle_poses(bag), moments))
    first, second = (frames[moment] for moment in moments)
    assert first is not None
    assert second is not None
    assert first.cameras["cam_front"].stamp == START + 500 * MS
    assert second.cameras["cam_front"].stamp == START + 700 * MS
    assert [s.stamp - START for s in first.radars["radar_front"]] == [507 * MS, 407 * MS, 307 * MS]
    np.testing.assert_allclose(second.cameras["cam_front"].T_world_from_base, pose(START + 700 * MS), atol=1e-9)


def test_a_moment_without_pose_has_no_frame(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:
        found = list(sensor_frames(bag, sensors_of(bag), vehicle_poses(bag), [START, LAST + 5000 * MS]))
    assert found[0][1] is not None
    assert found[1] == (LAST + 5000 * MS, None)


def test_sensors_that_are_silent_are_absent(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:
        ((_, frame),) = sensor_frames(bag, sensors_of(bag), vehicle_poses(bag), [START - 150 * MS])
    assert frame is not None
    assert frame.cameras == {}
    assert frame.radars == {}


def test_ground_truth_at_a_key_frame_is_its_annotation():
    track = TruthTrack([annotation(stamp) for stamp in KEY_FRAMES], poses())
    for stamp in KEY_FRAMES:
        found = track.at(stamp, pose(stamp))
        assert found is not None
        assert found.class_names == ["car"]
        np.testing.assert_allclose(found.boxes.centers, car_seen(stamp).boxes.centers, atol=1e-9)
        np.testing.assert_allclose(found.boxes.yaws, car_seen(stamp).boxes.yaws, atol=1e-9)


@given(st.integers(START, LAST))
def test_ground_truth_between_key_frames_is_interpolated(stamp: int):
    track = TruthTrack([annotation(s) for s in KEY_FRAMES], poses())
    found = track.at(stamp, np.eye(4))
    assert found is not None
    np.testing.assert_allclose(found.boxes.centers, car(stamp).centers, atol=1e-6)
    np.testing.assert_allclose(found.boxes.velocities, car(stamp).velocities, atol=1e-6)


def test_there_is_no_ground_truth_far_from_key_frames():
    track = TruthTrack([annotation(stamp) for stamp in KEY_FRAMES], poses())
    assert track.at(START - 70 * MS, np.eye(4)) is None
    assert track.at(START - 50 * MS, np.eye(4)) is not None
    assert TruthTrack([], poses()).at(START, np.eye(4)) is None


def test_a_hole_in_the_key_frames_is_not_bridged():
    track = TruthTrack([annotation(KEY_FRAMES[0]), annotation(KEY_FRAMES[3])], poses())
    assert track.at(START + 750 * MS, np.eye(4)) is None


def test_an_object_annotated_once_is_shown_near_that_key_frame_only():
    first, second = annotation(KEY_FRAMES[0]), annotation(KEY_FRAMES[1])
    alone = msgspec.structs.replace(second, objects=())
    track = TruthTrack([first, alone], poses())
    early, late = track.at(START + 200 * MS, np.eye(4)), track.at(START + 300 * MS, np.eye(4))
    assert early is not None
    assert late is not None
    np.testing.assert_allclose(early.boxes.centers, car(START + 200 * MS).centers, atol=1e-6)
    assert len(late) == 0


def test_objects_without_any_point_are_not_shown():
    hidden = annotation(START)
    objects = tuple(msgspec.structs.replace(o, num_lidar_pts=0, num_radar_pts=0) for o in hidden.objects)
    track = TruthTrack([msgspec.structs.replace(hidden, objects=objects)], poses())
    found = track.at(START, np.eye(4))
    assert found is not None
    assert len(found) == 0


def test_headings_are_interpolated_the_short_way():
    def turned(stamp: int, yaw: float) -> object:
        one = annotation(stamp)
        thing = msgspec.structs.replace(one.objects[0], rotation=(np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)))
        return msgspec.structs.replace(one, objects=(thing,))

    track = TruthTrack([turned(KEY_FRAMES[0], 3.0), turned(KEY_FRAMES[1], -3.0)], poses())
    found = track.at(START + 250 * MS, np.eye(4))
    assert found is not None
    # Half way from 3.0 to -3.0 lies pi, not 0; the recorded poses are turned by -0.4 against the annotations.
    assert np.cos(found.boxes.yaws[0] - (np.pi - 0.4)) == pytest.approx(1.0)


def test_the_frame_of_a_moment_places_its_ground_truth():
    track = TruthTrack([annotation(stamp) for stamp in KEY_FRAMES], poses())
    stamp = START + 500 * MS
    in_world, in_base = track.at(stamp, np.eye(4)), track.at(stamp, pose(stamp))
    assert in_world is not None
    assert in_base is not None
    moved = replace(in_world.transformed(inverse(pose(stamp)), "base_link"))
    np.testing.assert_allclose(moved.boxes.centers, in_base.boxes.centers, atol=1e-9)
