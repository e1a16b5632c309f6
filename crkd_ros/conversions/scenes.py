"""What a data set says about a drive as a whole, as JSON in a ``std_msgs/String``, so that a bag alone gives tables."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from crkd_ros.conversions.errors import ConversionError
from crkd_ros.conversions.messages import Messages

Row = dict[str, Any]
"""A row of a nuScenes table, with every field it has."""


class SensorDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sensor."""

    modality: Literal["camera", "radar", "lidar"]
    topic: str
    """Of its images or points."""


class SceneDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One drive, and the tables its annotations refer to."""

    scene: Row
    log: Row
    map: Row
    """Empty where the data set has none for this drive."""
    sensors: dict[str, SensorDescription]
    """By name, as in the data set."""
    categories: tuple[Row, ...]
    attributes: tuple[Row, ...]
    visibilities: tuple[Row, ...]
    schema: Literal["crkd_ros/scene/1"] = "crkd_ros/scene/1"


def scene_message(messages: Messages, scene: SceneDescription) -> Any:
    """``std_msgs/String`` with the description as JSON."""
    return messages.String(data=msgspec.json.encode(scene).decode())


def scene_of(message: Any, *, source: str = "scene") -> SceneDescription:
    """The description in a ``std_msgs/String``.

    Raises:
        ConversionError: no JSON, another schema, or a field that is missing, unknown or of the wrong type.
    """
    try:
        return msgspec.json.decode(message.data.encode(), type=SceneDescription)
    except msgspec.DecodeError as error:  # ValidationError is one of them
        raise ConversionError(f"{source}: {error}") from None
