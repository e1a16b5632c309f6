"""The live detector: camera images, radar sweeps and transforms in, 3D boxes out.

A lifecycle node. Subscriptions are served by one thread that never waits: complete frames go to a worker thread, which
runs the detector and publishes. Live, the newest frame wins; in a replay (``drop_frames: false``) every frame is
answered. Each frame gets exactly one ``vision_msgs/Detection3DArray`` with its reference stamp, empty when STALE.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import msgspec
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from vision_msgs.msg import LabelInfo, VisionClass

from crkd_core import cli
from crkd_core.runtime.assembler import AssembledFrame, FrameState
from crkd_core.runtime.detector import Detector
from crkd_core.types import DETECTION_CLASSES, CameraImage, SensorFrame
from crkd_ros.answers import OUTPUT_TYPES, Answer, FrameReport, answer, make_detector, report_message
from crkd_ros.conversions import detection_messages, marker_array, message_class, ros_messages
from crkd_ros.diagnostics import Health, Status
from crkd_ros.nodes.declare import check_changes, declared_parameters
from crkd_ros.nodes.worker import Worker
from crkd_ros.parameters import DetectorParameters
from crkd_ros.pipeline import FramePipeline, Input

POLL_PERIOD = 0.01
"""Seconds between looks at deadlines."""
IDLE = 3.0
"""In a replay, seconds without any message after which the recording has ended: pending frames go as they are."""

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@dataclass(frozen=True)
class _Job:
    assembled: AssembledFrame
    handed_over: float  # time.perf_counter


class DetectorNode(LifecycleNode):
    """See the module.

    Attributes:
        problem: why the last transition failed, in one sentence.
    """

    def __init__(
        self, name: str = "detector", *, make: Callable[[DetectorParameters], Detector] = make_detector, **options: Any
    ) -> None:
        """A node that waits to be configured.

        Args:
            name: of the node.
            make: gives the detector when the node is configured.
            options: of ``LifecycleNode``.
        """
        super().__init__(name, **options)
        self.problem = ""
        self._make_detector = make
        self._config: DetectorParameters = declared_parameters(self)
        self.add_on_set_parameters_callback(check_changes)
        self._replay = not self._config.flag("drop_frames")
        self._detector: Detector | None = None
        self._pipeline: FramePipeline | None = None
        self._worker: Worker[_Job] | None = None
        self._health = Health()
        self._outputs: dict[str, Any] = {}
        self._diagnostics: Any = None
        self._active: list[tuple[str, Any]] = []  # subscriptions and timers of the active state
        self._last_input = time.monotonic()
        self._state = FrameState.NOMINAL.value  # of the newest answer

    # ------------------------------------------------------------------------------------------------- transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; make the publishers."""
        started = time.perf_counter()
        try:
            self._detector = self._make_detector(self._config)
            _warm_up(self._detector, self._config)
            self._make_publishers()
        except Exception as error:  # noqa: BLE001  # see _failure
            self._release()
            return self._failure(error)
        self.get_logger().info(
            f"recipe '{self._detector.recipe.name}' on {self._detector.device}, ready after "
            f"{time.perf_counter() - started:.1f} s"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and start to answer."""
        result = super().on_activate(state)
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001  # see _failure
            self._stop()
            super().on_deactivate(state)
            return self._failure(error)
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, and finish the frame that is being worked on."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop the model and the publishers."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever is running."""
        self._stop()
        self._release()
        return super().on_shutdown(state)

    def _begin(self) -> None:
        assert self._detector is not None
        self._pipeline = FramePipeline(
            self._config,
            sweeps=self._detector.recipe.live_sweeps,
            replay=self._replay,
            namespace=self.get_namespace(),
            warn=self._warn,
        )
        self._worker = Worker(self._answer, latest_only=not self._replay, on_error=self._failed)
        self._outputs["labels_topic"].publish(self._labels())
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period = self._config.number("diagnostics_period")
        self._active = [
            ("timer", self.create_timer(POLL_PERIOD, self._poll, clock=steady)),
            ("timer", self.create_timer(period, self._diagnose, clock=steady)),
        ]
        # The trigger comes last: whoever sees it subscribed knows that the others are.
        for use in sorted(self._pipeline.inputs, key=lambda use: use.sensor == self._config.trigger):
            self._active.append(("subscription", self._subscribe(use)))

    def _stop(self) -> None:
        for kind, entity in self._active:
            (self.destroy_timer if kind == "timer" else self.destroy_subscription)(entity)
        self._active = []
        if self._worker is not None and not self._worker.stop():
            self.get_logger().warning("the detector is still busy with its last frame; not waiting for it")
        self._worker = None

    def _release(self) -> None:
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        if self._diagnostics is not None:
            self.destroy_lifecycle_publisher(self._diagnostics)
        self._outputs, self._diagnostics, self._detector = {}, None, None

    def _failure(self, error: Exception) -> TransitionCallbackReturn:
        """Say why a transition failed: rclpy would swallow the error without a word."""
        mistake = isinstance(error, cli.UserError)
        self.problem = str(error) if mistake else f"{type(error).__name__}: {error}"
        self.get_logger().error(self.problem if mistake else "".join(traceback.format_exception(error)))
        return FAILURE

    # ------------------------------------------------------------------------------------------------------ topics

    def _make_publishers(self) -> None:
        qos = _keep_all() if self._replay else QoSProfile(depth=10)
        for key, type_name in OUTPUT_TYPES.items():
            topic = self._config.text(key)
            self._outputs[key] = self.create_lifecycle_publisher(message_class(type_name), topic, qos)
        latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        topic = self._config.text("labels_topic")
        self._outputs["labels_topic"] = self.create_lifecycle_publisher(LabelInfo, topic, latched)
        self._diagnostics = self.create_lifecycle_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))

    def _subscribe(self, use: Input) -> Any:
        raw = use.role == "reference"  # any type will do, only the header's stamp is read
        callback = partial(self._received, use)
        return self.create_subscription(message_class(use.type), use.topic, callback, self._input_qos(use), raw=raw)

    def _input_qos(self, use: Input) -> QoSProfile:
        if use.role == "tf_static":
            return QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        if self._replay:
            return _keep_all()
        if use.role == "tf":
            return QoSProfile(depth=100)
        return QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)

    def _labels(self) -> LabelInfo:
        info = LabelInfo(threshold=float(max(0.0, self._threshold())))
        info.header.stamp = self.get_clock().now().to_msg()
        info.header.frame_id = self._config.text("base_frame")
        info.class_map = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(DETECTION_CLASSES)]
        return info

    # ------------------------------------------------------------------------------------------------------- input

    def _now(self) -> int:
        # A replay measures in message time; its own clock only has to go on.
        return time.monotonic_ns() if self._replay else int(self.get_clock().now().nanoseconds)

    def _received(self, use: Input, message: Any) -> None:
        if self._pipeline is None:
            return
        self._last_input = time.monotonic()
        try:
            self._hand_over(self._pipeline.on_message(use.topic, message, self._now()))
        except Exception:  # noqa: BLE001  # one message must not end the node
            self._health.failure()
            text = f"{use.topic}: message dropped: {traceback.format_exc()}"
            self.get_logger().error(text, throttle_duration_sec=5.0)

    def _warn(self, text: str) -> None:
        self.get_logger().warning(text)

    def _poll(self) -> None:
        try:
            self._look_at_deadlines()
        except Exception:  # noqa: BLE001  # see _received
            self._health.failure()
            text = f"frames dropped: {traceback.format_exc()}"
            self.get_logger().error(text, throttle_duration_sec=5.0)

    def _look_at_deadlines(self) -> None:
        if self._pipeline is None or self._worker is None:
            return
        self._hand_over(self._pipeline.poll(self._now()))
        if self._replay and self._pipeline.assembler.pending:
            # A player that waits for an answer sends nothing while the detector works: count from its last answer.
            quiet = min(time.monotonic() - self._last_input, self._worker.idle_for)
            if quiet > IDLE:
                frames = self._pipeline.flush(self._now())
                self._warn(f"no message for {quiet:.0f} s: {len(frames)} frames go with what has come")
                self._hand_over(frames)

    def _hand_over(self, frames: list[AssembledFrame]) -> None:
        for assembled in frames:
            if self._worker is not None and self._listening():
                self._worker.submit(_Job(assembled, time.perf_counter()))

    def _listening(self) -> bool:
        return any(self._heard(key) for key in OUTPUT_TYPES)

    def _heard(self, key: str) -> bool:
        return bool(self._outputs[key].get_subscription_count())

    # ------------------------------------------------------------------------------------------------------ output

    def _threshold(self) -> float:
        return float(self.get_parameter("score_threshold").value)

    def _answer(self, job: _Job) -> None:
        """Runs in the worker thread."""
        assert self._detector is not None
        taken, frame_id = time.perf_counter(), self._config.text("base_frame")
        try:
            found = answer(self._detector, job.assembled, frame_id=frame_id, min_scores=self._config.min_scores())
        except Exception as error:
            # Whoever waits for the answer to this frame gets an empty one; the log gets the error.
            reason = f"detector: {type(error).__name__}: {error}"
            self._publish(answer(self._detector, _without_frame(job.assembled, reason), frame_id=frame_id))
            raise
        stages = dict(self._detector.last_timings) if job.assembled.frame is not None else {}
        stages |= {"assemble": job.assembled.waited / 1e6, "queue": 1e3 * (taken - job.handed_over)}
        report = msgspec.structs.replace(found.report, timings_ms={k: round(v, 3) for k, v in stages.items()})
        self._publish(Answer(found.detections, report))
        latency = stages["assemble"] + 1e3 * (time.perf_counter() - job.handed_over)
        self._health.answered(report, latency_ms=latency)
        self._tell_changes(report)

    def _tell_changes(self, report: FrameReport) -> None:
        """Whoever only watches the terminal learns when the state changes."""
        if report.state == self._state:
            return
        self._state = report.state
        if report.state == FrameState.NOMINAL.value:
            self.get_logger().info("NOMINAL: every sensor is back", throttle_duration_sec=5.0)
        else:
            text = f"{report.state}: {'; '.join(report.reasons)}"
            self.get_logger().warning(text, throttle_duration_sec=5.0)

    def _publish(self, found: Answer) -> None:
        messages = ros_messages()
        # The manifest goes first: whoever has the detections of a frame can expect to have it.
        if self._heard("manifest_topic"):
            self._outputs["manifest_topic"].publish(report_message(messages, found.report))
        if self._heard("markers_topic"):
            self._outputs["markers_topic"].publish(marker_array(messages, found.detections))
        if self._heard("detections_topic") or self._heard("velocities_topic"):
            array, velocities = detection_messages(messages, found.detections)
            self._outputs["velocities_topic"].publish(velocities)
            self._outputs["detections_topic"].publish(array)

    def _failed(self, error: Exception) -> None:
        """Runs in the worker thread."""
        self._health.failure()
        text = "".join(traceback.format_exception(error))
        self.get_logger().error(f"frame dropped: {text}", throttle_duration_sec=5.0)

    def _diagnose(self) -> None:
        if self._pipeline is None or self._worker is None:
            return
        self._health.dropped = self._worker.dropped
        status = self._health.status(self._pipeline, self._now(), listening=self._listening())
        self._diagnostics.publish(self._diagnostic_array(status))

    def _diagnostic_array(self, status: Status) -> DiagnosticArray:
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = [
            DiagnosticStatus(
                level=bytes([status.level]),
                name=f"{self.get_fully_qualified_name()}: detections",
                message=status.message,
                hardware_id=str(self._detector.device) if self._detector is not None else "",
                values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
            )
        ]
        return array


