"""What goes wrong on a vehicle: the node goes on with what it has, says so, and recovers by itself.

One node in its own process serves all of these tests; the vehicle is played by a thread of the test.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from small_drive import MOUNTINGS, pose_at, write_checkpoint

rclpy = pytest.importorskip("rclpy")

from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSDurabilityPolicy, QoSProfile  # noqa: E402

from crkd_core.types import RADAR_DTYPE  # noqa: E402
from crkd_ros import topics  # noqa: E402
from crkd_ros.answers import FrameReport, report_of  # noqa: E402
from crkd_ros.conversions import (  # noqa: E402
    CameraModel,
    camera_info_message,
    compressed_image_message,
    message_class,
    point_cloud_message,
    ros_messages,
    tf_message,
    transform_stamped_message,
)
from rosbag_tools.children import Child, Children, graph_environment  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]

START_TIME, TIMEOUT = 120.0, 60.0
CAMERAS, RADARS = ("cam_front", "cam_front_left"), ("radar_front", "radar_back")
FRAMES = {**MOUNTINGS, "radar_back": MOUNTINGS["radar_front"]}
PERIOD = 0.05
EVERY = 4
"""Sensors send at every fourth pose: 5 Hz."""
SECOND = 1_000_000_000
TYPES = {
    **{topics.image_topic(name): "sensor_msgs/msg/CompressedImage" for name in CAMERAS},
    **{topics.camera_info_topic(name): "sensor_msgs/msg/CameraInfo" for name in CAMERAS},
    **{topics.points_topic(name): "sensor_msgs/msg/PointCloud2" for name in RADARS},
    topics.TF: "tf2_msgs/msg/TFMessage",
    topics.TF_STATIC: "tf2_msgs/msg/TFMessage",
}
PARAMETERS = f"""
detector:
  ros__parameters:
    cameras: [{", ".join(CAMERAS)}]
    radars: [{", ".join(RADARS)}]
    device: cpu
    reference: camera
    camera: {{cam_front: {{offset_ms: 0.0}}, cam_front_left: {{offset_ms: 0.0}}}}
    camera_slop_ms: 90.0
    camera_min_period_ms: 0.0
    radar_slop_ms: 90.0
    radar_min_period_ms: 0.0
    radar_max_age_ms: 900.0
    radar_staleness_ms: 3000.0
    deadline_ms: 800.0
    silent_ms: 1200.0
    stale_after_ms: 1500.0
