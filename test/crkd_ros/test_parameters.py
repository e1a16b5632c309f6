"""Parameters: one truth for node, file and offline tools."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from crkd_ros.parameters import _flat, default_parameters_file, from_values, load_parameters
from crkd_ros.specs import DEFAULT_CAMERAS, DEFAULT_RADARS, ParameterError, Spec, specs_for


def test_shipped_file_holds_exactly_the_defaults():
    [node] = yaml.safe_load(default_parameters_file().read_text()).values()
    specs = specs_for(DEFAULT_CAMERAS, DEFAULT_RADARS)
    assert _flat(node["ros__parameters"]) == {spec.name: spec.default for spec in specs}


@pytest.mark.parametrize("spec", specs_for(DEFAULT_CAMERAS, DEFAULT_RADARS), ids=lambda spec: spec.name)
def test_every_parameter_says_what_it_is_and_every_number_has_limits(spec: Spec):
    assert len(spec.description) > 3
    is_number = isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool)
    assert (spec.range is not None) is is_number
    assert spec.checked(spec.default) == spec.default


def test_only_what_is_published_may_change_while_the_node_runs():
    changeable = {spec.name.split(".")[0] for spec in specs_for(DEFAULT_CAMERAS, DEFAULT_RADARS) if spec.changeable}
    assert changeable == {"score_threshold", "class_threshold", "classes"}


def test_sensors_are_known_by_their_names_in_upper_case():
    parameters = from_values({"cameras": ["cam_front"], "radars": ["left"], "radar.left.topic": "/l"})
    assert list(parameters.cameras) == ["CAM_FRONT"]
    assert parameters.radars["LEFT"].topic == "/l"
    assert parameters.trigger == "CAM_FRONT"


def test_camera_of_another_name_has_default_topics_and_no_offset():
    camera = from_values({"cameras": ["rear"], "trigger_camera": "rear", "radars": [""]}).cameras["REAR"]
    assert camera.image_topic == "rear/image_raw/compressed"
    assert camera.info_topic == "rear/camera_info"
    assert camera.offset == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dealine_ms": 3.0}, "parameter dealine_ms: unknown; did you mean deadline_ms?"),
        ({"camera.rear.offset_ms": 3.0}, "parameter camera.rear.offset_ms: unknown"),
        ({"deadline_ms": "soon"}, r"parameter deadline_ms: expected float, got 'soon' \(str\)"),
        ({"deadline_ms": -1.0}, "parameter deadline_ms: expected 0..10000, got -1"),
        ({"precision": "int4"}, "parameter precision: expected one of fp32, fp16, bf16, got 'int4'"),
        ({"cameras": "cam_front"}, "parameter cameras: expected a list of strings, got 'cam_front'"),
        ({"trigger_camera": "rear"}, "parameter trigger_camera: expected one of cameras .*, got 'rear'"),
        ({"cameras": [], "radars": [], "reference": "topic"}, "expected at least one sensor"),
        ({"cameras": ["cam_front", "CAM_FRONT"]}, "a name occurs twice"),
        ({"T_base_from_bev": "1 2 3"}, "parameter T_base_from_bev: expected seven numbers .*, got '1 2 3'"),
        ({"T_base_from_bev": "0 0 0 0 0 0 0"}, "parameter T_base_from_bev: expected seven numbers"),
        ({"radar.radar_front.topic": "cam_front/image_raw/compressed"}, "given to both CAM_FRONT and RADAR_FRONT"),
    ],
)
def test_wrong_value_names_parameter_and_what_is_allowed(values: dict[str, object], message: str):
    with pytest.raises(ParameterError, match=message):
        from_values(values)


def test_whole_number_for_a_decimal_one_is_no_mistake():
    assert from_values({"deadline_ms": 100}).nanoseconds("deadline_ms") == 100_000_000


def test_virtual_bev_frame_is_read_as_position_and_quaternion():
    T = from_values({"T_base_from_bev": "0.9, 0, 1.8, 0, 0, -0.7071068, 0.7071068"}).T_base_from_bev
    assert T is not None
    # The network's x (right) is the vehicle's -y, its y (forward) the vehicle's x.
    np.testing.assert_allclose(T, [[0, 1, 0, 0.9], [-1, 0, 0, 0], [0, 0, 1, 1.8], [0, 0, 0, 1]], atol=1e-7)


def test_file_may_use_any_node_name_and_nesting(tmp_path: Path):
    file = tmp_path / "p.yaml"
    file.write_text("/**:\n  ros__parameters:\n    camera: {cam_back: {offset_ms: 5}}\n    use_sim_time: true\n")
    assert load_parameters(file).cameras["CAM_BACK"].offset == 5_000_000
    assert load_parameters(file, {"camera.cam_back.offset_ms": 7.0}).cameras["CAM_BACK"].offset == 7_000_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such parameter file"),
        ("a: [", "not a readable YAML file"),
        ("checkpoint: here\n", "expected one 'ros__parameters' mapping, found 0"),
        ("n: {ros__parameters: {colour: red}}\n", "parameter colour: unknown"),
    ],
)
def test_unusable_file_is_one_clear_line(tmp_path: Path, content: str | None, message: str):
    file = tmp_path / "p.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ParameterError, match=message) as error:
        load_parameters(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_every_time_reaches_the_assembler_in_nanoseconds():
    given = {
        "deadline_ms": 101.0,
        "camera_slop_ms": 102.0,
        "camera_min_period_ms": 103.0,
        "radar_slop_ms": 104.0,
        "radar_min_period_ms": 105.0,
        "radar_staleness_ms": 106.0,
        "radar_max_age_ms": 107.0,
        "silent_ms": 108.0,
        "stale_after_ms": 109.0,
        "jump_ms": 110.0,
    }
    config = from_values(given).assembler(sweeps=4, replay=False)
    assert {name: getattr(config, name.removesuffix("_ms")) for name in given} == {
        name: round(value * 1e6) for name, value in given.items()
    }
    assert config.sweeps == 4
    assert config.cameras["CAM_FRONT_LEFT"] == -44_200_000
    assert config.deadline_clock == "now"


def test_a_sensor_may_have_times_of_its_own():
    own = {"camera.cam_back.slop_ms": 80.0, "radar.radar_front.slop_ms": 0.0, "radar.radar_front.staleness_ms": 900.0}
    config = from_values(own).assembler(sweeps=4, replay=False)
    assert [config.slop(name) for name in ("CAM_BACK", "CAM_FRONT", "RADAR_FRONT", "RADAR_BACK_LEFT")] == [
        80_000_000,
        config.camera_slop,
        0,
        config.radar_slop,
    ]
    assert config.staleness("RADAR_FRONT") == 900_000_000
    assert config.staleness("RADAR_BACK_LEFT") == config.radar_staleness


def test_a_replay_waits_in_message_time_and_gives_no_sensor_up():
    config = from_values({"deadline_ms": 100.0}).assembler(sweeps=6, replay=True)
    assert config.deadline_clock == "messages"
    assert config.deadline >= 500_000_000
    assert (config.silent, config.stale_after) == (0, 0)


@pytest.mark.parametrize(
    ("reference", "trigger", "at_instant"),
    [("instant", "CAM_FRONT", True), ("camera", "CAM_FRONT", False), ("topic", None, False)],
)
def test_reference_says_what_makes_a_frame(reference: str, trigger: str | None, at_instant: bool):
    config = from_values({"reference": reference}).assembler(sweeps=6, replay=False)
    assert (config.trigger, config.at_instant) == (trigger, at_instant)


def test_an_override_that_is_wrong_is_not_blamed_on_the_file(tmp_path: Path):
    file = tmp_path / "p.yaml"
    file.write_text("n: {ros__parameters: {score_threshold: 0.1}}\n")
    with pytest.raises(ParameterError, match=r"p.yaml and overrides: parameter score_threshold: expected -1..1, got 7"):
        load_parameters(file, {"score_threshold": 7.0})
