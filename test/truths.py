"""Small drives made up for the tests of evaluation."""

from __future__ import annotations

import math

import numpy as np

from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.training.ground_truth import SampleTruth, TruthBox
from crkd_core.training.submission import results_entry
from crkd_core.types import Boxes3D, Detections

CATEGORY_OF_CLASS = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "pedestrian": "human.pedestrian.adult",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
}


def truth_box(
    class_name: str = "car",
    position: tuple[float, float] = (10.0, 0.0),
    *,
    yaw: float = 0.0,
    velocity: tuple[float, float] = (0.0, 0.0),
    size: tuple[float, float, float] = (1.9, 4.6, 1.6),
    attribute: str = "",
    num_points: int = 5,
) -> TruthBox:
    """A box in the world frame."""
    return TruthBox(
        category=CATEGORY_OF_CLASS.get(class_name, class_name),
        translation=(*position, 1.0),
        size=size,
        rotation=(math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)),
        velocity=velocity,
        attribute=attribute,
        num_points=num_points,
    )


def drive(samples: int = 4, cars: int = 12, *, seed: int = 0) -> dict[str, SampleTruth]:
    """Key frames of a vehicle that turns, among moving cars far enough from each other to be told apart."""
    rng = np.random.default_rng(seed)
    found = {}
    for k in range(samples):
        heading = 0.7 + 0.3 * k
        T = transform(yaw_rotation(heading), (100.0 + 5 * k, -40.0 + 3 * k, 0.0))
        boxes = []
        for i in range(cars):
            angle = 2 * math.pi * (i + 0.3 * rng.random()) / cars
            radius = 12 + 25 * rng.random()
            position = (T[0, 3] + radius * math.cos(angle), T[1, 3] + radius * math.sin(angle))
            yaw = rng.uniform(-math.pi, math.pi)
            speed = rng.uniform(4, 12)
            boxes.append(
                truth_box(
                    "car",
                    position,
                    yaw=yaw,
                    velocity=(speed * math.cos(yaw), speed * math.sin(yaw)),
                    attribute="vehicle.moving",
                )
            )
        found[f"sample{k}"] = SampleTruth(f"sample{k}", k * 500_000_000, T, tuple(boxes), "made-up")
    return found


def perfect(truth: dict[str, SampleTruth]) -> dict[str, Detections]:
    """The ground truth as detections in the world frame."""
    return {token: sample.detections(min_points=0) for token, sample in truth.items()}


def entries(detections: dict[str, Detections]) -> dict[str, list[dict[str, object]]]:
    """Result entries of detections in the world frame."""
    return {token: results_entry(found, token) for token, found in detections.items()}


def changed(detections: Detections, **fields: object) -> Detections:
    """Detections with other box fields."""
    values = {name: getattr(detections.boxes, name) for name in ("centers", "sizes", "yaws", "velocities")}
    boxes = Boxes3D(**{**values, **fields})
    return Detections(boxes, detections.scores, detections.labels, detections.frame_id, detections.stamp)
