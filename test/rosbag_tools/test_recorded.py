from pathlib import Path

import numpy as np
import pytest
from recordings import (
    KEY_FRAMES,
    MS,
    START,
    T_BASE_FROM_RADAR,
    T_GLOBAL_FROM_MAP,
    annotation,
    car_seen,
    pose,
    write_detections,
    write_drive,
)

from crkd_core.geometry.transforms import transform
from crkd_ros import topics
from crkd_ros.conversions import tf_message, transform_stamped_message
from rosbag_tools.bags import BagError, new_bag, open_bag
from rosbag_tools.recorded import (
    RecordingError,
    annotations_in,
    detections_in,
    mounting,
    mountings,
    truth_of,
    vehicle_poses,
)
from rosbag_tools.typestore import bag_messages


def test_poses_are_interpolated_from_tf(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:
        poses = vehicle_poses(bag)
    np.testing.assert_allclose(poses.at(START), pose(START), atol=1e-12)
    np.testing.assert_allclose(poses.at(START + 710 * MS), pose(START + 710 * MS), atol=1e-3)
    assert poses.at(START - 5000 * MS) is None


def test_odometry_serves_where_tf_does_not(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap", without=[topics.TF])) as bag:
        np.testing.assert_allclose(vehicle_poses(bag).at(START), pose(START), atol=1e-12)


def test_no_pose_at_all_names_what_was_looked_for(tmp_path: Path):
    path = write_drive(tmp_path / "drive.mcap", without=[topics.TF, topics.ODOMETRY])
    with open_bag(path) as bag, pytest.raises(RecordingError, match="no pose of 'base_link' in 'map' on /tf"):
        vehicle_poses(bag)


def test_poses_along_a_chain_of_transforms(tmp_path: Path):
    m = bag_messages()
    T_map_from_odom = transform(np.eye(3), (100.0, 0.0, 0.0))
    with new_bag(tmp_path / "chain.mcap") as bag:
        bag.add_topic(topics.TF, "tf2_msgs/msg/TFMessage")
        for stamp in (0, 100 * MS):
            both = [
                transform_stamped_message(m, T_map_from_odom, stamp=stamp, parent="map", child="odom"),
                transform_stamped_message(m, pose(START + stamp), stamp=stamp, parent="odom", child="base_link"),
            ]
            bag.write(topics.TF, stamp, tf_message(m, both))
    with open_bag(tmp_path / "chain.mcap") as bag:
        found = vehicle_poses(bag).at(100 * MS)
    np.testing.assert_allclose(found, T_map_from_odom @ pose(START + 100 * MS), atol=1e-12)


def test_mountings_come_from_tf_static(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:
        edges = mountings(bag)
    np.testing.assert_allclose(mounting(edges, "radar_front"), T_BASE_FROM_RADAR, atol=1e-12)
    assert mounting(edges, "cam_roof") is None


def test_annotations_become_ground_truth_of_every_category(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:
        found = [truth_of(a) for a in annotations_in(bag)]
    assert [sample.stamp for sample in found] == list(KEY_FRAMES)
    first = found[0]
    assert (first.token, first.scene) == ("sample0", "scene-made-up")
    assert [box.category for box in first.boxes] == ["vehicle.car", "static_object.bicycle_rack"]
    assert first.boxes[0].num_points == 10
    assert first.boxes[0].attribute == "vehicle.moving"
    assert np.isnan(first.boxes[1].velocity).all()
    np.testing.assert_allclose(first.T_world_from_base, T_GLOBAL_FROM_MAP @ pose(START), atol=1e-12)
    assert first.boxes[0].translation == annotation(START).objects[0].translation


def test_detections_come_with_velocities_and_reports(tmp_path: Path):
    answers = [car_seen(START + 100 * MS), car_seen(START)]
    with open_bag(write_detections(tmp_path / "found.mcap", answers)) as bag:
        recorded = detections_in(bag)
    assert recorded.stamps == [START, START + 100 * MS]
    assert recorded.with_velocities == 2
    np.testing.assert_allclose(recorded.detections[0].boxes.velocities, car_seen(START).boxes.velocities, atol=1e-5)
    np.testing.assert_allclose(recorded.detections[0].boxes.centers, car_seen(START).boxes.centers, atol=1e-9)
    assert [report.stamp for report in recorded.reports] == recorded.stamps


def test_velocities_that_were_not_recorded_are_unknown(tmp_path: Path):
    path = write_detections(tmp_path / "found.mcap", [car_seen(START)], velocities=False, reports=False)
    with open_bag(path) as bag:
        recorded = detections_in(bag)
    assert recorded.with_velocities == 0
    assert recorded.reports == ()
    assert np.isnan(recorded.detections[0].boxes.velocities).all()


def test_a_bag_without_detections_names_the_topic(tmp_path: Path):
    with open_bag(write_drive(tmp_path / "drive.mcap")) as bag:  # noqa: SIM117
        with pytest.raises(BagError, match="no message on /detections"):
            detections_in(bag)