"""


class Vehicle(Node):
    """Sends what a vehicle sends, and hears what the detector says about it.

    Attributes:
        working: the topics on which something is sent.
        shift: of all stamps against the clock, ns.
        reports: of the detector, newest last.
    """

    def __init__(self, context: Any) -> None:
        super().__init__("vehicle", context=context)
        self.working = set(TYPES)
        self.shift = 0
        self.reports: deque[FrameReport] = deque(maxlen=500)
        self.create_subscription(message_class("std_msgs/msg/String"), topics.MANIFEST, self._heard, 10)
        self._out = {name: self._publisher(name) for name in TYPES}
        self._calls = {
            "change_state": self.create_client(ChangeState, "/detector/change_state"),
            "get_state": self.create_client(GetState, "/detector/get_state"),
            "set_parameters": self.create_client(SetParameters, "/detector/set_parameters"),
        }
        pixels = np.random.default_rng(0).integers(0, 255, (72, 96, 3), dtype=np.uint8)
        self._jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
        self._ticks = 0
        self._lock = threading.Lock()
        self.create_timer(PERIOD, self._tick)

    def _publisher(self, topic: str) -> Any:
        durability = QoSDurabilityPolicy.TRANSIENT_LOCAL if topic == topics.TF_STATIC else QoSDurabilityPolicy.VOLATILE
        return self.create_publisher(message_class(TYPES[topic]), topic, QoSProfile(depth=10, durability=durability))

    def _heard(self, message: Any) -> None:
        self.reports.append(report_of(message))

    def _tick(self) -> None:
        self._ticks += 1
        stamp = time.time_ns() + self.shift
        names = [topics.TF]
        if self._ticks % EVERY == 0:
            names = list(TYPES)
        for topic in names:
            if topic in self.working:
                self.send(topic, self.message(topic, stamp))

    def send(self, topic: str, message: Any) -> None:
        """Publish a message."""
        with self._lock:
            self._out[topic].publish(message)

    def silence(self, *names: str) -> None:
        """Nothing comes from these topics any more, nor what they latched."""
        for topic in names:
            self.working.discard(topic)
            with self._lock:
                self.destroy_publisher(self._out[topic])
                self._out[topic] = self._publisher(topic)

    def message(self, topic: str, stamp: int) -> Any:
        """A proper message of a topic."""
        messages, sensor = ros_messages(), topic.split("/")[1]
        if topic == topics.TF:
            moving = transform_stamped_message(messages, pose_at(stamp), stamp=stamp, parent="map", child="base_link")
            return tf_message(messages, [moving])
        if topic == topics.TF_STATIC:
            fixed = [
                transform_stamped_message(messages, T, stamp=stamp, parent="base_link", child=name)
                for name, T in FRAMES.items()
            ]
            return tf_message(messages, fixed)
        if topic == topics.camera_info_topic(sensor):
            model = CameraModel(np.array([[60.0, 0, 48], [0, 60, 36], [0, 0, 1]]), 96, 72)
            return camera_info_message(messages, model, stamp=stamp, frame_id=sensor)
        if sensor in CAMERAS:
            return compressed_image_message(messages, self._jpeg, stamp=stamp, frame_id=sensor)
        points = np.zeros(20, dtype=RADAR_DTYPE)
        points["x"] = np.linspace(2, 40, 20)
        return point_cloud_message(messages, points, stamp=stamp, frame_id=sensor)

    def call(self, name: str, request: Any) -> Any:
        """The answer of one of the detector's services."""
        client, done = self._calls[name], threading.Event()
        assert client.wait_for_service(timeout_sec=TIMEOUT)
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(TIMEOUT)
        return future.result()

    def change_state(self, label: str) -> bool:
        """Ask for a transition."""
        request = ChangeState.Request()
        request.transition.label = label
        return bool(self.call("change_state", request).success)

    def state(self) -> str:
        """The state of the detector's life cycle."""
        return str(self.call("get_state", GetState.Request()).current_state.label)

    def set_parameter(self, name: str, value: object) -> str:
        """Set a parameter of the detector; why it was refused, or nothing."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        [result] = self.call("set_parameters", request).results
        return "" if result.successful else str(result.reason)

    def wait_for(self, fits: Callable[[FrameReport], bool], *, count: int = 2) -> FrameReport:
        """Wait until so many reports in a row, from now on, fit; the last of them."""
        self.reports.clear()
        end, found, last = time.monotonic() + TIMEOUT, 0, None
        while time.monotonic() < end:
            if not self.reports:
                time.sleep(0.02)
                continue
            last = self.reports.popleft()
            found = found + 1 if fits(last) else 0
            if found == count:
                return last
        raise AssertionError(f"no such report; the newest one was {last}")


def nominal(report: FrameReport) -> bool:
    return report.state == "NOMINAL"


def lacks(*names: str) -> Callable[[FrameReport], bool]:
    """Whether a frame is DEGRADED for want of just these sensors, and was answered from the others."""

    def fits(report: FrameReport) -> bool:
        missing = {reason.split(":", 1)[0] for reason in report.reasons}
        return report.state == "DEGRADED" and missing == set(names) and bool(report.sensors)

    return fits


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return graph_environment()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Child]:
    """The detector, on its own."""
    folder: Path = tmp_path_factory.mktemp("faults")
    file = folder / "rig.yaml"
    file.write_text(f"{PARAMETERS}    checkpoint: {write_checkpoint(folder / 'micro')}\n")
    with Children(folder / "logs", environment) as children:
        started = children.start_module("node", "crkd_ros.nodes.detector", ["--ros-args", "--params-file", str(file)])
        started.wait_for("active", timeout=START_TIME)
        yield started
        assert started.stop() == 0
        assert "Traceback" not in started.text()


@pytest.fixture(scope="module")
def driving(node: Child, environment: dict[str, str]) -> Iterator[Vehicle]:
    """The vehicle, in the detector's graph."""
    node.check()
    context = rclpy.Context()
    context.init(domain_id=int(environment["ROS_DOMAIN_ID"]))
    vehicle = Vehicle(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(vehicle)
    arrived = threading.Event()

    def drive() -> None:
        while not arrived.is_set():
            executor.spin_once(timeout_sec=PERIOD)

    thread = threading.Thread(target=drive)
    thread.start()
    yield vehicle
    arrived.set()
    thread.join(TIMEOUT)
    executor.shutdown()
    vehicle.destroy_node()
    context.try_shutdown()


@pytest.fixture
def vehicle(driving: Vehicle) -> Vehicle:
    """The vehicle, with everything working and seen by the detector."""
    driving.working, driving.shift = set(TYPES), 0
    driving.wait_for(nominal)
    return driving


def test_a_camera_dies_and_returns(vehicle: Vehicle):
    vehicle.working.discard(topics.image_topic("cam_front_left"))
    assert set(vehicle.wait_for(lacks("CAM_FRONT_LEFT")).sensors) == {"CAM_FRONT", "RADAR_FRONT", "RADAR_BACK"}
    vehicle.working.add(topics.image_topic("cam_front_left"))
    vehicle.wait_for(nominal)


def test_without_its_trigger_the_node_says_stale_until_it_returns(vehicle: Vehicle):
    vehicle.working.discard(topics.image_topic("cam_front"))
    report = vehicle.wait_for(lambda report: report.state == "STALE", count=1)
    assert report.reasons[0].startswith("no image from CAM_FRONT for ")
    assert report.detections == 0
    vehicle.working.add(topics.image_topic("cam_front"))
    vehicle.wait_for(nominal)


def test_one_radar_dies_then_all_of_them(vehicle: Vehicle):
    vehicle.working.discard(topics.points_topic("radar_back"))
    vehicle.wait_for(lacks("RADAR_BACK"))
    vehicle.working.discard(topics.points_topic("radar_front"))
    report = vehicle.wait_for(lacks("RADAR_BACK", "RADAR_FRONT"))
    assert report.detections > 0
    vehicle.working |= set(TYPES)
    vehicle.wait_for(nominal)


def test_time_jumps_back_and_forth(vehicle: Vehicle, node: Child):
    before = vehicle.wait_for(nominal, count=1).stamp
    vehicle.shift = -100 * SECOND
    assert vehicle.wait_for(lambda report: nominal(report) and report.stamp < before).stamp < before - 60 * SECOND
    vehicle.shift = 0
    vehicle.wait_for(lambda report: nominal(report) and report.stamp > before)
    assert node.text().count("time jumped back") == 1


def test_garbage_on_every_topic_is_dropped_and_told(vehicle: Vehicle, node: Child):
    for topic in TYPES:
        for garbage in garbage_for(topic, time.time_ns()):
            vehicle.send(topic, garbage)
    vehicle.wait_for(nominal, count=3)
    log = node.text()
    for topic in TYPES:
        assert f"{topic}: message dropped" in log, topic


def garbage_for(topic: str, stamp: int) -> list[Any]:
    """Messages that no sensor should send."""
    messages, sensor, kind = ros_messages(), topic.split("/")[1], message_class(TYPES[topic])
    nan = float("nan")
    if topic in (topics.TF, topics.TF_STATIC):
        parent, child = ("map", "base_link") if topic == topics.TF else ("base_link", "cam_front")
        found = []
        for x, w in ((nan, 1.0), (0.0, 0.0)):
            moved = transform_stamped_message(messages, np.eye(4), stamp=stamp, parent=parent, child=child)
            moved.transform.translation.x, moved.transform.rotation.w = x, w
            found.append(tf_message(messages, [moved]))
        return found
    empty = kind()
    if topic == topics.camera_info_topic(sensor):
        unknown = camera_info_message(
            messages,
            CameraModel(np.array([[60.0, 0, 48], [0, 60, 36], [0, 0, 1]]), 96, 72),
            stamp=stamp,
            frame_id=sensor,
        )
        unknown.k = np.full(9, nan)
        return [empty, unknown]
    if sensor in CAMERAS:
        noise = compressed_image_message(messages, b"\xff\xd8\xff", stamp=stamp, frame_id=sensor)
        noise.data = messages.octets(bytes(range(256)))
        return [empty, noise]
    short = point_cloud_message(messages, np.zeros(20, dtype=RADAR_DTYPE), stamp=stamp, frame_id=sensor)
    short.width = 1_000_000
    return [short]


def test_parameters_change_while_the_node_runs(vehicle: Vehicle):
    assert vehicle.wait_for(nominal).detections > 0
    assert vehicle.set_parameter("score_threshold", 1.0) == ""
    vehicle.wait_for(lambda report: nominal(report) and report.detections == 0)
    assert vehicle.set_parameter("score_threshold", -1.0) == ""
    vehicle.wait_for(lambda report: nominal(report) and report.detections > 0)
    assert "out of range" in vehicle.set_parameter("score_threshold", 7.0)
    assert "expected some of car, truck" in vehicle.set_parameter("classes", ["cow"])
    assert "read-only" in vehicle.set_parameter("device", "cuda")
    assert vehicle.state() == "active"
    vehicle.wait_for(nominal)


@pytest.mark.parametrize("late", ["camera_info", "tf", "tf_static"])
def test_calibration_and_poses_may_come_late(vehicle: Vehicle, late: str):
    assert vehicle.change_state("deactivate")
    assert vehicle.state() == "inactive"
    names = [topics.camera_info_topic("cam_front_left")] if late == "camera_info" else [f"/{late}"]
    vehicle.silence(*names)
    assert vehicle.change_state("activate")
    if late == "camera_info":
        report = vehicle.wait_for(lacks("CAM_FRONT_LEFT"))
        assert "no camera_info yet" in report.reasons[0]
    else:
        report = vehicle.wait_for(lambda report: report.state == "STALE" and bool(report.reasons))
        assert report.detections == 0
    vehicle.working |= set(names)
    vehicle.wait_for(nominal)
