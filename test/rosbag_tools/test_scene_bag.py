from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crkd_core.data.nuscenes import load_index
from crkd_core.data.radar_pcd import read_radar_pcd
from crkd_core.geometry.transforms import inverse, transform
from crkd_core.types import Boxes3D
from crkd_ros import topics
from crkd_ros.conversions import (
    annotation_of,
    camera_model_of,
    detections_of,
    encoded_image_of,
    lidar_points_of,
    radar_points_of,
    scene_of,
    stamp_of,
    transform_of,
)
from rosbag_tools import scene_bag
from rosbag_tools.bags import BagMessage, open_bag
from rosbag_tools.scene_bag import BagOptions, ConversionReport, ConvertError, convert_scene
from rosbag_tools.scene_messages import twists

START = 1_600_000_000_000_000_000
MS = 1_000_000


def converted(root: Path, out: Path, **options: Any) -> tuple[ConversionReport, list[BagMessage]]:
    report = convert_scene(load_index(root, "v1.0-mini"), "scene-tiny", out, BagOptions(**options))
    return report, recorded(out)


def recorded(out: Path) -> list[BagMessage]:
    with open_bag(out) as bag:
        return list(bag.messages())


def on(found: list[BagMessage], topic: str) -> list[BagMessage]:
    return [m for m in found if m.topic == topic]


def file_of(root: Path, channel: str, microseconds: int) -> Path:
    (path,) = root.glob(f"*/{channel}/*{1_600_000_000_000_000 + microseconds}.*")
    return path


