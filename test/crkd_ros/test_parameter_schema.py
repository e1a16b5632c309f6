"""The JSON schema of parameter files says what the parameters' declarations say."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import yaml

from crkd_ros.parameter_schema import parameter_schema
from crkd_ros.parameters import default_parameters_file, from_values
from crkd_ros.specs import DEFAULT_CAMERAS, DEFAULT_RADARS, ParameterError, specs_for

TYPES = {"boolean": bool, "integer": int, "number": (int, float), "string": str, "array": list, "object": dict}


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value is valid, by the words of JSON schema that ours uses."""
    known = {"$schema", "title", "description", "default", "type", "enum", "minimum", "maximum", "items", "minItems"}
    assert schema.keys() <= known | {"properties", "required", "additionalProperties"}
    if not isinstance(value, TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return False
    if isinstance(value, dict):
        rest = schema.get("additionalProperties", True)
        for key, item in value.items():
            below = schema.get("properties", {}).get(key, rest)
            if below is False or (below is not True and not accepts(below, item)):
                return False
        return set(schema.get("required", [])) <= value.keys()
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(accepts(schema["items"], item) for item in value)
    if "enum" in schema and value not in schema["enum"]:
        return False
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


@cache
def shipped() -> dict[str, Any]:
    """What the shipped file holds."""
    content: dict[str, Any] = yaml.safe_load(default_parameters_file().read_text())
    return content


def file_with(name: str, value: object) -> dict[str, Any]:
    """The shipped file, with another value of a parameter."""
    content = deepcopy(shipped())
    *groups, last = name.split(".")
    place = content["/**"]["ros__parameters"]
    for group in groups:
        place = place[group]
    place[last] = value
    return content


def test_the_committed_schema_is_that_of_the_declarations():
    committed = default_parameters_file().with_name("detector.schema.json")
    assert json.loads(committed.read_text()) == parameter_schema()  # else: python -m crkd_ros.parameter_schema > it


def test_the_shipped_file_is_valid_and_names_its_schema():
    text = default_parameters_file().read_text()
    assert text.startswith("# yaml-language-server: $schema=detector.schema.json\n")
    assert accepts(parameter_schema(), shipped())


@pytest.mark.parametrize("spec", specs_for(DEFAULT_CAMERAS, DEFAULT_RADARS), ids=lambda spec: spec.name)
def test_schema_and_node_agree_on_every_parameter(spec: Any):
    schema = parameter_schema()
    tried: list[object] = [True, 3, 0.5, -0.5, 1e9, "word", "", ["word"], [""], None, *(spec.choices or ())]
    for value in tried:
        try:
            spec.checked(value)
        except ParameterError:
            fits = False
        else:
            fits = True
        if spec.choices is not None and value == [""]:
            continue  # ROS's way to write an empty list
        assert accepts(schema, file_with(spec.name, value)) is fits, value


def test_unknown_names_are_refused_and_sensors_may_have_any_name():
    assert not accepts(parameter_schema(), file_with("dedline_ms", 3.0))
    assert not accepts(parameter_schema(), file_with("camera.cam_front.colour", 3.0))
    assert accepts(parameter_schema(), file_with("camera.rear_left", {"offset_ms": 3.0}))
    assert accepts(parameter_schema(), {"detector": {"ros__parameters": {"use_sim_time": True}}})
    assert from_values({"use_sim_time": True}).values == from_values({}).values
