"""The annotations of a key frame as messages: boxes, velocities, markers, and as JSON without any loss."""

from __future__ import annotations

import numpy as np

from crkd_core.data.nuscenes import Annotation, NuScenesIndex, Sample
from crkd_core.geometry.transforms import inverse
from crkd_core.types import Boxes3D, Detections, FloatArray
from crkd_ros import topics
from crkd_ros.conversions import (
    ObjectAnnotation,
    SampleAnnotation,
    annotation_message,
    detection_messages,
    marker_array,
)
from crkd_ros.conversions.annotations import pose_rows
from rosbag_tools.typestore import bag_messages, serialised

GROUND_TRUTH_COLOR = (0.1, 0.9, 0.3)
KEY_FRAME_PERIOD = 0.5
"""Seconds a ground truth marker stays visible."""

Written = list[tuple[str, bytes]]
"""Topics and serialised messages."""


def truth_messages(
    index: NuScenesIndex, sample: Sample, T_map_from_base: FloatArray, numbers: dict[str, int]
) -> Written:
    """What a key frame is published as.

    Args:
        index: the data set.
        sample: the key frame.
        T_map_from_base: pose of the vehicle.
        numbers: instance -> number, of the objects that have one so far; the others get theirs.
    """
    messages, annotations = bag_messages(), index.annotations(sample)
    truth = ground_truth(annotations, T_map_from_base, sample.stamp)
    instances = [a.instance for a in annotations if a.label is not None]
    ids = [numbers.setdefault(instance, len(numbers)) for instance in instances]
    array, velocities = detection_messages(messages, truth, ids=instances)
    markers = marker_array(messages, truth, lifetime=KEY_FRAME_PERIOD, color=GROUND_TRUTH_COLOR, ids=ids)
    annotation = annotation_message(messages, annotation_of_sample(index, sample, T_map_from_base))
    return [
        (topics.GROUND_TRUTH, serialised(array)),
        (topics.GROUND_TRUTH_VELOCITIES, serialised(velocities)),
        (topics.GROUND_TRUTH_MARKERS, serialised(markers)),
        (topics.ANNOTATIONS, serialised(annotation)),
    ]


def annotation_of_sample(index: NuScenesIndex, sample: Sample, T_map_from_base: FloatArray) -> SampleAnnotation:
    """Everything that is annotated in a key frame, and which measurements belong to it."""
    scene = index.scenes[sample.scene_index]
    keys = {channel: index.key_record(sample, channel) for channel in index.channels(sample)}
    return SampleAnnotation(
        sample_token=sample.token,
        scene_name=scene.name,
        scene_token=scene.token,
        stamp=sample.stamp,
        T_world_from_base=pose_rows(T_map_from_base),
        objects=tuple(_object(annotation) for annotation in index.annotations(sample)),
        key_frames={channel: record.stamp for channel, record in keys.items() if record is not None},
    )


def ground_truth(annotations: list[Annotation], T_map_from_base: FloatArray, stamp: int) -> Detections:
    """The annotated objects of the ten classes as detections of score 1 in ``base_link``."""
    known = [(a, a.label) for a in annotations if a.label is not None]
    boxes = Boxes3D.from_nuscenes(
        [a.translation for a, _ in known],
        [a.size_wlh for a, _ in known],
        [a.rotation for a, _ in known],
        np.array([a.velocity for a, _ in known]).reshape(-1, 3),
    )
    return Detections(
        boxes=boxes.transformed(inverse(T_map_from_base)),
        scores=np.ones(len(known)),
        labels=np.array([label for _, label in known], dtype=np.int64),
        frame_id=topics.BASE_FRAME,
        stamp=stamp,
    )


def _object(annotation: Annotation) -> ObjectAnnotation:
    return ObjectAnnotation(
        token=annotation.token,
        instance_token=annotation.instance,
        category=annotation.category,
        attributes=annotation.attributes,
        visibility=annotation.visibility,
        num_lidar_pts=annotation.num_lidar_pts,
        num_radar_pts=annotation.num_radar_pts,
        translation=annotation.translation,
        size=annotation.size_wlh,
        rotation=annotation.rotation,
        velocity=None if np.isnan(annotation.velocity).any() else annotation.velocity,
    )
