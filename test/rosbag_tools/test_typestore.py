from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rosbag_tools import typestore as module
from rosbag_tools.typestore import TypestoreError, bag_messages, interfaces_folder, typestore


def test_vision_messages_have_the_official_type_hash() -> None:
    assert typestore().hash_rihs01("vision_msgs/msg/Detection3DArray") == (
        "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018"
    )


def test_default_rotation_is_none_at_all() -> None:
    rotation = bag_messages().Transform().rotation
    assert (rotation.w, rotation.x, rotation.y, rotation.z) == (1.0, 0.0, 0.0, 0.0)


def test_defaults_are_not_shared() -> None:
    first, second = bag_messages().MarkerArray(), bag_messages().MarkerArray()
    first.markers.append(bag_messages().Marker())
    assert second.markers == []


def test_bytes_are_wrapped_without_a_copy() -> None:
    data = bytes(range(10))
    assert np.shares_memory(bag_messages().octets(data), np.frombuffer(data, dtype=np.uint8))


def test_missing_definitions_are_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interfaces_folder()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "lib" / "rosbag_tools" / "typestore.py"))
    with pytest.raises(TypestoreError, match="message definitions: vision_msgs/msg not found"):
        interfaces_folder()
