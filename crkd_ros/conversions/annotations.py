"""The complete annotation of a key frame as JSON in a ``std_msgs/String``, so that a bag alone can be scored."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

from crkd_core.types import FloatArray
from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.messages import Messages

ANNOTATION_SCHEMA = "crkd_ros/annotation/2"
"""Changes with the fields below; a reader refuses what it does not know."""

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Row = tuple[float, float, float, float]


class ObjectAnnotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One annotated object, of a detection class or of any other category; global (map) frame, as in nuScenes."""

    token: str
    instance_token: str
    category: str
    """nuScenes category, for example ``vehicle.car``."""
    attributes: tuple[str, ...]
    visibility: str
    """nuScenes level, for example ``v80-100``; empty where unknown."""
    num_lidar_pts: int
    num_radar_pts: int
    translation: Vector
    """Geometric centre, m."""
    size: Vector
    """Width, length, height, m."""
    rotation: Quaternion
    """w, x, y, z."""
    velocity: Vector | None
    """m/s; None where it is unknown."""


class SampleAnnotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One annotated key frame."""

    sample_token: str
    scene_name: str
    scene_token: str
    stamp: int
    """Reference stamp of the key frame, ns."""
    T_world_from_base: tuple[Row, Row, Row, Row]
    """Pose of the vehicle at ``stamp``, row by row."""
    objects: tuple[ObjectAnnotation, ...]
    key_frames: dict[str, int] = {}
    """Sensor, as in the data set -> stamp of its measurement that belongs to this key frame, ns."""
    schema: Literal["crkd_ros/annotation/2"] = "crkd_ros/annotation/2"

    @property
    def pose(self) -> FloatArray:
        """``T_world_from_base`` as (4, 4) float64."""
        return np.array(self.T_world_from_base, dtype=np.float64)


class _Schema(msgspec.Struct):
    schema: str = ""


def pose_rows(T_world_from_base: FloatArray) -> tuple[Row, Row, Row, Row]:
    """A (4, 4) transform as ``SampleAnnotation.T_world_from_base`` holds it."""
    rows: tuple[Row, Row, Row, Row] = msgspec.convert(T_world_from_base.tolist(), tuple[Row, Row, Row, Row])
    return rows


def annotation_message(messages: Messages, annotation: SampleAnnotation) -> Any:
    """``std_msgs/String`` with the annotation as JSON."""
    return messages.String(data=msgspec.json.encode(annotation).decode())


def annotation_of(message: Any, *, source: str = "annotations") -> SampleAnnotation:
    """The annotation in a ``std_msgs/String``.

    Raises:
        ConversionError: no JSON, another schema, or a field that is missing, unknown or of the wrong type.
    """
    data = message.data.encode()
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != ANNOTATION_SCHEMA:
            raise ConversionError(
                f"{source}: schema '{schema}' is not known; expected '{ANNOTATION_SCHEMA}'. Convert the bag again"
            )
        return msgspec.json.decode(data, type=SampleAnnotation)
    except msgspec.DecodeError as error:  # ValidationError is one of them
        raise ConversionError(f"{source}: {error}") from None
