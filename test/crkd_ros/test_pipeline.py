"""Messages in, frames out: the path that the node and the bag reader share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_drive import CAMERAS, MOUNTINGS, PARAMETERS, START, pose_at, write_drive

from crkd_core.geometry.transforms import quaternion_from_rotation
from crkd_core.runtime.assembler import AssembledFrame, FrameState
from crkd_ros import topics
from crkd_ros.conversions import image_message
from crkd_ros.inputs import inputs_of
from crkd_ros.parameters import from_values
from crkd_ros.pipeline import FramePipeline, MessageError
from rosbag_tools.bags import open_bag
from rosbag_tools.typestore import bag_messages

FRONT = topics.image_topic("cam_front")
RADAR = topics.points_topic("radar_front")
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, Any]]:
    """(topic, stamp, message) of a short drive."""
    with open_bag(write_drive(tmp_path_factory.mktemp("drive") / "drive.mcap")) as bag:
        return [(m.topic, m.stamp, m.message) for m in bag.messages()]


def pipeline(warnings: list[str] | None = None, *, strict: bool = False, **values: Any) -> FramePipeline:
    warn = warnings.append if warnings is not None else pytest.fail
    parameters = from_values({**PARAMETERS, **values})
    return FramePipeline(parameters, sweeps=6, replay=True, strict=strict, warn=warn)


def run(pipe: FramePipeline, drive: list[tuple[str, int, Any]]) -> Iterator[AssembledFrame]:
    names = {use.topic for use in pipe.inputs}
    for topic, stamp, message in drive:
        if topic in names:
            yield from pipe.on_message(topic, message, stamp)
    yield from pipe.flush(drive[-1][1])


def test_every_trigger_gives_one_frame_with_the_measurements_of_its_instant(drive: Any):
    frames = list(run(pipeline(), drive))
    assert [f.stamp for f in frames] == [START + 100_000_000 + round(i * SECOND / 12) for i in range(18)]
    assert all(f.state is FrameState.NOMINAL for f in frames)
    frame = frames[9].frame
    assert frame is not None
    assert list(frame.cameras) == ["CAM_FRONT", "CAM_FRONT_LEFT"]
    for name, camera in frame.cameras.items():
        assert camera.stamp == frame.stamp + round(CAMERAS[name.lower()] * 1e6)
        np.testing.assert_allclose(camera.T_world_from_base, pose_at(camera.stamp), atol=1e-3)
        np.testing.assert_allclose(camera.T_base_from_cam, MOUNTINGS[name.lower()], atol=1e-12)
    ages = [frame.stamp - sweep.stamp for sweep in frame.radars["RADAR_FRONT"]]
    assert len(ages) == 6
    assert -38_000_000 <= ages[0] <= 39_000_000
    assert ages == sorted(ages)
    np.testing.assert_allclose(frame.T_base_from_bev, MOUNTINGS["lidar_top"], atol=1e-12)


def test_frames_can_refer_to_the_trigger_images_stamp(drive: Any):
    instants = list(run(pipeline(), drive))
    triggers = list(run(pipeline(reference="camera"), drive))
    assert [f.stamp for f in triggers] == [f.stamp - 36_600_000 for f in instants]
    for a, b in zip(instants, triggers, strict=True):
        assert a.frame is not None
        assert b.frame is not None
        assert a.frame.manifest.sensors == b.frame.manifest.sensors


def test_frames_can_refer_to_another_topic(drive: Any):
    chosen = {"reference": "topic", "reference_topic": topics.GROUND_TRUTH}
    frames = list(run(pipeline(**chosen), drive))
    assert [f.stamp for f in frames] == [START + 100_000_000 + i * SECOND // 2 for i in range(3)]
    assert all(f.state is FrameState.NOMINAL for f in frames)


def test_odometry_gives_the_same_poses_as_transforms(drive: Any):
    by_tf = list(run(pipeline(), drive))
    by_odometry = list(run(pipeline(pose_source="odometry"), drive))
    for a, b in zip(by_tf, by_odometry, strict=True):
        assert a.frame is not None
        assert b.frame is not None
        np.testing.assert_array_equal(a.frame.T_world_from_base, b.frame.T_world_from_base)


def test_odometry_of_another_body_is_refused(drive: Any):
    warnings: list[str] = []
    frames = list(run(pipeline(warnings, pose_source="odometry", base_frame="chassis"), drive))
    assert "child_frame_id: expected 'chassis' (base_frame), got 'base_link'" in warnings[0]
    assert {f.state for f in frames} == {FrameState.STALE}


def test_vehicle_without_lidar_frame_uses_the_parameter(drive: Any):
    frames = list(run(pipeline(bev_frame="none", T_base_from_bev="0.9 0 1.8 0 0 -0.7071068 0.7071068"), drive))
    assert frames[0].frame is not None
    np.testing.assert_allclose(frames[0].frame.T_base_from_bev[:3, 3], [0.9, 0, 1.8])


def test_topics_and_frames_of_transforms_can_be_named(drive: Any):
    chosen = {"world_frame": "odom", "tf_topic": "/car/tf", "tf_static_topic": "/car/tf_static"}

    def renamed() -> Iterator[tuple[str, int, Any]]:
        for topic, stamp, message in drive:
            if topic == topics.TF:
                [moving] = message.transforms
                yield (
                    "/car/tf",
                    stamp,
                    replace(message, transforms=[replace(moving, header=replace(moving.header, frame_id="odom"))]),
                )
            else:
                yield f"/car{topic}" if topic == topics.TF_STATIC else topic, stamp, message

    frames = list(run(pipeline(**chosen), list(renamed())))
    assert {f.state for f in frames} == {FrameState.NOMINAL}
    lost = list(run(pipeline(), [row for row in renamed() if not row[0].startswith("/car")]))
    assert {f.state for f in lost} == {FrameState.STALE}


def test_a_frame_given_by_parameter_replaces_that_of_the_header(drive: Any):
    frames = list(run(pipeline(**{"camera.cam_front.frame_id": "cam_front_left"}), drive))
    assert frames[3].frame is not None
    np.testing.assert_allclose(frames[3].frame.cameras["CAM_FRONT"].T_base_from_cam, MOUNTINGS["cam_front_left"])


def test_a_rig_file_places_sensors_without_static_transforms(drive: Any):
    def text(T: Any) -> str:
        w, x, y, z = quaternion_from_rotation(T[:3, :3])
        return " ".join(str(v) for v in (*T[:3, 3], x, y, z, w))

    rig = {f"camera.{name}.T_base_from_cam": text(MOUNTINGS[name]) for name in CAMERAS}
    rig |= {"radar.radar_front.T_base_from_radar": text(MOUNTINGS["radar_front"])}
    rig |= {"T_base_from_bev": text(MOUNTINGS["lidar_top"])}
    without = [row for row in drive if row[0] != topics.TF_STATIC]
    frames = list(run(pipeline(**rig), without))
    assert {f.state for f in frames} == {FrameState.NOMINAL}
    frame = frames[3].frame
    assert frame is not None
    np.testing.assert_allclose(frame.cameras["CAM_FRONT_LEFT"].T_base_from_cam, MOUNTINGS["cam_front_left"], atol=1e-12)
    np.testing.assert_allclose(frame.radars["RADAR_FRONT"][0].T_base_from_radar, MOUNTINGS["radar_front"], atol=1e-12)
    no_info = [row for row in without if not row[0].endswith("camera_info")]
    assert "CAM_FRONT: no camera_info yet" in next(run(pipeline(**rig), no_info)).reasons


def test_rectified_images_go_with_the_projection_matrix(drive: Any):
    projection = np.array([50.0, 0, 48, 0, 0, 50, 36, 0, 0, 0, 1, 0])

    def described() -> Iterator[tuple[str, int, Any]]:
        for topic, stamp, message in drive:
            is_info = topic.endswith("camera_info")
            yield topic, stamp, replace(message, p=projection, d=np.full(5, 0.1)) if is_info else message

    frames = list(run(pipeline(**{"camera.cam_front.rectified": True}), list(described())))
    frame = frames[3].frame
    assert frame is not None
    assert frame.cameras["CAM_FRONT"].distortion is None
    assert frame.cameras["CAM_FRONT"].intrinsics[0, 0] == 50
    assert frame.cameras["CAM_FRONT_LEFT"].distortion is not None


def test_relative_velocities_of_a_radar_scan_have_the_vehicles_motion_removed(drive: Any):
    """A scan of the standing world, seen from the turning vehicle."""
    mounting = MOUNTINGS["radar_front"]

    def scans() -> Iterator[tuple[str, int, Any]]:
        for topic, stamp, message in drive:
            if topic != RADAR:
                yield topic, stamp, message
                continue
            before, after = (pose_at(stamp + step) @ mounting for step in (-1_000_000, 1_000_000))
            own = (pose_at(stamp) @ mounting)[:3, :3].T @ (after - before)[:3, 3] / 2e-3
            echoes = [
                SimpleNamespace(
                    range=30.0,
                    azimuth=azimuth,
                    elevation=0.0,
                    doppler_velocity=-(own[0] * np.cos(azimuth) + own[1] * np.sin(azimuth)),
                    amplitude=5.0,
                )
                for azimuth in (-0.6, 0.0, 0.7)
            ]
            yield topic, stamp, SimpleNamespace(header=message.header, returns=echoes)

    pipe = pipeline(**{"radar.radar_front.type": "radar_msgs/msg/RadarScan"})
    assert "radar_msgs/msg/RadarScan" in {use.type for use in pipe.inputs}
    frame = list(run(pipe, list(scans())))[9].frame
    assert frame is not None
    for sweep in frame.radars["RADAR_FRONT"]:
        assert np.hypot(sweep.points["vx"], sweep.points["vy"]).min() > 5
        assert np.hypot(sweep.points["vx_comp"], sweep.points["vy_comp"]).max() < 0.1


def test_messages_whose_stamp_was_never_set_do_not_turn_back_time(drive: Any):
    warnings: list[str] = []
    pipe = pipeline(warnings)
    unset = bag_messages().Header(frame_id="x")
    rows = [
        (topic, stamp, replace(m, header=unset) if topic in {FRONT, RADAR} and i % 9 == 0 else m)
        for i, (topic, stamp, m) in enumerate(drive)
    ]
    frames = list(run(pipe, rows))
    assert pipe.assembler.counts["jump"] == 0
    assert sum(pipe.malformed.values()) > 0
    assert all("header stamp is 0 ns" in text for text in warnings)
    assert [f.stamp for f in frames] == sorted(f.stamp for f in frames)
    assert len(frames) == 18 - pipe.malformed[FRONT]


def test_unknown_bev_frame_makes_stale_frames_that_say_so(drive: Any):
    frames = list(run(pipeline(bev_frame="lidar_roof"), drive))
    assert len(frames) == 18
    assert {f.state for f in frames} == {FrameState.STALE}
    assert frames[0].reasons[0].startswith("bev: no transform names frame 'lidar_roof' (known: base_link, cam_front")


def test_messages_that_cannot_be_used_are_counted_and_reported_at_a_bounded_rate(drive: Any):
    warnings: list[str] = []
    pipe = pipeline(warnings)

    def damaged() -> Iterator[tuple[str, int, Any]]:
        for topic, stamp, message in drive:
            if topic == RADAR:
                yield topic, stamp, bag_messages().PointCloud2(header=message.header, width=9, height=1, point_step=43)
            else:
                yield topic, stamp, message

    frames = list(run(pipe, list(damaged())))
    assert pipe.malformed == {RADAR: 20}
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{RADAR}: message dropped (1 so far): RADAR_FRONT")
    assert {f.state for f in frames} == {FrameState.DEGRADED}


def test_damaged_trigger_image_is_still_answered(drive: Any):
    warnings: list[str] = []
    pipe = pipeline(warnings)
    triggers = [message for topic, _, message in drive if topic == FRONT]
    bad = bag_messages().CompressedImage(header=triggers[5].header, format="jpeg", data=np.zeros(9, dtype=np.uint8))
    frames = list(run(pipe, [(t, s, bad if m is triggers[5] else m) for t, s, m in drive]))
    assert len(frames) == 18
    assert [f.state for f in frames].count(FrameState.DEGRADED) == 1
    assert frames[5].frame is not None
    assert list(frames[5].frame.cameras) == ["CAM_FRONT_LEFT"]
    assert pipe.malformed == {FRONT: 1}


def test_strict_pipeline_raises_and_names_the_topic():
    pipe, cloud = pipeline(strict=True), bag_messages().PointCloud2(width=9, height=1, point_step=43)
    with pytest.raises(MessageError, match=f"{RADAR}: RADAR_FRONT: 9 x 1 points of 43 bytes need 387 bytes, got 0"):
        pipe.on_message(RADAR, cloud, 0)


def test_raw_images_serve_as_well(drive: Any):
    messages, pixels = bag_messages(), np.full((72, 96, 3), 7, dtype=np.uint8)

    def raw() -> Iterator[tuple[str, int, Any]]:
        for topic, stamp, message in drive:
            is_image = topic.endswith("/compressed")
            frame_id = message.header.frame_id if is_image else ""
            image = image_message(messages, pixels, stamp=stamp, frame_id=frame_id) if is_image else message
            yield topic, stamp, image

    frames = list(run(pipeline(image_transport="raw"), list(raw())))
    assert frames[3].frame is not None
    np.testing.assert_array_equal(frames[3].frame.cameras["CAM_FRONT"].image, pixels)


def test_looping_recording_is_followed_and_noticed_once(drive: Any):
    warnings: list[str] = []
    pipe = pipeline(warnings)
    first = list(run(pipe, drive))
    again = list(run(pipe, [(topic, stamp + 2 * SECOND, message) for topic, stamp, message in drive]))
    assert len(warnings) == 1
    assert "time jumped back" in warnings[0]
    assert [f.stamp for f in again] == [f.stamp for f in first]
    assert {f.state for f in again} == {FrameState.NOMINAL}


@pytest.mark.parametrize("first", ["data", "clock"])
def test_a_jump_that_data_and_a_simulated_clock_show_one_after_the_other_is_told_once(drive: Any, first: str):
    warnings: list[str] = []
    pipe = pipeline(warnings)
    topic_names = {use.topic for use in pipe.inputs}
    rows = [(topic, stamp, message) for topic, stamp, message in drive if topic in topic_names]

    def clock(stamp: int) -> int:
        return START + 20 * (stamp - START)  # a round takes longer than warnings are held back

    for topic, stamp, message in rows:
        pipe.on_message(topic, message, clock(stamp))
    if first == "clock":
        pipe.poll(clock(rows[0][1]))
    else:
        for topic, _, message in rows[:20]:
            pipe.on_message(topic, message, clock(rows[-1][1]))
    for topic, stamp, message in rows[20:]:
        pipe.on_message(topic, message, clock(stamp))
    assert pipe.assembler.counts["jump"] == {"data": 2, "clock": 1}[first]
    assert len(warnings) == 1


def test_relative_topics_follow_the_namespace_and_absolute_ones_do_not():
    names = {use.topic for use in inputs_of(from_values(PARAMETERS), namespace="/car7")}
    assert "/car7/cam_front/image_raw/compressed" in names
    assert {"/tf", "/tf_static"} <= names
