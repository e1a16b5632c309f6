"""Declares ``crkd_ros.parameters`` on an rclpy node."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from crkd_ros.parameters import DetectorParameters, from_values
from crkd_ros.specs import SPECS, ParameterError, Spec, Value, camera_specs, radar_specs

BUILT_IN = ("use_sim_time", "start_type_description_service", "qos_overrides")


def declared_parameters(node: Node) -> DetectorParameters:
    """Declare every parameter of the detector on a node, and read them.

    Raises:
        ParameterError: a value that cannot be used, or a name that is not known.
    """
    specs = list(SPECS)
    _declare(node, SPECS)
    for name in _names(node, "cameras"):
        specs += camera_specs(name)
        _declare(node, camera_specs(name))
    for name in _names(node, "radars"):
        specs += radar_specs(name)
        _declare(node, radar_specs(name))
    known = {spec.name for spec in specs}
    # rclpy keeps what a file or the command line gives, and ignores what nobody declares: a misspelt name would
    # silently have no effect.
    given = getattr(node, "_parameter_overrides", {})
    unknown = {name: None for name in given if name not in known and name.split(".")[0] not in BUILT_IN}
    values = {name: node.get_parameter(name).value for name in known}
    return from_values({**values, **unknown}, source=f"node {node.get_name()}")


def changed_values(parameters: list[Parameter[Any]]) -> dict[str, Value]:
    """The values of those parameters that may change while the node runs."""
    specs = {spec.name: spec for spec in SPECS if spec.changeable}
    return {p.name: specs[p.name].checked(p.value) for p in parameters if p.name in specs}


def check_changes(parameters: list[Parameter[Any]]) -> SetParametersResult:
    """Whether parameters may be set to these values while the node runs, and why not."""
    try:
        changed_values(parameters)  # the read-only ones are refused by rclpy itself
    except ParameterError as error:
        return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def _names(node: Node, parameter: str) -> list[str]:
    value = node.get_parameter(parameter).value
    return [name for name in value if name] if isinstance(value, (list, tuple)) else []


def _declare(node: Node, specs: tuple[Spec, ...]) -> None:
    try:
        node.declare_parameters("", [(spec.name, spec.default, _descriptor(spec)) for spec in specs])
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        raise ParameterError(f"node {node.get_name()}: {error}") from None


def _descriptor(spec: Spec) -> ParameterDescriptor:
    several = "some" if isinstance(spec.default, list) else "one"
    descriptor = ParameterDescriptor(
        description=spec.description,
        read_only=not spec.changeable,
        additional_constraints="" if spec.choices is None else f"{several} of {', '.join(spec.choices)}",
        dynamic_typing=isinstance(spec.default, float),  # 100 for 100.0 is no mistake
    )
    if spec.range is not None and isinstance(spec.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=spec.range[0], to_value=spec.range[1])]
    elif spec.range is not None:
        low, high = (int(limit) for limit in spec.range)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor
