"""What becomes of launch arguments."""

import subprocess
import sys
from pathlib import Path

import pytest

from crkd_ros.launch_arguments import (
    OF_EACH_SENSOR,
    descriptions,
    parameter_values,
    parameters_of,
    recorded_topics,
    renamed_topics,
)
from crkd_ros.parameters import from_values
from crkd_ros.specs import SPECS, ParameterError, camera_specs, radar_specs


def test_every_parameter_of_the_node_is_an_argument():
    assert {spec.name for spec in SPECS} | set(OF_EACH_SENSOR) == set(descriptions())
    assert "fp32, fp16, bf16" in descriptions()["precision"]


def test_what_sensors_have_can_be_given_for_a_whole_group():
    """But for mountings, and what has a parameter of the whole group."""
    found = {f"{group}.s.{parameter}" for group, parameter, _ in OF_EACH_SENSOR.values()}
    names = {spec.name for spec in (*camera_specs("s"), *radar_specs("s"))}
    of_groups = {spec.name for spec in SPECS}
    alone = {name for name in names if "T_base_from" in name or name.replace(".s.", "_") in of_groups}
    assert found == names - alone


def test_the_names_of_sensors_are_enough_without_a_file():
    values = parameter_values({"cameras": "[cam_front]", "radars": "[nose]"}, "")
    assert list(parameters_of(values, "").cameras) == ["CAM_FRONT"]


def test_empty_arguments_leave_the_file_alone():
    assert parameter_values(dict.fromkeys(descriptions(), ""), "no such file") == {}


def test_values_have_the_type_of_their_parameter():
    given = {
        "score_threshold": "1",
        "tracker.enabled": "true",
        "cameras": "[a, b]",
        "recipe": "12",
        "T_base_from_bev": "0 0 1 0 0 0 1",
        "replay_queue": "4",
    }
    found = parameter_values(given, "no such file")
    assert found == {**given, "score_threshold": 1.0, "tracker.enabled": True, "cameras": ["a", "b"], "replay_queue": 4}
    assert isinstance(found["score_threshold"], float)


def test_wrong_values_are_refused_before_anything_starts():
    with pytest.raises(ParameterError, match=r"precision: expected one of fp32, fp16, bf16, got 'fp7'"):
        parameter_values({"precision": "fp7"}, "")
    with pytest.raises(ParameterError, match=r"deadline_ms: expected 0..10000, got -1"):
        parameter_values({"deadline_ms": "-1"}, "")
    with pytest.raises(ParameterError, match=r"cameras: expected a value as in YAML, got '\[a'"):
        parameter_values({"cameras": "[a"}, "")


def test_patterns_reach_the_sensors_of_the_command_line_else_of_the_file(tmp_path: Path):
    found = parameter_values({"cameras": "[left]", "image_topics": "/rig/{}/jpeg", "camera_offsets_ms": "0"}, "none")
    assert found == {
        "cameras": ["left"],
        "camera.left.image_topic": "/rig/left/jpeg",
        "camera.left.offset_ms": 0.0,
    }
    file = tmp_path / "my_vehicle.yaml"
    file.write_text("/**:\n  ros__parameters:\n    radars: [nose]\n")
    assert parameter_values({"radar_frames": "{}_link"}, str(file)) == {"radar.nose.frame_id": "nose_link"}


def test_a_recording_holds_answers_and_where_asked_for_everything_read():
    parameters = from_values({"cameras": ["cam_front"], "radars": ["nose"], "markers_topic": "/boxes"})
    answers = recorded_topics(parameters, "/car/", inputs=False)
    assert answers == [
        "/car/detections",
        "/car/detection_velocities",
        "/boxes",
        "/car/detections/manifest",
        "/car/detections/labels",
        "/diagnostics",
    ]
    inputs = set(recorded_topics(parameters, "car", inputs=True)) - set(answers)
    assert inputs == {
        "/tf",
        "/tf_static",
        "/car/cam_front/image_raw/compressed",
        "/car/cam_front/camera_info",
        "/car/nose/points",
    }


def test_renamed_topics_are_found_by_who_only_knows_the_defaults():
    assert renamed_topics(from_values({}), "") == []
    parameters = from_values({"markers_topic": "/boxes", "radar.radar_front.topic": "nose/points"})
    assert renamed_topics(parameters, "") == [
        ("/detection_markers", "/boxes"),
        ("/radar_front/points", "/nose/points"),
    ]
    in_namespace = dict(renamed_topics(parameters, "car"))
    assert in_namespace["/cam_back/camera_info"] == "/car/cam_back/camera_info"
    assert "/tf" not in in_namespace


def test_a_distributions_own_interpreter_is_enough(tmp_path: Path):
    """``ros2 launch`` runs in the system's Python, where nothing of the virtual environment can be imported."""
    file = tmp_path / "my_vehicle.yaml"
    file.write_text("/**:\n  ros__parameters:\n    radars: [nose]\n")
    code = f"""
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {{*sys.stdlib_module_names, "crkd_core", "crkd_ros", "numpy", "yaml", "_yaml"}}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing())
from crkd_ros.launch_arguments import descriptions, parameter_values, parameters_of, recorded_topics, renamed_topics
values = parameter_values({{"radar_topics": "/{{}}/scan"}}, {str(file)!r})
print(recorded_topics(parameters_of(values, {str(file)!r}), "", inputs=True)[-1])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "/nose/scan", result.stderr
