"""What RViz and Foxglove show: files that they can read, and topics that somebody publishes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crkd_ros import topics
from crkd_ros.inputs import absolute
from crkd_ros.specs import DEFAULT_CAMERAS, DEFAULT_RADARS, SPECS

CONFIG = Path(__file__).resolve().parents[2] / "config"
LIDAR = topics.points_topic(topics.BEV_FRAME)
OUTPUTS = {spec.name: absolute(str(spec.default)) for spec in SPECS if spec.name.endswith("_topic")}
PUBLISHED = {
    *OUTPUTS.values(),
    *map(topics.image_topic, DEFAULT_CAMERAS),
    *map(topics.camera_info_topic, DEFAULT_CAMERAS),
    *map(topics.points_topic, DEFAULT_RADARS),
    *(LIDAR, topics.MAP, topics.GROUND_TRUTH_MARKERS, "/diagnostics"),
}


@pytest.fixture(scope="module")
def foxglove() -> dict[str, Any]:
    layout: dict[str, Any] = json.loads((CONFIG / "foxglove" / "detector.json").read_text())
    return layout


@pytest.fixture(scope="module")
def rviz() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CONFIG / "rviz" / "detector.rviz").read_text())
    return config


def texts(value: Any) -> Iterator[str]:
    """Every string in it, keys too."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def named_topics(value: Any) -> set[str]:
    """The topics in it; of a message path (/topic.field) the topic."""
    return {text.split(".")[0] for text in texts(value) if text.startswith("/")}


def leaves(layout: Any) -> list[str]:
    """The panels of a Foxglove layout."""
    return [layout] if isinstance(layout, str) else leaves(layout["first"]) + leaves(layout["second"])


def test_every_topic_is_one_that_a_node_or_a_bag_publishes(foxglove: dict[str, Any], rviz: dict[str, Any]):
    timing = {topic for topic in named_topics(foxglove) if topic.startswith(f"{OUTPUTS['timing_topic']}/")}
    assert named_topics(foxglove) - PUBLISHED - timing == set()
    assert named_topics(rviz) - PUBLISHED == set()


@pytest.mark.ros
def test_every_stage_that_is_plotted_is_timed(foxglove: dict[str, Any]):
    from crkd_ros.nodes.outputs import STAGES

    paths = [curve["value"] for curve in foxglove["configById"]["Plot!latency"]["paths"]]
    timed = {f"{OUTPUTS['timing_topic']}/{stage}.data" for stage in STAGES}
    assert len(paths) == 4
    assert set(paths) <= timed


def test_every_panel_of_foxglove_has_its_place(foxglove: dict[str, Any]):
    assert sorted(leaves(foxglove["layout"])) == sorted(foxglove["configById"])


def test_foxglove_shows_all_cameras_with_boxes_and_the_birds_eye_view(foxglove: dict[str, Any]):
    panels = foxglove["configById"]
    boxes = OUTPUTS["markers_topic"]
    cameras = {name: panel for name, panel in panels.items() if name.startswith("Image!")}
    shown = {panel["imageMode"]["imageTopic"] for panel in cameras.values()}
    assert shown == {topics.image_topic(camera) for camera in DEFAULT_CAMERAS}
    for panel in (*cameras.values(), panels["3D!bev"]):
        assert panel["topics"][boxes]["visible"]
    for name, panel in cameras.items():
        # Boxes are drawn into an image by the intrinsics of the same camera.
        camera = name.removeprefix("Image!")
        assert panel["imageMode"]["imageTopic"] == topics.image_topic(camera)
        assert panel["imageMode"]["calibrationTopic"] == topics.camera_info_topic(camera)


def test_rviz_shows_all_cameras_with_boxes_and_the_birds_eye_view(rviz: dict[str, Any]):
    manager = rviz["Visualization Manager"]
    shown = {display["Topic"]["Value"] for display in manager["Displays"] if "Topic" in display and display["Enabled"]}
    assert {OUTPUTS["markers_topic"], OUTPUTS["mosaic_topic"], *map(topics.points_topic, DEFAULT_RADARS)} <= shown
    assert manager["Views"]["Current"]["Class"] == "rviz_default_plugins/TopDownOrtho"
    assert manager["Global Options"]["Fixed Frame"] == topics.BASE_FRAME
    names = [display["Name"] for display in manager["Displays"]]
    (camera,) = (display for display in manager["Displays"] if display["Class"].endswith("/Camera"))
    assert set(camera["Visibility"]) - {"Value"} <= set(names)


def test_rviz_asks_for_no_more_than_sensors_offer(rviz: dict[str, Any]):
    for display in rviz["Visualization Manager"]["Displays"]:
        topic = display.get("Topic", {})
        if topic.get("Value", "").startswith(("/cam_", "/radar_")):
            assert topic["Reliability Policy"] == "Best Effort", display["Name"]
