"""The detector node as it is shipped, with a detector that finds the same boxes in no time; its CPU time by part.

python -m load.node OUT.json --ros-args ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load.meter import Meter
from load.parts import (
    ANSWER,
    ASSEMBLER,
    CALLBACKS,
    CONVERSION,
    DIAGNOSTICS,
    MESSAGES,
    NULL,
    POSES,
    PUBLISH,
    TAKE,
)
from rclpy.executors import SingleThreadedExecutor
from rclpy.publisher import Publisher

import crkd_ros.nodes.detector as detector_node
from crkd_core.config import load_recipe
from crkd_core.runtime.assembler import FrameAssembler
from crkd_core.runtime.detector import Detector, DetectorStatus
from crkd_core.types import Boxes3D, Detections, SensorFrame
from crkd_ros.nodes.outputs import Outputs
from crkd_ros.parameters import DetectorParameters
from crkd_ros.pipeline import FramePipeline, MessageRig

BOXES = 30
"""As many as there are in a street."""

PARTS: tuple[tuple[Any, str, str], ...] = (
    (SingleThreadedExecutor, "_take_subscription", TAKE),
    (detector_node.DetectorNode, "_received", CALLBACKS),
    (detector_node.DetectorNode, "_poll", CALLBACKS),
    (detector_node.DetectorNode, "_diagnose", DIAGNOSTICS),
    (FramePipeline, "on_message", CONVERSION),
    (FrameAssembler, "camera", ASSEMBLER),
    (FrameAssembler, "radar", ASSEMBLER),
    (FrameAssembler, "poll", ASSEMBLER),
    (MessageRig, "pose", POSES),
    (MessageRig, "covers", POSES),
    (MessageRig, "camera", POSES),
    (MessageRig, "radar", POSES),
    (detector_node.DetectorNode, "_answer", ANSWER),
    (Outputs, "publish", MESSAGES),
    (Publisher, "publish", PUBLISH),
)


class NullDetector(Detector):
    """Finds the same boxes in every frame; has neither weights nor network."""

    def __init__(self, _parameters: DetectorParameters) -> None:
        self.recipe = load_recipe("student_r50")
        self.device = torch.device("cpu")
        self.status = DetectorStatus("cpu", "fp32", "eager")
        self.status = DetectorStatus("cpu", "fp32", "eager")
        self.last_timings = {}
        along = np.linspace(5.0, 50.0, BOXES)
        self._boxes = Boxes3D(
            centers=np.stack([along, np.zeros(BOXES), np.zeros(BOXES)], axis=1),
            sizes=np.tile([4.5, 1.9, 1.6], (BOXES, 1)),
            yaws=np.zeros(BOXES),
            velocities=np.ones((BOXES, 2)),
        )

    def __call__(self, frame: SensorFrame) -> Detections:
        """The boxes."""
        return Detections(self._boxes, np.full(BOXES, 0.9), np.arange(BOXES) % 10, "base_link", frame.stamp)


def main() -> None:
    """The node until SIGINT or SIGTERM."""
    out, meter = Path(sys.argv.pop(1)), Meter()
    for owner, name, part in PARTS:
        meter.wrap(owner, name, part)
    meter.wrap(NullDetector, "__call__", NULL)
    meter.start(out)
    try:
        detector_node.run(sys.argv, make=NullDetector)
    finally:
        meter.write(out)


if __name__ == "__main__":
    main()
