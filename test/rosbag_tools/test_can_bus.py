"""CAN bus files by their published fields, as messages and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes import load_index
from crkd_ros import topics
from crkd_ros.conversions import stamp_of
from rosbag_tools.bags import BagMessage, open_bag
from rosbag_tools.can_bus import can_rows, can_streams
from rosbag_tools.scene_bag import convert_scene

START_US = 1_600_000_000_000_000


def imu(us: int) -> dict[str, Any]:
    return {"linear_accel": [0.1, -0.2, 9.8], "q": [0.8, 0.0, 0.0, 0.6], "rotation_rate": [0.01, 0.02, -0.3],
            "utime": START_US + us}  # fmt: skip


def pose(us: int) -> dict[str, Any]:
    return {"accel": [0.5, 0.0, 9.7], "orientation": [0.8, 0.0, 0.0, 0.6], "pos": [100.0 + us * 1e-5, 50.0, 0.0],
            "rotation_rate": [0.0, 0.0, 0.2], "utime": START_US + us, "vel": [10.0, 0.0, 0.0]}  # fmt: skip


def monitor(us: int) -> dict[str, Any]:
    return {"available_distance": 101, "battery_level": 62, "brake": 0, "steering": -14.2, "utime": START_US + us,
            "vehicle_speed": 36.25, "yaw_rate": 0.1}  # fmt: skip


def write_can(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Half a second before the drive to half a second after it."""
    rows = {"ms_imu": [imu(us) for us in range(-500_000, 1_000_000, 10_000)],
            "pose": [pose(us) for us in range(-500_000, 1_000_000, 20_000)],
            "vehicle_monitor": [monitor(us) for us in range(-500_000, 1_000_000, 500_000)]}  # fmt: skip
    (root / "can_bus").mkdir()
    for name, content in rows.items():
        (root / "can_bus" / f"scene-tiny_{name}.json").write_text(json.dumps(content))
    (root / "can_bus" / "scene-tiny_route.json").write_text("[[1.0, 2.0]]")
    (root / "can_bus" / "scene-tiny_meta.json").write_text("{}")
    return rows


def converted(root: Path, tmp_path: Path) -> dict[str, list[BagMessage]]:
    convert_scene(load_index(root, "v1.0-mini"), "scene-tiny", tmp_path / "bag")
    found: dict[str, list[BagMessage]] = {}
    with open_bag(tmp_path / "bag") as bag:
        for m in bag.messages():
            found.setdefault(m.topic, []).append(m)
    return found


def test_can_messages_lie_within_the_drive_at_their_own_times(tiny: Path, tmp_path: Path) -> None:
    write_can(tiny)
    found = converted(tiny, tmp_path)
    first, last = found[topics.TF][0].stamp, found[topics.TF][-1].stamp
    for topic, count in ((topics.IMU, 56), (topics.CAN_POSE, 28), ("/can_bus/vehicle_monitor", 2)):
        assert len(found[topic]) == count
        assert all(first <= m.stamp <= last and stamp_of(m.message.header.stamp) == m.stamp for m in found[topic])
    assert "/can_bus/route" not in found
    message = found[topics.IMU][0].message
    assert (message.linear_acceleration.z, message.angular_velocity.z, message.orientation.w) == (9.8, -0.3, 0.8)
    odometry = found[topics.CAN_POSE][0].message
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("map", "base_link")
    assert (odometry.pose.pose.position.x, odometry.twist.twist.linear.x) == (100.0, 10.0)
    [status] = found["/can_bus/vehicle_monitor"][0].message.status
    assert {v.key: v.value for v in status.values}["vehicle_speed"] == "36.25"


def test_rows_come_back(tiny: Path, tmp_path: Path) -> None:
    rows = write_can(tiny)
    converted(tiny, tmp_path)
    with open_bag(tmp_path / "bag") as bag:
        back = can_rows(bag)
    assert back.keys() == rows.keys()
    for name, content in rows.items():
        times = {row["utime"] for row in back[name]}
        assert back[name] == [row for row in content if row["utime"] in times]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("[{", "copy the file again"), ('[{"utime": 1}]', "missing required field"), ("{}", "Expected `array`")],
)
def test_damaged_file_is_named(tiny: Path, content: str, complaint: str) -> None:
    write_can(tiny)
    (tiny / "can_bus" / "scene-tiny_pose.json").write_text(content)
    with pytest.raises(DataError, match=f"scene-tiny_pose.json: .*{complaint}"):
        list(can_streams(tiny, "scene-tiny"))


@pytest.mark.nuscenes
def test_real_can_pose_agrees_with_the_localisation(nuscenes_root: Path, tmp_path: Path) -> None:
    found = sorted(nuscenes_root.glob("can_bus_*_pose.json"))
    if not found:
        pytest.skip("no CAN bus file")
    scene = found[0].name.split("_")[2]
    root = tmp_path / "root"
    (root / "can_bus").mkdir(parents=True)
    shutil.copy(found[0], root / "can_bus" / f"{scene}_pose.json")
    for folder in ("v1.0-mini", "samples", "maps"):
        (root / folder).symlink_to(nuscenes_root / folder)
    convert_scene(load_index(root, "v1.0-mini"), scene, tmp_path / "bag")
    with open_bag(tmp_path / "bag") as bag:
        odometry = {m.stamp: m.message.twist.twist.linear.x for m in bag.messages([topics.ODOMETRY])}
        speeds = {m.stamp: m.message.twist.twist.linear.x for m in bag.messages([topics.CAN_POSE])}
    assert len(speeds) > 100
    times = np.array(sorted(odometry))
    near = [odometry[int(times[np.abs(times - stamp).argmin()])] for stamp in speeds]
    errors = np.abs(np.array(list(speeds.values())) - near)
    assert np.median(errors) < 0.15, "m/s"
    assert errors.max() < 1.0
