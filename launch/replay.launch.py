"""Play a bag to the detector and score its answers: ``ros2 launch crkd_ros replay.launch.py bag:=DRIVE out:=FOLDER``.

The answers are recorded to ``out/detections``; once the bag is over they are scored by the official metric, and
everything ends. All arguments of detector.launch.py may be given, too. ``--show-args`` lists them all.

``lossless:=true`` (default): the player waits for the answer to every frame; the figures do not depend on the machine.
``lossless:=false``: real time; the detector drops the frames that it cannot keep up with, as it would on a vehicle.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events.process import ProcessExited, ProcessIO, SignalProcess
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.substitutions import ExecutableInPackage

from crkd_core.cli import UserError
from crkd_ros.inputs import absolute
from crkd_ros.launch_arguments import descriptions, parameter_values, parameters_of
from crkd_ros.specs import ParameterError

DETECTOR = Path(get_package_share_directory("crkd_ros")) / "launch" / "detector.launch.py"
RECORDER_READY = b"recording all topics"
LAST_MESSAGES = 1.0
"""Seconds for what is on its way when the player has ended."""


class ReplayError(UserError):
    """A process of the replay has failed."""


OPTIONS = {
    "lossless": ("true", "wait for the answer to every frame", ["true", "false"]),
    "rate": ("1.0", "speed relative to the recording, with lossless:=false", None),
    "score": ("true", "score the answers; needs annotations in the bag", ["true", "false"]),
    "player": (
        "auto",
        "auto: ros2 bag where rosbag2 is installed and lossless is false, else play_bag",
        ["auto", "ros2", "play_bag"],
    ),
}
"""Arguments with a default, their meaning and choices."""


def generate_launch_description() -> LaunchDescription:
    """All arguments, the detector and its recorder, and what follows."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="drive to play: rosbag2 folder, .mcap or .db3 file"),
            DeclareLaunchArgument("out", description="folder for the answers and their score"),
            *(
                DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
                for name, (default, text, choices) in OPTIONS.items()
            ),
            OpaqueFunction(function=handlers),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(DETECTOR)),
                launch_arguments={
                    "use_sim_time": "true",
                    "drop_frames": PythonExpression(["'", LaunchConfiguration("lossless"), "' == 'false'"]),
                    "record": PathJoinSubstitution([LaunchConfiguration("out"), "detections"]),
                }.items(),
            ),
        ]
    )


def handlers(context: LaunchContext) -> list[Action]:
    """What follows what: the player when the recorder hears the detector, and the score after the recording.

    Raises:
        ParameterError: ``player:=ros2`` with ``lossless:=true``.
    """

    def argument(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    bag, out, lossless = argument("bag"), Path(argument("out")), argument("lossless") == "true"
    if argument("player") == "ros2" and lossless:
        raise ParameterError("argument player: ros2 bag cannot wait for answers; give lossless:=false as well")

    def play(event: ProcessIO) -> list[Action] | None:
        return [player(context, bag=bag, lossless=lossless)] if RECORDER_READY in event.text else None

    def end_recording(event: ProcessExited, _: LaunchContext) -> list[Action]:
        check(event)
        stop = EmitEvent(event=SignalProcess(signal_number=signal.SIGINT, process_matcher=is_recorder))
        return [TimerAction(period=LAST_MESSAGES, actions=[stop])]

    def evaluate(event: ProcessExited, _: LaunchContext) -> list[Action]:
        check(event)
        over = Shutdown(reason="the replay is over")
        return [scorer(bag=bag, out=out)] if argument("score") == "true" else [over]

    def end(event: ProcessExited, _: LaunchContext) -> list[Action]:
        check(event)
        return [LogInfo(msg=f"figures and pictures: {out / 'report.html'}"), Shutdown(reason="the replay is over")]

    return [
        RegisterEventHandler(OnProcessIO(target_action=is_recorder, on_stdout=play)),
        RegisterEventHandler(OnProcessExit(target_action=is_player, on_exit=end_recording)),
        RegisterEventHandler(OnProcessExit(target_action=is_recorder, on_exit=evaluate)),
        RegisterEventHandler(OnProcessExit(target_action=is_scorer, on_exit=end)),
        RegisterEventHandler(OnProcessExit(target_action=is_detector, on_exit=lambda event, _: check(event))),
    ]


def check(event: ProcessExited) -> None:
    """Ends the launch, with an exit code that says so, where one of its processes has failed.

    Raises:
        ReplayError: it has.
    """
    if event.returncode != 0:
        raise ReplayError(f"{event.process_name} failed (exit code {event.returncode}); its message is above")


def player(context: LaunchContext, *, bag: str, lossless: bool) -> ExecuteProcess:
    """``ros2 bag play``, or where it is not or cannot wait for answers, this package's own player."""
    chosen = str(LaunchConfiguration("player").perform(context))
    rate = str(LaunchConfiguration("rate").perform(context))
    if chosen == "ros2" or (chosen == "auto" and not lossless and has_rosbag2()):
        command = ["ros2", "bag", "play", bag, "--rate", rate, "--clock", "100"]
    else:
        own = ["--lossless", *answered_topics(context)] if lossless else ["--rate", rate]
        command = [ExecutableInPackage("play_bag", "crkd_ros"), bag, "--clock", *own]
    return ExecuteProcess(cmd=command, name="player", output="screen")


def answered_topics(context: LaunchContext) -> list[str]:
    """What a player that waits has to know: which messages are answered, and where the answers are."""
    configured = context.launch_configurations
    params_file, namespace = configured["params_file"], f"/{configured['namespace'].strip('/')}"
    values = parameter_values({name: configured[name] for name in descriptions()}, params_file)
    parameters = parameters_of(values, params_file)
    trigger = (
        parameters.text("reference_topic")
        if parameters.trigger is None
        else parameters.cameras[parameters.trigger].image_topic
    )
    names = {"--trigger": trigger, "--answer": parameters.text("detections_topic")}
    return [word for flag, topic in names.items() for word in (flag, absolute(topic, namespace))]


def scorer(*, bag: str, out: Path) -> ExecuteProcess:
    """``evaluate_bag``, with figures and a report."""
    command = [ExecutableInPackage("evaluate_bag", "crkd_ros"), str(out / "detections"), "--input", bag]
    command += ["--out", str(out / "metrics.json"), "--html", str(out / "report.html"), "--no-progress"]
    return ExecuteProcess(cmd=command, name="score", output="screen")


def named(name: str) -> Callable[[Action], bool]:
    """Whether an action is the process of that name; launch appends a number to it."""
    return lambda action: isinstance(action, ExecuteProcess) and str(action.name).startswith(name)


is_detector, is_recorder, is_player, is_scorer = (
    named("detector_node"),
    named("record_bag"),
    named("player"),
    named("score"),
)


def has_rosbag2() -> bool:
    """Whether ``ros2 bag`` can be called."""
    try:
        get_package_share_directory("ros2bag")
    except PackageNotFoundError:
        return False
    return True
