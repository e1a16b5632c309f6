"""From the words of a launch command to parameters of the node and to topics; needs neither ROS nor its launch package.

A distribution's ``ros2 launch`` runs in the system's interpreter, which has NumPy and PyYAML but nothing of a virtual
environment: nothing else is imported here.

Every parameter of the node is a launch argument of the same name, but for those of single sensors. What each sensor of
a group has, such as its topic, is one argument with ``{}`` in place of the sensor's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import yaml

from crkd_ros.inputs import absolute, inputs_of
from crkd_ros.parameters import DetectorParameters, from_values, load_parameters
from crkd_ros.specs import SPECS, ParameterError, Spec, Value, camera_specs, radar_specs

OF_EACH_SENSOR = {
    "image_topics": ("camera", "image_topic", "image topics, as '{}/image_raw/compressed'"),
    "info_topics": ("camera", "info_topic", "camera_info topics, as '{}/camera_info'"),
    "rectified": ("camera", "rectified", "whether images are rectified: true or false"),
    "camera_frames": ("camera", "frame_id", "optical frames, as '{}_optical_frame'"),
    "camera_offsets_ms": ("camera", "offset_ms", "0.0 where all cameras fire together"),
    "radar_topics": ("radar", "topic", "radar topics, as '{}/points'"),
    "radar_types": ("radar", "type", "message type of radar topics"),
    "radar_frames": ("radar", "frame_id", "radar frames, as '{}_link'"),
}
"""Launch argument -> group of sensors, parameter of each, meaning; {} stands for the sensor's name."""

RECORDED = ("detections_topic", "velocities_topic", "markers_topic", "manifest_topic", "labels_topic")
SHOWN = (*RECORDED, "mosaic_topic")
DIAGNOSTICS = "/diagnostics"


def descriptions() -> dict[str, str]:
    """Launch argument -> what it is, for all that become parameters of the node."""
    own = {spec.name: f"{spec.description}{_choices(spec)}" for spec in SPECS}
    return {**own, **{name: text for name, (_, _, text) in OF_EACH_SENSOR.items()}}


def _choices(spec: Spec) -> str:
    return f" ({', '.join(spec.choices)})" if spec.choices else ""


def parameters_of(values: Mapping[str, Value], params_file: str) -> DetectorParameters:
    """All parameters of a node that is started with these values and this file (empty: none).

    Raises:
        ParameterError: unreadable file, unknown name, or values that contradict each other.
    """
    return load_parameters(params_file, values) if params_file else from_values(values)


def parameter_values(given: Mapping[str, str], params_file: str) -> dict[str, Value]:
    """The node's parameters that launch arguments give, by name; empty arguments leave the file's values.

    Args:
        given: launch argument -> its text.
        params_file: parameter file that says which sensors there are where ``given`` does not; empty: none.

    Raises:
        ParameterError: a value that a parameter cannot have, or (where sensors are asked for) an unreadable file.
    """
    specs = {spec.name: spec for spec in SPECS}
    values = {name: _value(spec, given[name]) for name, spec in specs.items() if given.get(name)}
    for name, (group, parameter, _) in OF_EACH_SENSOR.items():
        if not given.get(name):
            continue
        sensors = values.get(f"{group}s") or parameters_of({}, params_file).values[f"{group}s"]
        assert isinstance(sensors, list)
        of_group = camera_specs if group == "camera" else radar_specs
        for sensor in sensors:
            found = {spec.name: spec for spec in of_group(sensor)}[f"{group}.{sensor}.{parameter}"]
            values[found.name] = _value(found, given[name].replace("{}", sensor))
    return values


def _value(spec: Spec, text: str) -> Value:
    """A parameter's value from its text; what is meant to be text stays text, whatever YAML would make of it."""
    if isinstance(spec.default, str):
        return spec.checked(text)
    try:
        return spec.checked(yaml.safe_load(text))
    except yaml.YAMLError:
        raise ParameterError(f"parameter {spec.name}: expected a value as in YAML, got '{text}'") from None


def recorded_topics(parameters: DetectorParameters, namespace: str, *, inputs: bool) -> list[str]:
    """Absolute names of what a recording of the detector holds: its answers, and with ``inputs`` what it reads."""
    name = partial(absolute, namespace=_rooted(namespace))
    topics = [*(name(parameters.text(key)) for key in RECORDED), DIAGNOSTICS]
    if inputs:
        topics += [use.topic for use in inputs_of(parameters, namespace=_rooted(namespace))]
    return list(dict.fromkeys(topics))


def renamed_topics(parameters: DetectorParameters, namespace: str) -> list[tuple[str, str]]:
    """Default and actual name of every topic to look at that is not called as by default."""
    name = partial(absolute, namespace=_rooted(namespace))
    pairs = [(absolute(default), name(actual)) for default, actual in _names(parameters)]
    return [(default, actual) for default, actual in pairs if default != actual]


def _names(parameters: DetectorParameters) -> Iterator[tuple[str, str]]:
    defaults = {spec.name: str(spec.default) for spec in SPECS}
    for key in (*SHOWN, "tf_topic", "tf_static_topic"):
        yield defaults[key], parameters.text(key)
    for sensor, camera in parameters.cameras.items():
        image, info, *_ = camera_specs(sensor.lower())
        yield str(image.default), camera.image_topic
        yield str(info.default), camera.info_topic
    for sensor, radar in parameters.radars.items():
        yield str(radar_specs(sensor.lower())[0].default), radar.topic


def _rooted(namespace: str) -> str:
    return f"/{namespace.strip('/')}"