def test_every_measurement_at_its_own_time(tiny: Path, tmp_path: Path) -> None:
    report, found = converted(tiny, tmp_path / "bag")
    assert [(m.stamp - START) // MS for m in on(found, "/cam_front/image_raw/compressed")] == [
        5, 105, 205, 305, 405, 505
    ]  # fmt: skip
    assert [(m.stamp - START) // MS for m in on(found, "/radar_front/points")] == [17, 117, 217, 317, 417, 517]
    assert len(on(found, "/lidar_top/points")) == 12
    for m in found:
        if hasattr(m.message, "header"):
            assert stamp_of(m.message.header.stamp) == m.stamp
    assert [m.stamp for m in found] == sorted(m.stamp for m in found)
    assert report.messages == len(found)
    assert {name: count.written for name, count in report.channels.items()} == {
        "CAM_FRONT": 6, "LIDAR_TOP": 12, "RADAR_FRONT": 6
    }  # fmt: skip


def test_files_pass_through_byte_for_byte(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    for m in on(found, "/cam_front/image_raw/compressed"):
        jpeg = file_of(tiny, "CAM_FRONT", (m.stamp - START) // 1000).read_bytes()
        assert encoded_image_of(m.message, source=m.topic) == jpeg
    for m in on(found, "/radar_front/points"):
        path = file_of(tiny, "RADAR_FRONT", (m.stamp - START) // 1000)
        assert radar_points_of(m.message, source=m.topic).tobytes() == read_radar_pcd(path).tobytes()
        assert bytes(m.message.data) in path.read_bytes()
    for m in on(found, "/lidar_top/points"):
        points = lidar_points_of(m.message, source=m.topic)
        assert points.tobytes() == file_of(tiny, "LIDAR_TOP", (m.stamp - START) // 1000).read_bytes()


def test_camera_info_goes_with_its_image(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    infos, images = on(found, "/cam_front/camera_info"), on(found, "/cam_front/image_raw/compressed")
    assert [m.stamp for m in infos] == [m.stamp for m in images]
    camera = camera_model_of(infos[0].message, source="cam_front")
    assert (camera.intrinsics[0].tolist(), camera.width, camera.height) == ([500.0, 0.0, 32.0], 64, 48)
    assert camera.distortion is None


def test_pose_is_known_before_the_measurement_that_needs_it(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    index = load_index(tiny, "v1.0-mini")
    truth = {r.stamp: r for c in index.channels(index.scenes[0]) for r in index.records(index.scenes[0], c)}
    known = {}
    for m in found:
        if m.topic == topics.TF:
            (moved,) = m.message.transforms
            assert (moved.header.frame_id, moved.child_frame_id) == ("map", "base_link")
            known[stamp_of(moved.header.stamp)] = transform_of(moved)
        elif m.topic.endswith(("/points", "/compressed", "/detections")):
            np.testing.assert_allclose(known[m.stamp], truth[m.stamp].T_world_from_base, rtol=0, atol=1e-9)
    stamps = list(known)
    assert stamps == sorted(set(stamps))
    assert len(stamps) == len(on(found, topics.TF)) == len(truth)


def test_mountings_are_latched_and_come_first(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    assert found[0].topic == topics.TF_STATIC
    with open_bag(tmp_path / "bag") as bag:
        assert [name for name, topic in bag.topics.items() if topic.latched] == [topics.SCENE, topics.TF_STATIC]
    index = load_index(tiny, "v1.0-mini")
    expected = {c.channel.lower(): c.T_base_from_sensor for c in index.calibrations}
    transforms = found[0].message.transforms
    assert {t.child_frame_id for t in transforms} == set(expected)
    assert topics.BEV_FRAME in expected
    for t in transforms:
        assert t.header.frame_id == "base_link"
        np.testing.assert_allclose(transform_of(t), expected[t.child_frame_id], rtol=0, atol=1e-9)


def test_odometry_tells_how_the_vehicle_moves(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    odometry = on(found, topics.ODOMETRY)
    assert len(odometry) == len(on(found, topics.TF))
    for m in odometry:
        v, w = m.message.twist.twist.linear, m.message.twist.twist.angular
        assert v.x == pytest.approx(10.0, abs=0.01)
        assert (v.y, v.z) == pytest.approx((0.0, 0.0), abs=0.11)  # chords of a circle, at the ends one-sided
        assert (w.x, w.y, w.z) == pytest.approx((0.0, 0.0, 0.2), abs=1e-6)


def test_twist_is_in_the_axes_of_the_vehicle() -> None:
    # Facing along +y of the world and driving ahead, while the nose turns left.
    stamps = np.arange(5, dtype=np.int64) * 50 * MS
    yaws = np.pi / 2 + 0.4 * stamps * 1e-9
    T = np.stack(
        [
            transform([np.cos(a / 2), 0, 0, np.sin(a / 2)], [0, 8.0 * t * 1e-9, 0])
            for a, t in zip(yaws, stamps, strict=True)
        ]
    )
    linear, angular = twists(stamps, T)
    np.testing.assert_allclose(linear[0], [8.0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(angular, np.tile([0, 0, 0.4], (5, 1)), atol=1e-9)


def test_one_pose_alone_stands_still() -> None:
    linear, angular = twists(np.array([7]), np.eye(4)[None])
    assert not linear.any()
    assert not angular.any()


def test_ground_truth_is_in_the_vehicle_frame(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    arrays, clouds = on(found, topics.GROUND_TRUTH), on(found, topics.GROUND_TRUTH_VELOCITIES)
    assert [m.stamp for m in arrays] == [m.stamp for m in clouds] == [START, START + 500 * MS]
    index = load_index(tiny, "v1.0-mini")
    for i, (array, cloud) in enumerate(zip(arrays, clouds, strict=True)):
        boxes = detections_of(array.message, cloud.message)
        assert (boxes.frame_id, boxes.class_names) == ("base_link", ["car"])  # the bicycle rack is of no class
        record = index.key_record(index.samples[i], "LIDAR_TOP")
        world = Boxes3D.from_nuscenes([[130.0 + 2 * i, 170.0, 0.8]], [[1.9, 4.5, 1.6]], [[1, 0, 0, 0]], [[4.0, 0.0]])
        expected = world.transformed(inverse(record.T_world_from_base))
        np.testing.assert_allclose(boxes.boxes.centers, expected.centers, atol=1e-9)
        np.testing.assert_allclose(boxes.boxes.yaws, expected.yaws, atol=1e-9)
        np.testing.assert_allclose(boxes.boxes.velocities, expected.velocities, atol=1e-6)
        np.testing.assert_allclose(boxes.boxes.sizes, [[4.5, 1.9, 1.6]])


def test_objects_keep_their_names_and_numbers(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    assert [[d.id for d in m.message.detections] for m in on(found, topics.GROUND_TRUTH)] == [["i0"], ["i0"]]
    for m in on(found, topics.GROUND_TRUTH_MARKERS):
        box, caption = m.message.markers[1:3]
        assert (box.ns, box.id, caption.ns, caption.id, caption.text) == ("boxes", 0, "captions", 0, "car #0")


def test_scene_says_what_the_tables_say(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    [message] = on(found, topics.SCENE)
    scene = scene_of(message.message)
    assert (scene.scene["name"], scene.log["location"]) == ("scene-tiny", "l")
    assert [row["name"] for row in scene.categories] == ["vehicle.car", "static_object.bicycle_rack"]
    assert scene.sensors["RADAR_FRONT"].topic == "/radar_front/points"


def test_annotations_are_complete(tiny: Path, tmp_path: Path) -> None:
    _, found = converted(tiny, tmp_path / "bag")
    first, second = [annotation_of(m.message) for m in on(found, topics.ANNOTATIONS)]
    assert (first.sample_token, second.sample_token, first.scene_name) == ("sample0", "sample1", "scene-tiny")
    assert {o.category for o in first.objects} == {"vehicle.car", "static_object.bicycle_rack"}
    car = next(o for o in first.objects if o.category == "vehicle.car")
    assert (car.attributes, car.visibility, car.num_lidar_pts, car.num_radar_pts) == (
        ("vehicle.moving",), "v80-100", 12, 3
    )  # fmt: skip
    assert car.translation == (130.0, 170.0, 0.8)
    assert {channel: (stamp - START) // MS for channel, stamp in second.key_frames.items()} == {
        "CAM_FRONT": 505, "LIDAR_TOP": 500, "RADAR_FRONT": 517
    }  # fmt: skip
    assert car.size == (1.9, 4.5, 1.6)
    assert car.velocity == pytest.approx((4.0, 0.0, 0.0))
    assert next(o for o in first.objects if o.category.endswith("rack")).velocity is None
    index = load_index(tiny, "v1.0-mini")
    np.testing.assert_allclose(second.pose, index.key_record(index.samples[1], "LIDAR_TOP").T_world_from_base)


def test_keyframes_only(tiny: Path, tmp_path: Path) -> None:
    report, found = converted(tiny, tmp_path / "bag", keyframes_only=True)
    assert [(m.stamp - START) // MS for m in on(found, "/radar_front/points")] == [17, 517]
    assert len(on(found, topics.GROUND_TRUTH)) == report.key_frames == 2


def test_missing_files_are_counted_and_left_out(tiny: Path, tmp_path: Path) -> None:
    file_of(tiny, "RADAR_FRONT", 117_000).unlink()
    shutil.rmtree(tiny / "sweeps" / "CAM_FRONT")
    report, found = converted(tiny, tmp_path / "bag")
    counts = {name: (c.written, c.missing, c.damaged) for name, c in report.channels.items()}
    assert counts == {"CAM_FRONT": (2, 4, 0), "LIDAR_TOP": (12, 0, 0), "RADAR_FRONT": (5, 1, 0)}
    assert len(on(found, "/cam_front/camera_info")) == 2
    assert "CAM_FRONT                   2        4        0" in report.text()


def test_damaged_files_are_counted_and_left_out(tiny: Path, tmp_path: Path) -> None:
    radar = file_of(tiny, "RADAR_FRONT", 117_000)
    radar.write_bytes(radar.read_bytes()[:-30])
    file_of(tiny, "CAM_FRONT", 5_000).write_bytes(b"<html>404</html>")
    report, found = converted(tiny, tmp_path / "bag")
    assert {name: c.damaged for name, c in report.channels.items()} == {
        "CAM_FRONT": 1, "LIDAR_TOP": 0, "RADAR_FRONT": 1
    }  # fmt: skip
    assert Counter(m.topic for m in found)["/cam_front/camera_info"] == 5
    assert str(radar) in report.text()


def test_half_a_jpeg_is_counted_as_damaged(tiny: Path, tmp_path: Path) -> None:
    image = file_of(tiny, "CAM_FRONT", 5_000)
    image.write_bytes(image.read_bytes()[:-2])
    report, _ = converted(tiny, tmp_path / "bag")
    assert report.channels["CAM_FRONT"].damaged == 1
    assert f"{image}: truncated JPEG" in report.text()


def test_key_frames_without_any_data_are_left_out(tiny: Path, tmp_path: Path) -> None:
    file_of(tiny, "RADAR_FRONT", 517_000).unlink()
    file_of(tiny, "CAM_FRONT", 505_000).unlink()
    report, found = converted(tiny, tmp_path / "bag", keyframes_only=True)
    assert (report.key_frames, report.key_frames_without_data) == (1, 1)
    assert [annotation_of(m.message).sample_token for m in on(found, topics.ANNOTATIONS)] == ["sample0"]
    assert "key frames: 1 of 2" in report.text()


def test_bag_spans_the_time_of_the_files_only(tiny: Path, tmp_path: Path) -> None:
    for path in [*tiny.glob("*/*/*.*")]:
        if int(path.name.split("__")[1].split(".")[0]) > 1_600_000_000_000_000 + 120_000:
            path.unlink()
    _, found = converted(tiny, tmp_path / "bag")
    assert (
        found[-1].stamp == START + 150 * MS
    )  # the pose of the next record, so that time up to the last file is covered
    assert found[-1].topic in (topics.TF, topics.ODOMETRY)


def test_scene_without_files_is_one_clear_error(tiny: Path, tmp_path: Path) -> None:
    shutil.rmtree(tiny / "samples")
    shutil.rmtree(tiny / "sweeps")
    with pytest.raises(ConvertError, match="none of the 24 sensor files of scene-tiny is there"):
        converted(tiny, tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def test_sensor_mounted_differently_is_refused(tiny: Path, tmp_path: Path) -> None:
    table = tiny / "v1.0-mini" / "calibrated_sensor.json"
    rows = json.loads(table.read_text())
    table.write_text(json.dumps([*rows, {**rows[0], "token": "moved", "translation": [1.0, 0.2, 1.5]}]))
    data = tiny / "v1.0-mini" / "sample_data.json"
    records = json.loads(data.read_text())
    records[-1]["calibrated_sensor_token"], records[0]["calibrated_sensor_token"] = "kRADAR_FRONT", "moved"
    data.write_text(json.dumps(records))
    with pytest.raises(Exception, match="scene-tiny: CAM_FRONT is mounted differently"):
        converted(tiny, tmp_path / "bag")


def test_times_ros_cannot_say_are_refused(tiny: Path, tmp_path: Path) -> None:
    table = tiny / "v1.0-mini" / "sample_data.json"
    rows = json.loads(table.read_text())
    for row in rows:
        row["timestamp"] += 2_000_000_000_000_000  # about the year 2084
    table.write_text(json.dumps(rows))
    with pytest.raises(Exception, match=r"scene-tiny: \w+: time .* beyond what ROS 2 can represent"):
        converted(tiny, tmp_path / "bag")


def test_full_disk_is_noticed_before_the_work(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(scene_bag.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(ConvertError, match=r"needs about \d+ MB, 1 MB are free"):
        converted(tiny, tmp_path / "deep" / "bag")
    assert not (tmp_path / "deep").exists()


def test_independent_reader_finds_the_same(tiny: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    report, ours = converted(tiny, tmp_path / "bag.mcap")
    with (tmp_path / "bag.mcap").open("rb") as file:
        bag = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        found = [(channel.topic, m.log_time, decoded) for _, channel, m, decoded in bag.iter_decoded_messages()]
    assert len(found) == report.messages
    assert Counter(topic for topic, *_ in found) == Counter(m.topic for m in ours)
    radar = next(message for topic, _, message in found if topic == "/radar_front/points")
    assert radar_points_of(radar, source="radar_front").tobytes() in file_of(tiny, "RADAR_FRONT", 17_000).read_bytes()
    truth = next(message for topic, _, message in found if topic == topics.GROUND_TRUTH)
    assert detections_of(truth).class_names == ["car"]


@pytest.mark.ros
def test_rclpy_reads_every_message(tiny: Path, tmp_path: Path) -> None:
    import importlib

    from rclpy.serialization import deserialize_message

    converted(tiny, tmp_path / "bag")
    with open_bag(tmp_path / "bag") as bag:
        for ours, (topic, _, data) in zip(bag.messages(), bag.raw_messages(), strict=True):
            package, _, name = bag.topics[topic].type.split("/")
            theirs = deserialize_message(data, getattr(importlib.import_module(f"{package}.msg"), name))
            if topic == "/radar_front/points":
                assert bytes(theirs.data) == bytes(ours.message.data)
            elif topic == topics.TF:
                np.testing.assert_array_equal(
                    transform_of(theirs.transforms[0]), transform_of(ours.message.transforms[0])
                )
            elif topic == topics.ANNOTATIONS:
                assert annotation_of(theirs) == annotation_of(ours.message)


@pytest.mark.nuscenes
def test_real_scene_is_converted_whole(nuscenes_root: Path, tmp_path: Path) -> None:
    index = load_index(nuscenes_root, "v1.0-mini")
    complete = Counter(sample.scene for sample in index.complete_samples())
    name, count = complete.most_common(1)[0]
    scene = index.scene(name)
    report = convert_scene(index, name, tmp_path / "bag", BagOptions(keyframes_only=True))
    found = recorded(tmp_path / "bag")
    for channel in index.channels(scene):
        present = [r for r in index.records(scene, channel) if r.present and r.is_key_frame]
        assert report.channels[channel].written == len(present) >= count
    for topic, channel in (("/radar_front/points", "RADAR_FRONT"), ("/radar_back_left/points", "RADAR_BACK_LEFT")):
        files = {r.stamp: r.path for r in index.records(scene, channel)}
        for m in on(found, topic):
            points = radar_points_of(m.message, source=topic)
            assert len(points) > 0
            assert files[m.stamp].read_bytes().split(b"DATA binary\n")[1].startswith(points.tobytes())
    files = {r.stamp: r.path for r in index.records(scene, "CAM_BACK")}
    for m in on(found, "/cam_back/image_raw/compressed"):
        assert encoded_image_of(m.message, source="cam_back") == files[m.stamp].read_bytes()
    by_token = {sample.token: sample for sample in scene.samples}
    for m in on(found, topics.ANNOTATIONS):
        annotation = annotation_of(m.message)
        ours = index.annotations(by_token[annotation.sample_token])
        assert [o.token for o in annotation.objects] == [a.token for a in ours]
        assert [o.translation for o in annotation.objects] == [a.translation for a in ours]
