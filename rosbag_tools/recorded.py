"""What recorded bags say about a drive: poses, ground truth, detections."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crkd_core.cli import UserError
from crkd_core.runtime.poses import PoseBuffer
from crkd_core.training.ground_truth import SampleTruth, TruthBox
from crkd_core.types import Detections, FloatArray
from crkd_ros import topics
from crkd_ros.answers import OUTPUT_TYPES, FrameReport, report_of
from crkd_ros.conversions import (
    SampleAnnotation,
    annotation_of,
    detections_of,
    pose_of_odometry,
    scene_of,
    stamp_of,
    transform_of,
)
from rosbag_tools.bags import Bag


class RecordingError(UserError):
    """A bag that lacks what is needed; names it, and what is there."""


class VehiclePoses:
    """Poses of the vehicle in a fixed frame, as functions of time."""

    def __init__(self, chain: list[PoseBuffer | FloatArray]) -> None:
        """Poses along a chain of transforms, from the world down to the vehicle; fixed ones are matrices."""
        self._chain = chain

    def at(self, stamp: int) -> FloatArray | None:
        """``T_world_from_base`` at ``stamp`` (ns), or None where the recording does not reach."""
        T = np.eye(4)
        for edge in self._chain:
            step = edge.at(stamp) if isinstance(edge, PoseBuffer) else edge
            if step is None:
                return None
            T = T @ step
        return T


def vehicle_poses(bag: Bag, *, world: str = topics.MAP_FRAME, base: str = topics.BASE_FRAME) -> VehiclePoses:
    """The vehicle's poses from /tf, or else from /odom.

    Args:
        bag: with either topic.
        world: fixed frame; where /tf does not know it, /odom is taken, whatever its frame.
        base: frame of the vehicle.

    Raises:
        RecordingError: neither topic says where ``base`` is.
        ConversionError: a malformed transform.
    """
    edges = _edges(bag)
    chain: list[PoseBuffer | FloatArray] = []
    frame = base
    while frame != world and frame in edges and len(chain) < len(edges):
        frame, edge = edges[frame]
        chain.insert(0, edge)
    if frame == world and chain:
        return VehiclePoses(chain)
    odometry = PoseBuffer(capacity=_capacity(bag, topics.ODOMETRY))
    for recorded in bag.messages([topics.ODOMETRY]):
        message = recorded.message
        if message.child_frame_id.lstrip("/") == base:
            odometry.insert(stamp_of(message.header.stamp), pose_of_odometry(message))
    if len(odometry):
        return VehiclePoses([odometry])
    frames = sorted({*edges, *(parent for parent, _ in edges.values())})
    raise RecordingError(
        f"bag {bag.path}: no pose of '{base}' in '{world}' on {topics.TF}, and none on {topics.ODOMETRY} "
        f"(frames on {topics.TF}: {', '.join(frames) or 'none'})"
    )


def mountings(bag: Bag) -> dict[str, tuple[str, FloatArray]]:
    """Child frame -> (parent frame, ``T_parent_from_child``) of everything on /tf_static."""
    found = {}
    for recorded in bag.messages([topics.TF_STATIC]):
        for stamped in recorded.message.transforms:
            found[stamped.child_frame_id.lstrip("/")] = (stamped.header.frame_id.lstrip("/"), transform_of(stamped))
    return found


def mounting(
    edges: dict[str, tuple[str, FloatArray]], frame: str, *, base: str = topics.BASE_FRAME
) -> FloatArray | None:
    """``T_base_from_frame`` along fixed transforms, or None where they do not lead to ``base``."""
    T = np.eye(4)
    frame = frame.lstrip("/")
    for _ in range(len(edges) + 1):
        if frame == base:
            return T
        if frame not in edges:
            return None
        frame, step = edges[frame]
        T = step @ T
    return None


def _edges(bag: Bag) -> dict[str, tuple[str, PoseBuffer | FloatArray]]:
    edges: dict[str, tuple[str, PoseBuffer | FloatArray]] = dict(mountings(bag))
    moving: dict[tuple[str, str], PoseBuffer] = defaultdict(lambda: PoseBuffer(capacity=1 << 40))
    for recorded in bag.messages([topics.TF]):
        for stamped in recorded.message.transforms:
            edge = (stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/"))
            moving[edge].insert(stamp_of(stamped.header.stamp), transform_of(stamped))
    edges.update({child: (parent, buffer) for (parent, child), buffer in moving.items()})
    return edges


def _capacity(bag: Bag, topic: str) -> int:
    return bag.topics[topic].count + 1 if topic in bag.topics else 1


# ------------------------------------------------------------------------------------------------------- ground truth


def annotations_in(bag: Bag) -> list[SampleAnnotation]:
    """The annotated key frames of a bag, in order of time; a sample recorded twice counts once.

    Raises:
        BagError: no annotation topic.
        ConversionError: a malformed annotation.
    """
    bag.require([topics.ANNOTATIONS])
    found: dict[str, SampleAnnotation] = {}
    for recorded in bag.messages([topics.ANNOTATIONS]):
        annotation = annotation_of(recorded.message, source=f"bag {bag.path}: {topics.ANNOTATIONS}")
        found[annotation.sample_token] = annotation
    return sorted(found.values(), key=lambda annotation: annotation.stamp)


def truth_in(bag: Bag) -> dict[str, SampleTruth]:
    """Token -> ground truth of every annotated key frame, with the description of the drive where the bag has one.

    Raises:
        BagError: no annotation topic.
        ConversionError: a malformed annotation.
    """
    description = ""
    if bag.has(topics.SCENE):
        scene = scene_of(next(bag.messages([topics.SCENE])).message, source=f"bag {bag.path}: {topics.SCENE}").scene
        description = scene.get("description", "")
    return {a.sample_token: replace(truth_of(a), description=description) for a in annotations_in(bag)}


def truth_of(annotation: SampleAnnotation) -> SampleTruth:
    """An annotation as ground truth of the metric.

    Raises:
        RecordingError: an object with more than one attribute.
    """
    boxes = []
    for thing in annotation.objects:
        if len(thing.attributes) > 1:
            raise RecordingError(
                f"annotation of sample {annotation.sample_token}: object {thing.token}: "
                f"expected at most one attribute, got {', '.join(thing.attributes)}"
            )
        boxes.append(
            TruthBox(
                category=thing.category,
                translation=thing.translation,
                size=thing.size,
                rotation=thing.rotation,
                velocity=(np.nan, np.nan) if thing.velocity is None else thing.velocity[:2],
                attribute=thing.attributes[0] if thing.attributes else "",
                num_points=thing.num_lidar_pts + thing.num_radar_pts,
            )
        )
    return SampleTruth(
        token=annotation.sample_token,
        stamp=annotation.stamp,
        T_world_from_base=annotation.pose,
        boxes=tuple(boxes),
        scene=annotation.scene_name,
    )


# --------------------------------------------------------------------------------------------------------- detections


@dataclass(frozen=True)
class RecordedDetections:
    """What a detector answered, in order of stamps.

    Attributes:
        detections: one for each stamp.
        with_velocities: how many of them came with velocities; the others' are NaN.
        reports: what the answers were made of; empty where they were not recorded.
    """

    detections: tuple[Detections, ...]
    with_velocities: int
    reports: tuple[FrameReport, ...]

    @property
    def stamps(self) -> list[int]:
        """Stamps, ns, ascending."""
        return [d.stamp for d in self.detections]


def detections_in(bag: Bag, *, topic: str = topics.DETECTIONS) -> RecordedDetections:
    """Read a detector's answers, with their velocities from the cloud beside it; of equal stamps the last one counts.

    Args:
        bag: of a live or offline detector.
        topic: its ``vision_msgs/Detection3DArray`` topic; velocities and manifest lie beside it.

    Raises:
        BagError: the topic is missing or empty.
        RecordingError: it is of another type.
        ConversionError: a malformed message.
    """
    bag.require([topic])
    expected, got = OUTPUT_TYPES["detections_topic"], bag.topics[topic].type
    if got != expected:
        raise RecordingError(f"bag {bag.path}: topic {topic}: expected {expected}, got {got}")
    velocities = topic.rsplit("/", 1)[0] + topics.DETECTION_VELOCITIES
    manifest = f"{topic}/manifest"
    arrays: dict[int, Any] = {}
    clouds: dict[int, Any] = {}
    reports: dict[int, FrameReport] = {}
    for recorded in bag.messages([topic, velocities, manifest]):
        message = recorded.message
        if recorded.topic == topic:
            arrays[stamp_of(message.header.stamp)] = message
        elif recorded.topic == velocities:
            clouds[stamp_of(message.header.stamp)] = message
        else:
            report = report_of(message, source=f"bag {bag.path}: {manifest}")
            reports[report.stamp] = report
    source = f"bag {bag.path}: {topic}"
    found = tuple(detections_of(arrays[stamp], clouds.get(stamp), source=source) for stamp in sorted(arrays))
    return RecordedDetections(
        detections=found,
        with_velocities=sum(stamp in clouds for stamp in arrays),
        reports=tuple(reports[stamp] for stamp in sorted(reports)),
    )
