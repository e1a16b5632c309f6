"""The stream: rates, phases, contents."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from load.stream import CAMERA_HZ, POSE_HZ, RADAR_HZ, Content, Event, jpeg_of, schedule, simulated_content

from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_ros.conversions import camera_model_of, image_of, radar_points_of, stamp_of, transform_of
from crkd_ros.parameters import load_parameters

pytestmark = pytest.mark.ros
START = 1_700_000_000 * SECOND


@pytest.fixture(scope="module")
def content() -> Content:
    return simulated_content(width=160, image_bytes=2_500)


def test_every_sensor_has_its_rate_and_cameras_fire_in_nuscenes_order():
    events = schedule(load_parameters(), seconds=10.0)
    assert events == sorted(events, key=lambda event: event.time)
    counts = Counter((event.kind, event.sensor) for event in events)
    assert counts["pose", ""] == 10 * POSE_HZ
    rates = {"image": CAMERA_HZ, "info": CAMERA_HZ, "radar": RADAR_HZ}
    for (kind, sensor), count in counts.items():
        assert kind == "pose" or rates[kind] * 10 - 3 <= count <= rates[kind] * 10, sensor
    assert len(counts) == 1 + 2 * 6 + 5
    times = {sensor: [e.time for e in events if (e.kind, e.sensor) == ("image", sensor)] for _, sensor in counts}
    spread = np.array(times["cam_back_left"]) - np.array(times["cam_front_left"][: len(times["cam_back_left"])])
    assert np.abs(spread - 42.5 * MILLISECOND).max() <= 4 * MILLISECOND
    assert np.diff(times["cam_front"]).std() > 0.5 * MILLISECOND, "jitter"


def test_radars_pass_through_every_phase_relative_to_the_cameras():
    events = schedule(load_parameters(), seconds=10.0)
    images = np.array([e.time for e in events if (e.kind, e.sensor) == ("image", "cam_front")])
    sweeps = np.array([e.time for e in events if (e.kind, e.sensor) == ("radar", "radar_front")])
    ahead = images[np.searchsorted(images, sweeps[5:-15])] - sweeps[5:-15]
    shares = np.histogram(ahead, bins=4, range=(0, SECOND / CAMERA_HZ))[0] / len(ahead)
    assert shares.min() > 0.15


def test_a_seed_gives_the_same_stream_and_another_one_another():
    parameters = load_parameters()
    assert schedule(parameters, seconds=2.0, seed=1) == schedule(parameters, seconds=2.0, seed=1)
    assert schedule(parameters, seconds=2.0, seed=1) != schedule(parameters, seconds=2.0, seed=2)


def test_messages_say_what_the_simulated_vehicle_measured(content: Content):
    image = content.message(Event(SECOND, "image", "cam_front", 4), START)
    assert stamp_of(image.header.stamp) == START + SECOND
    assert image_of(image, source="cam_front") == content.images["cam_front"][4 % 3]
    info = content.message(Event(SECOND, "info", "cam_front", 4), START)
    assert camera_model_of(info, source="cam_front").width == 160
    cloud = content.message(Event(SECOND, "radar", "radar_front", 1), START)
    np.testing.assert_array_equal(radar_points_of(cloud, source="radar_front"), content.clouds["radar_front"][1])
    [pose] = content.message(Event(2 * SECOND, "pose", "", 200), START).transforms
    assert (pose.header.frame_id, pose.child_frame_id) == ("map", "base_link")
    assert transform_of(pose)[0, 3] == 20.0
    assert {t.child_frame_id for t in content.mounted(START).transforms} == set(content.mountings)
    assert len(content.mountings) == 6 + 5 + 1


def test_images_are_as_large_as_asked_for_and_whole(content: Content):
    rng = np.random.default_rng(0)
    pixels = cv2.resize(rng.integers(0, 256, (45, 80, 3), dtype=np.uint8), (640, 360))
    data = jpeg_of(pixels, 30_000)
    assert 20_000 < len(data) <= 30_000
    assert len(jpeg_of(pixels, 1)) < len(data), "the least quality, however large"
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - pixels).mean() < 10
    assert all(len(images) == 3 for images in content.images.values())
