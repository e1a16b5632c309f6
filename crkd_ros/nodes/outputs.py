"""What the detector publishes; nothing is computed for a topic that nobody subscribes to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy, QoSHistoryPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Float64
from vision_msgs.msg import LabelInfo, VisionClass, VisionInfo

from crkd_core.drawing.mosaic import draw_mosaic
from crkd_core.types import DETECTION_CLASSES, Detections, SensorFrame
from crkd_ros.answers import OUTPUT_TYPES, Answer, output_messages
from crkd_ros.conversions import compressed_image_message, message_class, ros_messages
from crkd_ros.diagnostics import Status
from crkd_ros.nodes.worker import Worker
from crkd_ros.parameters import DetectorParameters

STAGES = {
    "assemble": "from the trigger's arrival to the message that completes the frame",
    "queue": "from that message to the moment the detector takes the frame",
    "preprocess": "the detector's work on the host",
    "network": "until the boxes are there",
    "output": "boxes to the vehicle's frame",
    "publish": "from the answer to the end of its publication",
    "overhead": "from the message that completes the frame to the end of publication, without the detector",
    "latency": "from the trigger's arrival to the end of publication",
}
"""What is timed, each on a topic of its own, milliseconds."""
JPEG_QUALITY = 85
LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def keep_all() -> QoSProfile:
    """Nothing is lost, and publishers are held back where a subscriber is slow."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_ALL, reliability=QoSReliabilityPolicy.RELIABLE)


@dataclass(frozen=True)
class _Picture:
    frame: SensorFrame
    detections: Detections


class Outputs:
    """The publishers of a node between its configuration and its clean-up."""

    def __init__(self, node: LifecycleNode, parameters: DetectorParameters, *, recipe: str, replay: bool) -> None:
        """Make the publishers.

        Args:
            node: their owner.
            parameters: names of topics.
            recipe: that the detector was trained by.
            replay: reliable, nothing is lost.
        """
        self._node = node
        self._parameters = parameters
        self._recipe = recipe
        self._made: list[Any] = []
        qos = keep_all() if replay else QoSProfile(depth=10)
        self._answers = {
            key: self._publisher(message_class(type_name), parameters.text(key), qos)
            for key, type_name in OUTPUT_TYPES.items()
        }
        below = parameters.text("timing_topic")
        self._stages = {stage: self._publisher(Float64, f"{below}/{stage}", QoSProfile(depth=10)) for stage in STAGES}
        self._mosaic = self._publisher(CompressedImage, parameters.text("mosaic_topic"), QoSProfile(depth=1))
        self._labels = self._publisher(LabelInfo, parameters.text("labels_topic"), LATCHED)
        self._info = self._publisher(VisionInfo, parameters.text("vision_info_topic"), LATCHED)
        self._diagnostics = self._publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self._artist = Worker(self._draw, on_error=self._not_drawn, name="mosaic")
        self._drawn = -1e9  # time.monotonic of the newest picture

    def _publisher(self, kind: Any, topic: str, qos: QoSProfile) -> Any:
        publisher = self._node.create_lifecycle_publisher(kind, topic, qos)
        self._made.append(publisher)
        return publisher

    def destroy(self) -> None:
        """Finish the picture that is being drawn, and remove the publishers."""
        self._artist.stop()
        for publisher in self._made:
            self._node.destroy_lifecycle_publisher(publisher)
        self._made.clear()

    @property
    def listening(self) -> bool:
        """Whether anybody subscribes to anything that a frame has to be answered for."""
        return any(map(_heard, (*self._answers.values(), *self._stages.values(), self._mosaic)))

    def announce(self, parameters: DetectorParameters) -> None:
        """Tell what the labels mean, now and to whoever comes later."""
        info = VisionInfo(method=f"CRKD, recipe {self._recipe}", database_location=self._labels.topic_name)
        labels = LabelInfo(threshold=max(0.0, parameters.number("score_threshold")))
        labels.class_map = [VisionClass(class_id=i, class_name=name) for i, name in enumerate(DETECTION_CLASSES)]
        info.header.stamp = labels.header.stamp = self._node.get_clock().now().to_msg()
        info.header.frame_id = labels.header.frame_id = parameters.text("base_frame")
        self._labels.publish(labels)
        self._info.publish(info)

    def publish(self, found: Answer) -> None:
        """Publish what was found in a frame."""
        wanted = {key for key, publisher in self._answers.items() if _heard(publisher)}
        for key, message in output_messages(ros_messages(), found, wanted=wanted):
            self._answers[key].publish(message)

    def publish_timings(self, timings_ms: Mapping[str, float]) -> None:
        """Publish how long each of ``STAGES`` took, as far as it was there."""
        for stage, publisher in self._stages.items():
            if stage in timings_ms and _heard(publisher):
                publisher.publish(Float64(data=timings_ms[stage]))

    def show(self, frame: SensorFrame, detections: Detections) -> None:
        """Have a mosaic drawn in a thread of its own, if somebody looks and it is time for one."""
        now = time.monotonic()
        if not _heard(self._mosaic) or now - self._drawn < 1 / self._parameters.number("mosaic_rate"):
            return
        self._drawn = now
        self._artist.submit(_Picture(frame, detections))

    def _draw(self, picture: _Picture) -> None:
        frame, detections = picture.frame, picture.detections
        width = round(self._parameters.number("mosaic_width"))
        mosaic = draw_mosaic(frame, detections, tuple(self._parameters.cameras), width=width)
        _, jpeg = cv2.imencode(".jpg", mosaic[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        message = compressed_image_message(
            ros_messages(), jpeg.tobytes(), stamp=detections.stamp, frame_id=detections.frame_id
        )
        self._mosaic.publish(message)

    def _not_drawn(self, error: Exception) -> None:
        self._node.get_logger().error(f"mosaic: {type(error).__name__}: {error}", throttle_duration_sec=5.0)

    def diagnose(self, status: Status, *, hardware: str) -> None:
        """Publish a status on /diagnostics."""
        array = DiagnosticArray()
        array.header.stamp = self._node.get_clock().now().to_msg()
        array.status = [
            DiagnosticStatus(
                level=bytes([status.level]),
                name=f"{self._node.get_fully_qualified_name()}: detections",
                message=status.message,
                hardware_id=hardware,
                values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
            )
        ]
        self._diagnostics.publish(array)


def _heard(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count())
