"""replay.launch.py: which player plays, and what it waits for."""

import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from launch_file import command, context_of, load
from small_drive import write_checkpoint, write_drive

from crkd_ros import topics
from rosbag_tools.bags import open_bag
from rosbag_tools.children import graph_environment

pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load("replay.launch.py")


def player(module: ModuleType, **given: str) -> list[str]:
    """The player's command line, the program by its bare name."""
    context = context_of(module, {"bag": "drive", "out": "found", **given})
    return command(module.player(context, bag="drive", lossless=given.get("lossless", "true") == "true"), context)


def test_waits_for_the_answers_by_default(module: ModuleType):
    assert player(module) == [
        *("play_bag", "drive", "--clock", "--lossless"),
        *("--trigger", "/cam_front/image_raw/compressed", "--answer", "/detections"),
    ]


def test_topics_that_are_waited_for_follow_the_arguments(module: ModuleType):
    words = player(module, namespace="car", image_topics="/{}/jpeg", detections_topic="boxes")
    assert words[-4:] == ["--trigger", "/cam_front/jpeg", "--answer", "/car/boxes"]
    words = player(module, reference="topic", reference_topic="/clicks")
    assert words[-4:] == ["--trigger", "/clicks", "--answer", "/detections"]


def test_real_time_takes_the_distributions_player_where_there_is_one(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "has_rosbag2", lambda: True)
    assert player(module, lossless="false", rate="2") == [
        "ros2",
        "bag",
        "play",
        "drive",
        "--rate",
        "2",
        "--clock",
        "100",
    ]
    assert player(module, lossless="false", player="play_bag")[0] == "play_bag"
    assert player(module)[0] == "play_bag"
    monkeypatch.setattr(module, "has_rosbag2", lambda: False)
    assert player(module, lossless="false", rate="2") == ["play_bag", "drive", "--clock", "--rate", "2"]


def test_a_player_that_cannot_wait_is_refused(module: ModuleType):
    from crkd_ros.specs import ParameterError

    with pytest.raises(ParameterError, match="lossless:=false"):
        module.handlers(context_of(module, {"bag": "drive", "out": "found", "player": "ros2"}))


def test_arguments_of_the_detector_are_its_own_too(module: ModuleType):
    found = {argument.name for argument in module.generate_launch_description().get_launch_arguments()}
    assert {"bag", "out", "lossless", "checkpoint", "rviz", "image_topics"} <= found


@pytest.mark.usefixtures("module")
@pytest.mark.skipif(shutil.which("ros2") is None, reason="ros2 comes with a ROS distribution")
def test_every_frame_of_a_bag_is_answered_and_recorded(tmp_path: Path):
    drive, out = write_drive(tmp_path / "drive"), tmp_path / "out"
    given = {
        "bag": drive,
        "out": out,
        "score": "false",
        "device": "cpu",
        "checkpoint": write_checkpoint(tmp_path / "checkpoint"),
        "cameras": "[cam_front, cam_front_left]",
        "radars": "[radar_front]",
    }
    words = [f"{name}:={value}" for name, value in given.items()]
    environment = {**graph_environment(), "ROS_LOG_DIR": str(tmp_path)}
    command_line = ["ros2", "launch", "crkd_ros", "replay.launch.py", *words]
    result = subprocess.run(command_line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    with open_bag(drive) as played, open_bag(out / "detections") as recorded:
        frames = played.topics[topics.image_topic("cam_front")].count
        assert frames > 10
        counts = [recorded.topics[topic].count for topic in (topics.DETECTIONS, topics.MANIFEST)]
    assert counts == [frames, frames], result.stdout
