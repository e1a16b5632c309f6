"""Loads a launch file where the launch packages are, which come with a ROS distribution only."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "launch"


def load(name: str) -> ModuleType:
    """The module of a launch file; skips the test where it cannot be loaded."""
    pytest.importorskip("launch_ros", reason="launch comes with a ROS distribution")
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        packages.get_package_share_directory("crkd_ros")
    except packages.PackageNotFoundError:
        pytest.skip("crkd_ros is not built by colcon, or its workspace is not sourced")
    spec = importlib.util.spec_from_file_location(name.replace(".", "_"), FOLDER / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def context_of(module: ModuleType, given: dict[str, str]) -> Any:
    """The context of a launch in which these arguments are given and the others have their defaults."""
    import launch

    context = launch.LaunchContext()
    context.launch_configurations.update(given)
    for argument in module.generate_launch_description().get_launch_arguments():
        argument.execute(context)
    return context


def command(process: Any, context: Any) -> list[str]:
    """The words of a process on its command line; the program without its folder."""
    from launch.utilities import perform_substitutions

    program, *words = [perform_substitutions(context, word) for word in process.cmd]
    return [Path(program).name, *words]
