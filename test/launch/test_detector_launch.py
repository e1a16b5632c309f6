"""The launch file; the launch package itself comes with a ROS distribution only."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from crkd_ros.specs import SPECS, camera_specs, radar_specs

FILE = Path(__file__).resolve().parents[2] / "launch" / "detector.launch.py"


def constant(name: str) -> Any:
    for node in ast.parse(FILE.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{FILE.name} has no {name}")


def test_arguments_are_parameters_of_the_node():
    known = {spec.name: spec for spec in SPECS}
    assert set(constant("PARAMETERS")) <= set(known)
    # What a YAML reader might take for something else than the text it is meant to be.
    assert set(constant("TEXTS")) <= {name for name, spec in known.items() if isinstance(spec.default, str)}


def test_every_topic_and_frame_can_be_given():
    names = {spec.name for spec in SPECS if spec.name.endswith(("_topic", "_frame"))}
    assert names <= set(constant("PARAMETERS"))
    sensors = {spec.name for spec in (*camera_specs("s"), *radar_specs("s")) if spec.name.endswith("topic")}
    assert {f"{group}.s.{parameter}" for group, parameter, _ in constant("PATTERNS").values()} == sensors


@pytest.mark.ros
def test_description_holds_every_argument():
    pytest.importorskip("launch_ros", reason="launch comes with a ROS distribution")
    spec = importlib.util.spec_from_file_location("detector_launch", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {argument.name for argument in module.generate_launch_description().get_launch_arguments()}
    assert {"params_file", "namespace", "use_sim_time", *module.PARAMETERS, *module.PATTERNS} <= found
