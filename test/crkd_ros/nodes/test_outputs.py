"""Nothing is computed for a topic that nobody subscribes to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from micro import micro_frame
from small_drive import PARAMETERS

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSDurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402
from std_msgs.msg import Float64  # noqa: E402
from vision_msgs.msg import LabelInfo, VisionInfo  # noqa: E402

from crkd_core.config import load_recipe  # noqa: E402
from crkd_core.runtime.assembler import AssembledFrame, FrameState  # noqa: E402
from crkd_core.runtime.detector import DetectorStatus  # noqa: E402
from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections, SensorFrame  # noqa: E402
from crkd_ros.answers import OUTPUT_TYPES  # noqa: E402
from crkd_ros.conversions import message_class  # noqa: E402
from crkd_ros.nodes.detector import DetectorNode  # noqa: E402
from crkd_ros.nodes.outputs import STAGES  # noqa: E402
from crkd_ros.parameters import DetectorParameters, from_values  # noqa: E402

pytestmark = pytest.mark.ros
TIMEOUT = 20.0
ASKED = "detector"
MAKERS = {
    "crkd_ros.answers.report_message": "manifest_topic",
    "crkd_ros.answers.marker_array": "markers_topic",
    "crkd_ros.answers.velocity_cloud": "velocities_topic",
    "crkd_ros.answers.detection_array": "detections_topic",
    "crkd_ros.nodes.outputs.draw_mosaic": "mosaic_topic",
}


class OneCar:
    """A detector that finds one car, and counts how often it is asked."""

    def __init__(self, made: Counter[str]) -> None:
        self.made = made
        self.recipe = load_recipe("student_tiny")
        self.device = "cpu"
        self.status = DetectorStatus("cpu", "fp32", "eager")
        self.last_timings = {"preprocess": 1.0, "network": 2.0, "output": 3.0, "total": 6.0}

    def __call__(self, frame: SensorFrame) -> Detections:
        """The car."""
        self.made[ASKED] += 1
        boxes = Boxes3D(np.array([[10.0, 0.0, 1.0]]), np.ones((1, 3)), np.zeros(1), np.zeros((1, 2)))
        return Detections(boxes, np.array([0.9]), np.array([0]), "base_link", frame.stamp)


class Graph:
    """An active detector node and a listener beside it, spun by the test."""

    def __init__(self, made: Counter[str], **values: Any) -> None:
        self.context = rclpy.Context()
        self.context.init()
        overrides = [Parameter(name, value=value) for name, value in {**PARAMETERS, **values}.items()]
        self.node = DetectorNode(make=lambda _: OneCar(made), context=self.context, parameter_overrides=overrides)
        self.listener = Node("listener", context=self.context)
        self.heard: list[Any] = []
        self._executor = SingleThreadedExecutor(context=self.context)
        for node in (self.node, self.listener):
            self._executor.add_node(node)
        self.node.trigger_configure()
        self.node.trigger_activate()
        made.clear()

    def listen(self, kind: Any, topic: str, *, latched: bool = False) -> None:
        """Subscribe, and wait until the node knows."""
        durability = QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE
        qos = QoSProfile(depth=10, durability=durability)
        self.listener.create_subscription(kind, topic, self.heard.append, qos)
        self.spin_until(lambda: self.node.count_subscribers(topic) > 0 and (latched or self._outputs_listen()))

    def _outputs_listen(self) -> bool:
        assert self.node._outputs is not None
        return self.node._outputs.listening

    def answer_a_frame(self, number: int = 0) -> None:
        """Hand the node a complete frame, as its pipeline does."""
        frame = micro_frame(number).frame
        self.node._hand_over([AssembledFrame(frame.stamp, FrameState.NOMINAL, (), frame)], time.perf_counter())

    def spin_until(self, done: Callable[[], bool]) -> None:
        """Serve both nodes until something has happened."""
        end = time.monotonic() + TIMEOUT
        while not done():
            assert time.monotonic() < end, "it did not happen in time"
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        """End both nodes."""
        self.node.trigger_shutdown()
        self._executor.shutdown()
        for node in (self.node, self.listener):
            node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each output was computed."""
    counts: Counter[str] = Counter()

    def counting(original: Any, name: str) -> Any:
        def count(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return original(*args, **options)

        return count

    for path, name in MAKERS.items():
        module, _, attribute = path.rpartition(".")
        original = getattr(__import__(module, fromlist=[attribute]), attribute)
        monkeypatch.setattr(path, counting(original, name))
    return counts


@pytest.fixture
def make_graph(made: Counter[str]) -> Iterator[Callable[..., Graph]]:
    """Makes graphs that end with the test."""
    graphs: list[Graph] = []

    def make(**values: Any) -> Graph:
        graphs.append(Graph(made, **values))
        return graphs[-1]

    yield make
    for graph in graphs:
        graph.close()


def parameters() -> DetectorParameters:
    return from_values(PARAMETERS)


def test_without_a_subscriber_not_even_the_detector_runs(make_graph: Callable[..., Graph], made: Counter[str]):
    graph = make_graph()
    graph.answer_a_frame()
    time.sleep(0.2)
    assert made == {}


@pytest.mark.parametrize("key", OUTPUT_TYPES)
def test_for_one_subscriber_only_its_message_is_made(make_graph: Callable[..., Graph], made: Counter[str], key: str):
    graph = make_graph()
    graph.listen(message_class(OUTPUT_TYPES[key]), f"/{parameters().text(key)}")
    graph.answer_a_frame()
    graph.spin_until(lambda: bool(graph.heard))
    assert made == {ASKED: 1, key: 1}


def test_timings_of_a_stage_are_milliseconds_on_its_topic(make_graph: Callable[..., Graph], made: Counter[str]):
    graph = make_graph()
    graph.listen(Float64, f"/{parameters().text('timing_topic')}/network")
    graph.answer_a_frame()
    graph.spin_until(lambda: bool(graph.heard))
    assert [message.data for message in graph.heard] == [2.0]
    assert made == {ASKED: 1}


def test_overhead_and_latency_leave_out_and_include_the_detector(make_graph: Callable[..., Graph]):
    graph = make_graph()
    topics = {stage: f"/{parameters().text('timing_topic')}/{stage}" for stage in STAGES}
    found: dict[str, float] = {}
    for stage, topic in topics.items():
        graph.listener.create_subscription(
            Float64, topic, lambda message, stage=stage: found.update({stage: message.data}), 10
        )
    graph.spin_until(lambda: all(p.get_subscription_count() for p in graph.node._outputs._stages.values()))
    graph.answer_a_frame()
    graph.spin_until(lambda: found.keys() == STAGES.keys())
    # The detector says that it took 6 ms, and took none.
    assert found["latency"] - found["assemble"] == pytest.approx(found["overhead"] + 6.0)
    assert found["overhead"] + 6.0 >= found["queue"] + found["publish"]


def test_the_mosaic_is_drawn_for_those_who_look_and_not_more_often_than_wanted(
    make_graph: Callable[..., Graph], made: Counter[str]
):
    graph = make_graph(mosaic_rate=0.1, mosaic_width=320)
    graph.listen(CompressedImage, f"/{parameters().text('mosaic_topic')}")
    for number in range(3):
        graph.answer_a_frame(number)
        graph.spin_until(lambda number=number: made[ASKED] > number)
    graph.spin_until(lambda: bool(graph.heard))
    time.sleep(0.1)
    assert made == {ASKED: 3, "mosaic_topic": 1}
    [message] = graph.heard
    assert bytes(message.data[:3]) == b"\xff\xd8\xff"
    assert message.header.stamp.sec == 1


def test_labels_reach_who_comes_late_and_follow_the_threshold(make_graph: Callable[..., Graph]):
    graph = make_graph(score_threshold=0.25)
    graph.listen(LabelInfo, "/detections/labels", latched=True)
    graph.spin_until(lambda: len(graph.heard) == 1)
    [labels] = graph.heard
    assert [label.class_name for label in labels.class_map] == list(DETECTION_CLASSES)
    assert labels.threshold == 0.25
    graph.node.set_parameters([Parameter("score_threshold", value=0.5)])
    graph.spin_until(lambda: len(graph.heard) == 2)
    assert graph.heard[1].threshold == 0.5


def test_vision_info_names_the_recipe_and_the_topic_of_the_labels(make_graph: Callable[..., Graph]):
    graph = make_graph()
    graph.listen(VisionInfo, "/detections/vision_info", latched=True)
    graph.spin_until(lambda: bool(graph.heard))
    assert graph.heard[0].method == "CRKD, recipe student_tiny"
    assert graph.heard[0].database_location == "/detections/labels"


def test_thresholds_and_classes_count_from_the_next_frame_on(make_graph: Callable[..., Graph]):
    graph = make_graph()
    graph.listen(message_class(OUTPUT_TYPES["detections_topic"]), "/detections")
    found = []
    changes = ({}, {"class_threshold.car": 0.95}, {"class_threshold.car": 0.0}, {"classes": ["bus"]})
    for number, change in enumerate(changes):
        graph.node.set_parameters([Parameter(name, value=value) for name, value in change.items()])
        graph.answer_a_frame(number)
        graph.spin_until(lambda number=number: len(graph.heard) > number)
        found.append(len(graph.heard[number].detections))
    assert found == [1, 0, 1, 0]
