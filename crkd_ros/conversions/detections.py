"""Detections to and from ``vision_msgs``, their velocities beside it, and markers to look at them.

``Detection3D`` has no field for velocity, and no common message is an array of velocities. They are published beside
the array as a ``sensor_msgs/PointCloud2`` with the same header and one point per detection, in the same order: x, y, z
(box centre), vx, vy (m/s over ground, along the axes of the header's frame; NaN where unknown), score, label (position
in ``DETECTION_CLASSES``). Any point cloud tool can draw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crkd_core.drawing.style import CLASS_COLORS
from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections, FloatArray
from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.geometry import duration_message, header_message, stamp_of
from crkd_ros.conversions.messages import Messages
from crkd_ros.conversions.points import point_cloud_message, points_of

VELOCITY_DTYPE = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("vx", "<f4"), ("vy", "<f4"), ("score", "<f4"), ("label", "<u1")]
)
"""One point of a velocity cloud."""

CUBE, ARROW, TEXT, DELETE_ALL = 1, 0, 9, 3
SLOWEST_ARROW = 0.2
"""Below this speed (m/s) no velocity arrow is drawn; an arrow is as long as the way of one second."""

LABELS = {name: label for label, name in enumerate(DETECTION_CLASSES)}


def detection_messages(messages: Messages, detections: Detections, *, ids: Sequence[str] = ()) -> tuple[Any, Any]:
    """``vision_msgs/Detection3DArray`` and the point cloud of velocities that goes with it.

    Args:
        messages: the kind to make.
        detections: what to say.
        ids: of each detection, the object that it is; none: no object is known again.

    Returns:
        The array (class_id: class name; size x = length, y = width, z = height; pose of the geometric centre) and the
        cloud of ``VELOCITY_DTYPE``; both carry the stamp and frame of ``detections``.
    """
    return detection_array(messages, detections, ids=ids), velocity_cloud(messages, detections)


def detection_array(messages: Messages, detections: Detections, *, ids: Sequence[str] = ()) -> Any:
    """The first of ``detection_messages``."""
    header = header_message(messages, detections.stamp, detections.frame_id)
    poses = _poses(messages, detections.boxes)
    found = [
        messages.Detection3D(
            header=header,
            results=[
                messages.ObjectHypothesisWithPose(
                    hypothesis=messages.ObjectHypothesis(class_id=name, score=score),
                    pose=messages.PoseWithCovariance(pose=pose),
                )
            ],
            bbox=messages.BoundingBox3D(center=pose, size=messages.Vector3(x=length, y=width, z=height)),
            id=identity,
        )
        for pose, (length, width, height), name, score, identity in zip(
            poses,
            detections.boxes.sizes.tolist(),
            detections.class_names,
            detections.scores.tolist(),
            ids or [""] * len(detections),
            strict=True,
        )
    ]
    return messages.Detection3DArray(header=header, detections=found)


def velocity_cloud(messages: Messages, detections: Detections) -> Any:
    """The second of ``detection_messages``."""
    points = np.zeros(len(detections), dtype=VELOCITY_DTYPE)
    points["x"], points["y"], points["z"] = detections.boxes.centers.T
    points["vx"], points["vy"] = detections.boxes.velocities.T
    points["score"], points["label"] = detections.scores, detections.labels
    return point_cloud_message(messages, points, stamp=detections.stamp, frame_id=detections.frame_id)


def detections_of(message: Any, velocities: Any | None = None, *, source: str = "detections") -> Detections:
    """``Detections`` of a ``vision_msgs/Detection3DArray``, the likeliest hypothesis of each.

    Args:
        message: the array.
        velocities: the point cloud published beside it; None: all velocities are NaN.
        source: what an error message calls it.

    Raises:
        ConversionError: an unknown class, a detection without hypothesis, a pose, size or score that is not a number,
            or a cloud that does not belong to the array (other stamp, frame, number or classes).
    """
    stamp, frame_id = stamp_of(message.header.stamp), message.header.frame_id
    n = len(message.detections)
    centers, sizes, rotations = np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 4))
    scores, labels = np.zeros(n), np.zeros(n, dtype=np.int64)
    for i, detection in enumerate(message.detections):
        if not detection.results:
            raise ConversionError(f"{source}: detection {i} has no hypothesis (results is empty)")
        best = max(detection.results, key=lambda result: result.hypothesis.score).hypothesis
        if best.class_id not in LABELS:
            raise ConversionError(
                f"{source}: detection {i} has class_id '{best.class_id}'; "
                f"expected one of {', '.join(DETECTION_CLASSES)}"
            )
        p, q, s = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
        centers[i], sizes[i], rotations[i] = (p.x, p.y, p.z), (s.y, s.x, s.z), (q.w, q.x, q.y, q.z)
        scores[i], labels[i] = best.score, LABELS[best.class_id]
    numbers = np.concatenate([centers, sizes, rotations, scores[:, None]], axis=1)
    bad = ~np.isfinite(numbers).all(axis=1) | (np.abs(rotations).max(axis=1) < 1e-9)
    if bad.any():
        raise ConversionError(
            f"{source}: detection {int(np.argmax(bad))} has a pose, size or score that is not a number"
        )
    speeds = np.full((n, 2), np.nan)
    if velocities is not None:
        speeds = _velocities_of(velocities, labels, stamp=stamp, frame_id=frame_id, source=source)
    return Detections(Boxes3D.from_nuscenes(centers, sizes, rotations, speeds), scores, labels, frame_id, stamp)


def marker_array(
    messages: Messages,
    detections: Detections,
    *,
    lifetime: float = 0.5,
    color: tuple[float, float, float] | None = None,
    ids: Sequence[int] = (),
) -> Any:
    """``visualization_msgs/MarkerArray``: a box, a caption and a velocity arrow per detection.

    Args:
        messages: the kind to make.
        detections: what to draw, in its own frame.
        lifetime: seconds after which a viewer drops the markers.
        color: RGB in 0..1 for all; None: by class.
        ids: numbers of the objects, the same in every message; captions show them instead of scores.
    """
    header = header_message(messages, detections.stamp, detections.frame_id)
    duration = duration_message(messages, lifetime)
    # First of all, what an earlier message drew goes.
    markers = [messages.Marker(header=header, action=DELETE_ALL)]
    boxes = detections.boxes
    sizes, velocities = boxes.sizes.tolist(), boxes.velocities.tolist()
    rows = zip(detections.class_names, _poses(messages, boxes), boxes.centers.tolist(), sizes, velocities, strict=True)
    for i, (name, pose, (x, y, z), (length, width, height), (vx, vy)) in enumerate(rows):
        red, green, blue = color or [level / 255 for level in CLASS_COLORS[name]]
        caption = f"{name} #{ids[i]}" if ids else f"{name} {detections.scores[i]:.2f}"
        common = {"header": header, "id": ids[i] if ids else i, "lifetime": duration}
        opaque = messages.ColorRGBA(r=red, g=green, b=blue, a=0.9)
        markers.append(
            messages.Marker(
                **common,
                ns="boxes",
                type=CUBE,
                pose=pose,
                scale=messages.Vector3(x=length, y=width, z=height),
                color=messages.ColorRGBA(r=red, g=green, b=blue, a=0.35),
            )
        )
        top = messages.Point(x=x, y=y, z=z + height / 2 + 0.5)
        markers.append(
            messages.Marker(
                **common,
                ns="captions",
                type=TEXT,
                pose=messages.Pose(position=top, orientation=messages.Quaternion(w=1.0)),
                scale=messages.Vector3(x=0.0, y=0.0, z=0.7),
                color=opaque,
                text=caption,
            )
        )
        if np.hypot(vx, vy) > SLOWEST_ARROW:  # false where the velocity is unknown
            markers.append(
                messages.Marker(
                    **common,
                    ns="velocities",
                    type=ARROW,
                    pose=messages.Pose(orientation=messages.Quaternion(w=1.0)),
                    scale=messages.Vector3(x=0.15, y=0.4, z=0.5),
                    color=opaque,
                    points=[messages.Point(x=x, y=y, z=z), messages.Point(x=x + vx, y=y + vy, z=z)],
                )
            )
    return messages.MarkerArray(markers=markers)


def _poses(messages: Messages, boxes: Boxes3D) -> Sequence[Any]:
    centers, _, rotations, _ = boxes.to_nuscenes()
    return [
        messages.Pose(position=messages.Point(x=x, y=y, z=z), orientation=messages.Quaternion(x=qx, y=qy, z=qz, w=qw))
        for (x, y, z), (qw, qx, qy, qz) in zip(centers.tolist(), rotations.tolist(), strict=True)
    ]


def _velocities_of(message: Any, labels: NDArray[np.int64], *, stamp: int, frame_id: str, source: str) -> FloatArray:
    if stamp_of(message.header.stamp) != stamp or message.header.frame_id != frame_id:
        raise ConversionError(
            f"{source}: velocities at {stamp_of(message.header.stamp)} ns in '{message.header.frame_id}' do not belong "
            f"to detections at {stamp} ns in '{frame_id}'"
        )
    points = points_of(message, source=f"{source} velocities")
    missing = [name for name in ("vx", "vy", "label") if name not in (points.dtype.names or ())]
    if missing:
        raise ConversionError(
            f"{source} velocities: field '{missing[0]}' missing (found {', '.join(points.dtype.names or ()) or 'none'})"
        )
    if len(points) != len(labels) or not np.array_equal(points["label"], labels):
        raise ConversionError(
            f"{source}: velocities of {len(points)} objects do not belong to {len(labels)} detections "
            "(their number, or the order of their classes, differs)"
        )
    speeds: FloatArray = np.stack([points["vx"], points["vy"]], axis=1).astype(np.float64)
    return speeds
