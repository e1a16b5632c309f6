"""The interface text describes the same types as a ROS distribution's packages: ROS 2 compares their hashes.

The expected values are those of the packages that ROS distributions ship. Comments do not enter a hash; the names,
order and types of the fields do, and so do the types they consist of.
"""

import json
import os
import sys
from pathlib import Path

import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

INTERFACES = Path(__file__).resolve().parents[2] / "interfaces"

EXPECTED = {
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
    "vision_msgs/msg/Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "vision_msgs/msg/LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "vision_msgs/msg/VisionInfo": "95d3116a17484ad91c9a2686e1d54890bbfc3ff6c6a2de137738c4950d45d284",
}


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_text_gives_the_hash_of_the_distributed_package(name: str, expected: str) -> None:
    store = get_typestore(Stores.ROS2_KILTED)
    package, _, _ = name.split("/")
    for path in sorted((INTERFACES / package / "msg").glob("*.msg")):
        definitions = get_types_from_msg(path.read_text(), f"{package}/msg/{path.stem}")
        store.register({key: value for key, value in definitions.items() if key not in store.fielddefs})
    assert store.hash_rihs01(name) == f"RIHS01_{expected}"


def installed_description(package: str, message: str) -> Path:
    """The type description that an interface package installs, in this environment or a sourced distribution."""
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    for prefix in filter(None, prefixes):
        path = Path(prefix) / "share" / package / "msg" / f"{message}.json"
        if path.exists():
            return path
    pytest.skip(f"{package} has no type descriptions (ROS distributions before Iron have none)")


@pytest.mark.ros
@pytest.mark.parametrize(("name", "expected"), EXPECTED.items())
def test_installed_package_has_the_hash_of_the_distributed_package(name: str, expected: str) -> None:
    package, _, message = name.split("/")
    description = installed_description(package, message)
    hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(description.read_text())["type_hashes"]}
    assert hashes[name] == f"RIHS01_{expected}"


@pytest.mark.ros
def test_detections_survive_serialisation() -> None:
    from rclpy.serialization import deserialize_message, serialize_message
    from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id = "car"
    hypothesis.hypothesis.score = 0.5
    detection = Detection3D(results=[hypothesis], id="7")
    detection.bbox.size.x = 4.0
    message = Detection3DArray(detections=[detection])

    assert deserialize_message(serialize_message(message), Detection3DArray) == message


@pytest.mark.ros
def test_every_message_of_the_text_is_importable() -> None:
    from importlib import import_module

    for path in sorted(INTERFACES.glob("*/msg/*.msg")):
        module = import_module(f"{path.parts[-3]}.msg")
        assert hasattr(module, path.stem), f"{path.parts[-3]} has no {path.stem}"
