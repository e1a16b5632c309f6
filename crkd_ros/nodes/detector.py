"""The live detector: camera images, radar sweeps and transforms in, 3D boxes out.

A lifecycle node. Subscriptions are served by one thread: complete frames go to a worker thread, which runs the detector
and publishes. Live, the newest frame wins, and nothing waits for the detector. In a replay (``drop_frames: false``)
every frame is answered, and no message is taken while ``replay_queue`` frames wait for the detector. Each frame gets
exactly one ``vision_msgs/Detection3DArray`` with its reference stamp, empty when STALE.
"""

from __future__ import annotations

import contextlib
import gc
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
import rclpy
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from crkd_core import cli
from crkd_core.runtime.assembler import AssembledFrame, FrameState
from crkd_core.runtime.detector import Detector
from crkd_core.runtime.tracker import Tracker
from crkd_ros.answers import Answer, FrameReport, answer, make_detector, warm_up
from crkd_ros.backends import BUILTIN, Backend, backend_of
from crkd_ros.conversions import message_class
from crkd_ros.diagnostics import Health
from crkd_ros.inputs import Input
from crkd_ros.nodes.declare import changed_values, check_changes, declared_parameters
from crkd_ros.nodes.executor import single_threaded_executor
from crkd_ros.nodes.outputs import Outputs, keep_all
from crkd_ros.nodes.worker import Worker
from crkd_ros.parameters import DetectorParameters
from crkd_ros.pipeline import FramePipeline

POLL_PERIOD = 0.01
"""Seconds between looks at deadlines."""
IDLE = 3.0
"""In a replay, seconds without any message after which the recording has ended: pending frames go as they are."""

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR


