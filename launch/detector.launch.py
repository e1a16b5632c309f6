"""Start the detector: ``ros2 launch crkd_ros detector.launch.py device:=cuda precision:=fp16 rviz:=true``.

Every parameter of the node is an argument, but for those of single sensors; one that is given wins over
``params_file``. ``--show-args`` lists them all.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.substitutions import ExecutableInPackage

from crkd_core.cli import UserError
from crkd_ros.launch_arguments import (
    descriptions,
    parameter_values,
    parameters_of,
    recorded_topics,
    renamed_topics,
)

CONFIG = Path(get_package_share_directory("crkd_ros")) / "config"
LAYOUT = CONFIG / "foxglove" / "detector.json"
OPTIONS = {
    "params_file": ("", "ROS 2 parameter file of the node (empty: its defaults, as in config/detector.yaml)"),
    "namespace": ("", "namespace of node and relative topics"),
    "use_sim_time": ("false", "follow /clock"),
    "log_level": ("info", "debug, info, warn or error"),
    "rviz": ("false", "show cameras, boxes and velocities in RViz"),
    "rviz_config": (str(CONFIG / "rviz" / "detector.rviz"), "what RViz shows"),
    "foxglove": ("false", "start foxglove_bridge"),
    "foxglove_port": ("8765", "its WebSocket port"),
    "record": ("", "bag to write the answers to (MCAP); must not exist"),
    "record_inputs": ("false", "record everything the detector reads, too"),
}
"""Arguments that are no parameters of the node, with their default and meaning; true and false are a choice."""

VIEWERS = {"rviz": "rviz2", "foxglove": "foxglove_bridge"}
"""Argument -> the package that it needs."""


def generate_launch_description() -> LaunchDescription:
    """All arguments, and the processes that are made of them."""
    parameters = {
        name: ("", f"{text} (empty: as in params_file, else the default)") for name, text in descriptions().items()
    }
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=text,
            choices=["true", "false"] if default in ("true", "false") else None,
        )
        for name, (default, text) in {**OPTIONS, **parameters}.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=processes)])


def processes(context: LaunchContext) -> list[Action]:
    """The node and what was asked for beside it, once the arguments are known."""

    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    params_file, namespace = argument("params_file"), argument("namespace")
    for switch, package in VIEWERS.items():
        if argument(switch) == "true":
            require(package, switch)
    sim_time = {"use_sim_time": argument("use_sim_time") == "true"}
    values = parameter_values({name: argument(name) for name in descriptions()}, params_file)
    found: list[Action] = [
        Node(
            package="crkd_ros",
            executable="detector_node",
            name="detector",
            namespace=namespace,
            parameters=[*([params_file] if params_file else []), {**values, **sim_time}],
            arguments=["--ros-args", "--log-level", argument("log_level")],
            output="screen",
            on_exit=Shutdown(reason="the detector has ended"),
        )
    ]
    if argument("rviz") == "true":
        renamed = renamed_topics(parameters_of(values, params_file), namespace)
        found.append(
            Node(
                package=VIEWERS["rviz"],
                executable="rviz2",
                name="rviz",
                arguments=["-d", argument("rviz_config")],
                parameters=[sim_time],
                remappings=renamed,
            )
        )
    if argument("foxglove") == "true":
        port = int(argument("foxglove_port"))
        bridge = {"package": "foxglove_bridge", "executable": "foxglove_bridge", "name": "foxglove_bridge"}
        found.append(Node(**bridge, parameters=[{"port": port, **sim_time}]))
        found.append(LogInfo(msg=f"Foxglove: open ws://localhost:{port} with the layout {LAYOUT}"))
    if record := argument("record"):
        inputs = argument("record_inputs") == "true"
        topics = recorded_topics(parameters_of(values, params_file), namespace, inputs=inputs)
        command = [ExecutableInPackage("record_bag", "crkd_ros"), *topics, "--out", record]
        command += ["--use-sim-time"] if sim_time["use_sim_time"] else []
        found.append(ExecuteProcess(cmd=command, name="record_bag", output="screen"))
    return found


def require(package: str, switch: str) -> None:
    """Refuse a viewer that is not installed before anything starts: launch would leave the detector behind.

    Raises:
        UserError: there is no such package.
    """
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        name = package.replace("_", "-")
        raise UserError(f"{switch}:=true needs the package {package}: apt install ros-$ROS_DISTRO-{name}") from None
