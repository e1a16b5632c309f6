"""Changes to the tiny data set of ``test/rosbag_tools/conftest.py``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

LATER = 250_000_000_000_000
"""Microseconds between the two scenes."""


def another_scene(root: Path, name: str) -> None:
    """The same drive once more, eight years later."""
    folder = root / "v1.0-mini"
    fresh = {"scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance"}
    for table in fresh:
        rows = json.loads((folder / f"{table}.json").read_text())
        (folder / f"{table}.json").write_text(json.dumps([*rows, *(_renamed(row, name) for row in rows)]))
    for path in [*root.glob("s*/*/*.*")]:
        shutil.copy(path, path.with_name(_later_name(path.name)))


def _renamed(row: dict[str, Any], name: str) -> dict[str, Any]:
    own = ("token", "scene_token", "sample_token", "ego_pose_token", "instance_token", "prev", "next")
    changed = {key: f"{value}-2" if key in own and value else value for key, value in row.items()}
    if "timestamp" in row:
        changed["timestamp"] = row["timestamp"] + LATER
    if "filename" in row:
        folder, _, file = row["filename"].rpartition("/")
        changed["filename"] = f"{folder}/{_later_name(file)}"
    if "name" in row:
        changed["name"] = name
    return changed


def _later_name(file: str) -> str:
    channel, _, rest = file.partition("__")
    time, _, suffix = rest.partition(".")
    return f"{channel}__{int(time) + LATER}.{suffix}"
