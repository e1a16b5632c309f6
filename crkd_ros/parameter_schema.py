"""JSON schema of parameter files, from the parameters' declarations.

Editors that know JSON schema check and explain a file that begins as ``config/detector.yaml`` does. The committed
schema is written by ``python -m crkd_ros.parameter_schema > config/detector.schema.json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from crkd_ros.specs import SPECS, Spec, camera_specs, radar_specs

JSON_TYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}


def parameter_schema() -> dict[str, Any]:
    """The schema: any node names, one ``ros__parameters`` below each; sensors of any name; nothing that is unknown."""
    parameters = _nested(SPECS)
    for group, specs in (("camera", camera_specs("*")), ("radar", radar_specs("*"))):
        parameters["properties"][group] = {
            "description": f"by name of the {group}",
            "type": "object",
            "additionalProperties": _nested(specs, below=f"{group}.*."),
        }
    parameters["properties"]["use_sim_time"] = {"type": "boolean", "default": False, "description": "follow /clock"}
    node = {
        "type": "object",
        "properties": {"ros__parameters": parameters},
        "required": ["ros__parameters"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Parameters of the crkd_ros detector",
        "type": "object",
        "additionalProperties": node,
    }


def _nested(specs: Iterable[Spec], *, below: str = "") -> dict[str, Any]:
    """An object with a property for each parameter; dots in names make objects within."""
    root: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
    for spec in specs:
        *groups, last = spec.name.removeprefix(below).split(".")
        place = root["properties"]
        for group in groups:
            empty = {"type": "object", "properties": {}, "additionalProperties": False}
            place = place.setdefault(group, empty)["properties"]
        place[last] = _value(spec)
    return root


def _value(spec: Spec) -> dict[str, Any]:
    changeable = "; may be changed while the node runs" if spec.changeable else ""
    schema: dict[str, Any] = {
        "description": spec.description + changeable,
        "type": JSON_TYPES[type(spec.default)],
        "default": spec.default,
    }
    if isinstance(spec.default, list):
        schema["items"] = {"type": "string"} | ({"enum": list(spec.choices)} if spec.choices else {})
        schema["minItems"] = 1
    elif spec.choices is not None:
        schema["enum"] = list(spec.choices)
    if spec.range is not None:
        schema["minimum"], schema["maximum"] = spec.range
    return schema


if __name__ == "__main__":
    sys.stdout.write(json.dumps(parameter_schema(), indent=2) + "\n")