def _without_frame(assembled: AssembledFrame, reason: str) -> AssembledFrame:
    return replace(assembled, state=FrameState.STALE, reasons=(*assembled.reasons, reason), frame=None)


def _keep_all() -> QoSProfile:
    return QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE)


def _warm_up(detector: Detector, parameters: DetectorParameters) -> None:
    """The first frame pays for allocations and kernel selection; better now than when it counts."""
    black = np.zeros((900, 1600, 3), dtype=np.uint8)
    K = np.array([[1266.0, 0.0, 800.0], [0.0, 1266.0, 450.0], [0.0, 0.0, 1.0]])
    camera = CameraImage(black, K, np.eye(4), np.eye(4), stamp=0)
    detector(SensorFrame(dict.fromkeys(parameters.cameras, camera), {}, 0, np.eye(4), np.eye(4)))


def run(argv: list[str] | None = None, *, make: Callable[[DetectorParameters], Detector] = make_detector) -> int:
    """The node until SIGINT or SIGTERM; returns the exit code.

    Args:
        argv: command line.
        make: gives the detector when the node is configured.

    Raises:
        UserError: ROS arguments, a parameter or a checkpoint (with ``autostart``) that cannot be used.
    """
    logging.basicConfig(level=logging.INFO)
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()  # again and again: a second Ctrl-C must not interrupt the clean-up

    # Our own handlers: with rclpy's, a second SIGINT raises KeyboardInterrupt inside destroy_node().
    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError: a parameter file that is not there or not readable, a malformed rule
        raise cli.UserError(f"ROS arguments: {' '.join(str(error).split())}") from None
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    node: DetectorNode | None = None
    executor = SingleThreadedExecutor()
    try:
        node = DetectorNode(make=make)
        executor.add_node(node)
        if node.get_parameter("autostart").value:
            _start(node)
        while not stopping.is_set() and rclpy.ok():
            _spin_once(executor, node)
    finally:
        if node is not None:
            with contextlib.suppress(RuntimeError):  # a lifecycle manager has shut it down already
                node.trigger_shutdown()
            executor.remove_node(node)
            node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
    return 0


def _start(node: DetectorNode) -> None:
    for step in (node.trigger_configure, node.trigger_activate):
        if step() != SUCCESS:
            raise cli.UserError(node.problem or f"node {node.get_name()}: {step.__name__} failed; see the log")
    node.get_logger().info("active")


def _spin_once(executor: SingleThreadedExecutor, node: DetectorNode) -> None:
    try:
        executor.spin_once(timeout_sec=0.1)
    except Exception as error:  # noqa: BLE001  # a message that cannot even be deserialised ends here
        node.get_logger().error(f"message dropped: {error}", throttle_duration_sec=5.0)


def main() -> NoReturn:
    """Entry point of the command."""
    cli.run(lambda: run(sys.argv))


if __name__ == "__main__":
    main()
