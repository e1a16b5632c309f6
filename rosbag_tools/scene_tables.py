"""Rows of nuScenes tables that the index does not keep, as they are: what a bag says about its drive as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from crkd_core.cli import UserError
from crkd_core.data.errors import DataError
from crkd_ros import topics
from crkd_ros.conversions import SceneDescription, SensorDescription

Row = dict[str, Any]


def version_of(root: Path, version: str | None) -> str:
    """The version given, or else the only one that the data root holds.

    Raises:
        UserError: the root holds several, or none.
    """
    if version is not None:
        return version
    found = sorted(path.parent.name for path in root.glob("*/sample.json"))
    if len(found) == 1:
        return found[0]
    if not root.is_dir():
        raise UserError(f"data root {root}: {'not a folder' if root.exists() else 'no such folder'}")
    if not found:
        raise UserError(f"data root {root}: holds no nuScenes tables; is it the right folder?")
    raise UserError(f"data root {root}: holds {len(found)} versions; choose one by --version: {', '.join(found)}")


def rows_of(folder: Path, table: str) -> list[Row]:
    """All rows of a (small) table with all their fields.

    Raises:
        DataError: unreadable, or no table.
    """
    path = folder / f"{table}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Row])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: {error}") from None


def described(folder: Path, scene_token: str, modalities: Mapping[str, str]) -> SceneDescription:
    """What a bag says about a scene as a whole.

    Args:
        folder: of the tables.
        scene_token: of the scene.
        modalities: sensor -> camera, radar or lidar.

    Raises:
        DataError: a table that is not one.
    """
    scene = next(row for row in rows_of(folder, "scene") if row["token"] == scene_token)
    log = next((row for row in rows_of(folder, "log") if row["token"] == scene.get("log_token")), {})
    return SceneDescription(
        scene=scene,
        log=log,
        map=map_row(folder, scene) or {},
        sensors={
            channel: SensorDescription(modality=cast("Any", modality), topic=_topic(channel.lower(), modality))
            for channel, modality in modalities.items()
        },
        categories=tuple(rows_of(folder, "category")),
        attributes=tuple(rows_of(folder, "attribute")),
        visibilities=tuple(rows_of(folder, "visibility")),
    )


def map_row(folder: Path, scene: Row) -> Row | None:
    """The row of ``map.json`` that a row of ``scene.json`` was recorded on, without the other logs; None: no such."""
    if not (folder / "map.json").is_file():
        return None
    for row in rows_of(folder, "map"):
        if scene.get("log_token") in row.get("log_tokens", ()):
            return {name: value for name, value in row.items() if name != "log_tokens"}
    return None


def _topic(name: str, modality: str) -> str:
    return topics.image_topic(name) if modality == "camera" else topics.points_topic(name)
