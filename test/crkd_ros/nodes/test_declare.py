"""Parameters of a real node."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from crkd_ros.nodes.declare import check_changes, declared_parameters  # noqa: E402
from crkd_ros.parameters import from_values  # noqa: E402
from crkd_ros.specs import DEFAULT_CAMERAS, DEFAULT_RADARS, ParameterError, specs_for  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def make() -> Iterator[Callable[..., Node]]:
    """Makes nodes with parameter overrides, in a ROS context of their own."""
    context = rclpy.Context()
    context.init()
    nodes: list[Node] = []

    def make_node(**values: object) -> Node:
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        nodes.append(Node("detector", context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make_node
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


def test_defaults_of_the_node_are_those_of_the_file(make: Callable[..., Node]):
    assert declared_parameters(make()).values == from_values({}).values


def test_parameters_of_configured_sensors_are_declared(make: Callable[..., Node]):
    node = make(cameras=["left", "right"], trigger_camera="right", camera__left__offset_ms=7, radars=[""])
    parameters = declared_parameters(node)
    assert parameters.cameras["LEFT"].offset == 7_000_000
    assert parameters.radars == {}
    assert not node.has_parameter("camera.cam_front.offset_ms")


def test_every_parameter_is_described_and_read_only_unless_it_may_change(make: Callable[..., Node]):
    node = make()
    declared_parameters(node)
    for spec in specs_for(DEFAULT_CAMERAS, DEFAULT_RADARS):
        descriptor = node.describe_parameter(spec.name)
        assert descriptor.description == spec.description
        assert descriptor.read_only is not spec.changeable
        if spec.range is not None:
            [limits] = [*descriptor.floating_point_range, *descriptor.integer_range]
            assert (limits.from_value, limits.to_value) == spec.range


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dedline_ms": 3.0}, "node detector: parameter dedline_ms: unknown; did you mean deadline_ms?"),
        ({"precision": "int4"}, "node detector: parameter precision: expected one of fp32, fp16, bf16, got 'int4'"),
        ({"cameras": "cam_front"}, "node detector: .*cameras"),
        ({"deadline_ms": -5.0}, "node detector: .*deadline_ms"),
    ],
)
def test_wrong_override_is_refused(make: Callable[..., Node], values: dict[str, object], message: str):
    node = make(**values)
    with pytest.raises(ParameterError, match=message):
        declared_parameters(node)


def test_thresholds_and_classes_may_change_within_their_limits_and_the_device_may_not(make: Callable[..., Node]):
    node = make()
    declared_parameters(node)
    node.add_on_set_parameters_callback(check_changes)

    def set_one(name: str, value: object) -> bool:
        [result] = node.set_parameters([Parameter(name, value=value)])
        return bool(result.successful)

    assert set_one("score_threshold", 0.4)
    assert set_one("score_threshold", 1)
    assert not set_one("score_threshold", 1.5)
    assert not set_one("score_threshold", "high")
    assert not set_one("device", "cuda")
    assert set_one("class_threshold.car", 0.3)
    assert not set_one("class_threshold.car", -0.3)
    assert set_one("classes", ["car", "bus"])
    assert not set_one("classes", ["car", "cow"])
    assert not set_one("classes", [""])
    assert node.get_parameter("classes").value == ["car", "bus"]
    assert node.get_parameter("score_threshold").value == 1