@dataclass(frozen=True)
class _Job:
    assembled: AssembledFrame
    complete: float  # time.perf_counter when its last message was taken


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
        self.add_post_set_parameters_callback(self._parameters_changed)
        self._replay = not self._config.flag("drop_frames")
        self._detector: Detector | None = None
        self._backend: Backend = BUILTIN
        self._pipeline: FramePipeline | None = None
        self._worker: Worker[_Job] | None = None
        self._health = Health()
        self._outputs: Outputs | None = None
        self._tracker: Tracker | None = None
        self._active: list[tuple[str, Any]] = []  # subscriptions and timers of the active state
        self._last_input = time.monotonic()
        self._state = FrameState.NOMINAL.value  # of the newest answer

    # ------------------------------------------------------------------------------------------------- transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and warm it up; make the publishers."""
        started = time.perf_counter()
        try:
            slop = self._config.nanoseconds("synchronizer_slop_ms")
            self._backend = backend_of(self._config.text("backend"), slop=slop)
            self._detector = self._make_detector(self._config)
            warm_up(self._detector, self._config)
            self._tracker = self._config.tracker()
            recipe = self._detector.recipe.name
            self._outputs = Outputs(self, self._config, recipe=recipe, replay=self._replay)
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
        result = self._let_go(self._stop)
        return super().on_deactivate(state) if result == SUCCESS else result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Drop the model and the publishers."""
        result = self._let_go(self._release)
        return super().on_cleanup(state) if result == SUCCESS else result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop whatever is running."""
        result = self._let_go(self._stop, self._release)
        return super().on_shutdown(state) if result == SUCCESS else result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed in a way that nobody foresaw: let go of everything, ready to be configured anew."""
        result = self._let_go(self._stop, self._release)
        return super().on_error(state) if result == SUCCESS else result

    def _begin(self) -> None:
        assert self._detector is not None
        assert self._outputs is not None
        self._pipeline = FramePipeline(
            self._config,
            sweeps=self._detector.recipe.live_sweeps,
            replay=self._replay,
            namespace=self.get_namespace(),
            backend=self._backend,
            warn=self._warn,
        )
        self._health = Health()
        self._worker = Worker(
            self._answer,
            on_error=self._failed,
            capacity=round(self._config.number("replay_queue")) if self._replay else 1,
            when_full="wait" if self._replay else "drop oldest",
        )
        self._outputs.announce(self._config)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period = self._config.number("diagnostics_period")
        self._active = [
            ("timer", self.create_timer(POLL_PERIOD, self._poll, clock=steady)),
            ("timer", self.create_timer(period, self._diagnose, clock=steady)),
        ]
        # Modules and model, 200,000 objects, stay: garbage collection need not go through them, which takes 100 ms.
        gc.collect()
        gc.freeze()
        # The trigger comes last: whoever sees it subscribed knows that the others are.
        for use in sorted(self._pipeline.inputs, key=lambda use: use.sensor == self._config.trigger):
            self._active.append(("subscription", self._subscribe(use)))

    def _stop(self) -> None:
        for kind, entity in self._active:
            (self.destroy_timer if kind == "timer" else self.destroy_subscription)(entity)
        self._active = []
        gc.unfreeze()
        if self._worker is not None and not self._worker.stop():
            self.get_logger().warning("the detector is still busy with its last frame; not waiting for it")
        self._worker = None

    def _release(self) -> None:
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = self._detector = self._pipeline = None

    def _parameters_changed(self, parameters: list[Parameter[Any]]) -> None:
        self._config = self._config.changed(changed_values(parameters))
        if self._outputs is not None and self._worker is not None:
            self._outputs.announce(self._config)

    def _let_go(self, *steps: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            for step in steps:
                step()
        except Exception as error:  # noqa: BLE001  # see _failure
            self._failure(error)
            return ERROR
        return SUCCESS

    def _failure(self, error: Exception) -> TransitionCallbackReturn:
        """Say why a transition failed: rclpy would swallow the error without a word."""
        mistake = isinstance(error, cli.UserError)
        self.problem = str(error) if mistake else f"{type(error).__name__}: {error}"
        self.get_logger().error(self.problem if mistake else "".join(traceback.format_exception(error)))
        return FAILURE

    # ------------------------------------------------------------------------------------------------------ topics

    def _subscribe(self, use: Input) -> Any:
        raw = use.role == "reference"  # any type will do, only the header's stamp is read
        callback = partial(self._received, use)
        return self.create_subscription(message_class(use.type), use.topic, callback, self._input_qos(use), raw=raw)

    def _input_qos(self, use: Input) -> QoSProfile:
        if use.role == "tf_static":
            return QoSProfile(depth=100, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        if self._replay:
            return keep_all()
        if use.role == "tf":
            return QoSProfile(depth=100)
        return QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)

    # ------------------------------------------------------------------------------------------------------- input

    def _now(self) -> int:
        # A replay measures in message time; its own clock only has to go on.
        return time.monotonic_ns() if self._replay else int(self.get_clock().now().nanoseconds)

    def _received(self, use: Input, message: Any) -> None:
        if self._pipeline is None:
            return
        self._last_input, taken = time.monotonic(), time.perf_counter()
        try:
            self._hand_over(self._pipeline.on_message(use.topic, message, self._now()), taken)
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
        looked = time.perf_counter()
        self._hand_over(self._pipeline.poll(self._now()), looked)
        if self._replay and self._pipeline.assembler.pending:
            # A player that waits for an answer sends nothing while the detector works: count from its last answer.
            quiet = min(time.monotonic() - self._last_input, self._worker.idle_for)
            if quiet > IDLE:
                frames = self._pipeline.flush(self._now())
                self._warn(f"no message for {quiet:.0f} s: {len(frames)} frames go with what has come")
                self._hand_over(frames, looked)

    def _hand_over(self, frames: list[AssembledFrame], complete: float) -> None:
        for assembled in frames:
            if self._worker is not None and self._outputs is not None and self._outputs.listening:
                self._worker.submit(_Job(assembled, complete))

    # ------------------------------------------------------------------------------------------------------ output

    def _answer(self, job: _Job) -> None:
        """Runs in the worker thread."""
        assert self._detector is not None
        taken, config, assembled = time.perf_counter(), self._config, job.assembled
        frame_id = config.text("base_frame")
        try:
            found = answer(
                self._detector, assembled, frame_id=frame_id, min_scores=config.min_scores(), tracker=self._tracker
            )
        except Exception as error:
            # Whoever waits for the answer to this frame gets an empty one; the log gets the error.
            reason = f"detector: {type(error).__name__}: {error}"
            self._publish(answer(self._detector, _without_frame(assembled, reason), frame_id=frame_id))
            raise
        detected = time.perf_counter()
        stages = dict(self._detector.last_timings) if assembled.frame is not None else {}
        stages |= {"assemble": assembled.waited / 1e6, "queue": 1e3 * (taken - job.complete)}
        known = {stage: round(ms, 3) for stage, ms in stages.items()}
        found = replace(found, report=msgspec.structs.replace(found.report, timings_ms=known))
        self._publish(found)
        published = time.perf_counter()
        since_complete = 1e3 * (published - job.complete)
        timings = stages | {
            "publish": 1e3 * (published - detected),
            "overhead": since_complete - stages.get("total", 0.0),
            "latency": stages["assemble"] + since_complete,
        }
        self._health.answered(found.report, timings)
        self._tell_changes(found.report)
        if self._outputs is not None:
            self._outputs.publish_timings(timings)
            if assembled.frame is not None:
                self._outputs.show(assembled.frame, found.detections)

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
        if self._outputs is not None:
            self._outputs.publish(found)

    def _failed(self, error: Exception) -> None:
        """Runs in the worker thread."""
        self._health.failure()
        text = "".join(traceback.format_exception(error))
        self.get_logger().error(f"frame dropped: {text}", throttle_duration_sec=5.0)

    def _diagnose(self) -> None:
        if self._pipeline is None or self._worker is None or self._outputs is None or self._detector is None:
            return
        self._health.dropped = self._worker.dropped
        status = self._health.status(
            self._pipeline, self._now(), detector=self._detector.status, listening=self._outputs.listening
        )
        self._outputs.diagnose(status, hardware=self._detector.status.device)


def _without_frame(assembled: AssembledFrame, reason: str) -> AssembledFrame:
    return replace(assembled, state=FrameState.STALE, reasons=(*assembled.reasons, reason), frame=None)


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
    executor = single_threaded_executor()
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


def _spin_once(executor: Executor, node: DetectorNode) -> None:
    try:
        executor.spin_once(timeout_sec=0.1)
    except Exception as error:  # noqa: BLE001  # a message that cannot even be deserialised ends here
        node.get_logger().error(f"message dropped: {error}", throttle_duration_sec=5.0)


def main() -> NoReturn:
    """Entry point of the command."""
    cli.run(lambda: run(sys.argv))


if __name__ == "__main__":
    main()
