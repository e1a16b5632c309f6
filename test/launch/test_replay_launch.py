"""replay.launch.py: which player plays, and what it waits for."""

from types import ModuleType

import pytest
from launch_file import command, context_of, load

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
        player(module, player="ros2")


def test_arguments_of_the_detector_are_its_own_too(module: ModuleType):
    found = {argument.name for argument in module.generate_launch_description().get_launch_arguments()}
    assert {"bag", "out", "lossless", "checkpoint", "rviz", "image_topics"} <= found
