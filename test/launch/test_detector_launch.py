"""detector.launch.py: its arguments, and the processes that are made of them."""

from types import ModuleType

import pytest
from launch_file import command, context_of, load

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load("detector.launch.py")


def processes(module: ModuleType, **given: str) -> list[list[str]]:
    """The command line of each process but the node's, which launch completes when it starts it."""
    import launch
    import launch_ros

    context = context_of(module, given)
    started = [found for found in module.processes(context) if isinstance(found, launch.actions.ExecuteProcess)]
    assert isinstance(started[0], launch_ros.actions.Node)
    return [command(process, context) for process in started[1:]]


def test_every_parameter_is_an_argument(module: ModuleType):
    from crkd_ros.launch_arguments import descriptions

    arguments = [argument.name for argument in module.generate_launch_description().get_launch_arguments()]
    assert arguments == [*module.OPTIONS, *descriptions()]


def test_alone_by_default(module: ModuleType):
    assert processes(module) == []


def test_recording_names_all_answers(module: ModuleType):
    (words,) = processes(module, record="answers", namespace="car", use_sim_time="true")
    assert words[:2] == ["record_bag", "/car/detections"]
    assert words[-3:] == ["--out", "answers", "--use-sim-time"]
    assert "/tf" not in words
    (words,) = processes(module, record="answers", record_inputs="true")
    assert {"/tf", "/cam_front/image_raw/compressed", "/radar_front/points"} < set(words)


def test_wrong_values_end_it_at_once(module: ModuleType):
    from crkd_ros.specs import ParameterError

    with pytest.raises(ParameterError, match="precision"):
        processes(module, precision="fp7")


def test_a_viewer_that_is_not_there_is_refused_before_anything_starts(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    def absent(package: str) -> str:
        raise module.PackageNotFoundError(package)

    monkeypatch.setattr(module, "get_package_prefix", absent)
    assert processes(module) == []
    with pytest.raises(module.UserError, match=r"foxglove:=true needs .* ros-\$ROS_DISTRO-foxglove-bridge"):
        processes(module, foxglove="true")


def test_viewers_are_started_beside_it(module: ModuleType, monkeypatch: pytest.MonkeyPatch):
    import launch
    import launch_ros

    monkeypatch.setattr(module, "get_package_prefix", str)
    context = context_of(module, {"rviz": "true", "foxglove": "true", "foxglove_port": "9000", "namespace": "car"})
    found = module.processes(context)
    packages = [node.node_package for node in found if isinstance(node, launch_ros.actions.Node)]
    assert packages == ["crkd_ros", "rviz2", "foxglove_bridge"]
    (hint,) = (action for action in found if isinstance(action, launch.actions.LogInfo))
    said = "".join(part.perform(context) for part in hint.msg)
    assert "ws://localhost:9000" in said
    assert module.LAYOUT.is_file()
    assert str(module.LAYOUT) in said
