"""The manifest that rosdep and colcon read."""

import ast
from pathlib import Path
from xml.etree import ElementTree as ET

from crkd_ros.backends.distribution import MODULES
from crkd_ros.conversions.messages import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
ROS_PACKAGES = ("rclpy", "launch", "launch_ros", "ament_index_python")


def imported(*folders: str) -> set[str]:
    """Top-level names that the sources in some folders import."""
    names: set[str] = set()
    for path in [path for folder in folders for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names.add(node.module)
    return {name.split(".")[0] for name in names}


def depended_on() -> set[str]:
    root = ET.parse(ROOT / "package.xml").getroot()  # noqa: S314  # our own file
    return {element.text or "" for element in root.iter("exec_depend")}


def test_ros_packages_depended_on_are_those_imported():
    names = imported("crkd_ros", "rosbag_tools", "launch")
    used = {name for name in names if name in ROS_PACKAGES or name.endswith(("_msgs", "_interfaces"))}
    declared = {name for name in depended_on() if not name.startswith("python3-")}
    assert declared == used | set(PACKAGES.values()) | set(MODULES.values())


def test_the_core_needs_no_ros_package():
    assert not {name for name in imported("crkd_core", "training") if name in depended_on()}
