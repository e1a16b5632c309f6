"""The CAN bus expansion of nuScenes (``can_bus/scene-0916_ms_imu.json`` and its like) as messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from crkd_core.data.errors import DataError
from crkd_ros import topics
from crkd_ros.conversions import header_message, stamp_of
from rosbag_tools.bags import Bag
from rosbag_tools.typestore import bag_message, bag_messages, serialised

FOLDER = "can_bus"
NOT_MESSAGES = ("meta", "route")
"""Files of the expansion that hold a summary and a path, no messages over time."""

CanStream = tuple[str, str, NDArray[np.int64], Callable[[int], bytes]]
"""Topic, message type, stamps (ns), and row -> CDR bytes."""

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class ImuRow(msgspec.Struct):
    """``ms_imu``: 100 Hz, in the vehicle's frame; the orientation is a quaternion (w, x, y, z)."""

    utime: int
    linear_accel: Vector
    q: Quaternion
    rotation_rate: Vector


class PoseRow(msgspec.Struct):
    """``pose``: 50 Hz; position and orientation (w, x, y, z) in the map, the rest in the vehicle's frame."""

    utime: int
    accel: Vector
    orientation: Quaternion
    pos: Vector
    rotation_rate: Vector
    vel: Vector


def can_streams(root: Path, scene: str) -> Iterator[CanStream]:
    """The messages of every CAN bus file of a scene; none where the data root has no ``can_bus`` folder.

    Raises:
        DataError: a file that is damaged, or without the published fields.
    """
    for path in sorted((root / FOLDER).glob(f"{scene}_*.json")):
        name = path.stem.removeprefix(f"{scene}_")
        if name in NOT_MESSAGES:
            continue
        if name == "ms_imu":
            imu = _rows(path, ImuRow)
            yield topics.IMU, "sensor_msgs/msg/Imu", _stamps(imu), partial(_imu, imu)
        elif name == "pose":
            poses = _rows(path, PoseRow)
            yield topics.CAN_POSE, "nav_msgs/msg/Odometry", _stamps(poses), partial(_odometry, poses)
            yield topics.CAN_ACCELERATION, "geometry_msgs/msg/AccelStamped", _stamps(poses), partial(_accel, poses)
        else:
            rows = _rows(path, dict[str, float])
            stamps = np.array([_utime(row, path) for row in rows], dtype=np.int64) * 1000
            yield topics.can_topic(name), "diagnostic_msgs/msg/DiagnosticArray", stamps, partial(_values, rows, name)


def can_rows(bag: Bag) -> dict[str, list[dict[str, Any]]]:
    """Name of a CAN bus file -> its rows, from the messages of ``can_streams``.

    Raises:
        BagError: a damaged bag.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for recorded in bag.messages([topics.IMU]) if bag.has(topics.IMU) else ():
        m = recorded.message
        rows.setdefault("ms_imu", []).append(
            {
                "utime": _microseconds(m),
                "linear_accel": _xyz(m.linear_acceleration),
                "q": _wxyz(m.orientation),
                "rotation_rate": _xyz(m.angular_velocity),
            }
        )
    if bag.has(topics.CAN_POSE) and bag.has(topics.CAN_ACCELERATION):
        accelerations = [recorded.message for recorded in bag.messages([topics.CAN_ACCELERATION])]
        poses = [recorded.message for recorded in bag.messages([topics.CAN_POSE])]
        rows["pose"] = [
            {
                "utime": _microseconds(m),
                "accel": _xyz(a.accel.linear),
                "orientation": _wxyz(m.pose.pose.orientation),
                "pos": _xyz(m.pose.pose.position),
                "rotation_rate": _xyz(m.twist.twist.angular),
                "vel": _xyz(m.twist.twist.linear),
            }
            for m, a in zip(poses, accelerations, strict=True)
        ]
    prefix = topics.can_topic("")
    for topic, content in bag.topics.items():
        if topic.startswith(prefix) and content.type == "diagnostic_msgs/msg/DiagnosticArray":
            rows[topic.removeprefix(prefix)] = [
                {"utime": _microseconds(m.message)}
                | {value.key: float(value.value) for status in m.message.status for value in status.values}
                for m in bag.messages([topic])
            ]
    return rows


def _microseconds(message: Any) -> int:
    return stamp_of(message.header.stamp) // 1000


def _xyz(vector: Any) -> list[float]:
    return [vector.x, vector.y, vector.z]


def _wxyz(quaternion: Any) -> list[float]:
    return [quaternion.w, quaternion.x, quaternion.y, quaternion.z]


def _rows(path: Path, row: Any) -> list[Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[row])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: {error}; copy the file again, or take it away") from None


def _utime(row: dict[str, float], path: Path) -> int:
    if "utime" not in row:
        raise DataError(f"{path}: expected rows with 'utime', got {', '.join(row)}")
    return int(row["utime"])


def _stamps(rows: list[Any]) -> NDArray[np.int64]:
    return np.array([row.utime for row in rows], dtype=np.int64) * 1000


def _imu(rows: list[ImuRow], i: int) -> bytes:
    row, m = rows[i], bag_messages()
    return serialised(
        bag_message("sensor_msgs/msg/Imu")(
            header=header_message(m, row.utime * 1000, topics.BASE_FRAME),
            orientation=_quaternion(row.q),
            angular_velocity=_vector(row.rotation_rate),
            linear_acceleration=_vector(row.linear_accel),
        )
    )


def _odometry(rows: list[PoseRow], i: int) -> bytes:
    row, m = rows[i], bag_messages()
    x, y, z = row.pos
    pose = m.Pose(position=m.Point(x=x, y=y, z=z), orientation=_quaternion(row.orientation))
    twist = m.Twist(linear=_vector(row.vel), angular=_vector(row.rotation_rate))
    return serialised(
        m.Odometry(
            header=header_message(m, row.utime * 1000, topics.MAP_FRAME),
            child_frame_id=topics.BASE_FRAME,
            pose=m.PoseWithCovariance(pose=pose),
            twist=m.TwistWithCovariance(twist=twist),
        )
    )


def _accel(rows: list[PoseRow], i: int) -> bytes:
    row = rows[i]
    header = header_message(bag_messages(), row.utime * 1000, topics.BASE_FRAME)
    accel = bag_message("geometry_msgs/msg/Accel")(linear=_vector(row.accel))
    return serialised(bag_message("geometry_msgs/msg/AccelStamped")(header=header, accel=accel))


def _values(rows: list[dict[str, float]], name: str, i: int) -> bytes:
    """One status without a verdict, whose values are the row's."""
    value, row = bag_message("diagnostic_msgs/msg/KeyValue"), rows[i]
    values = [value(key=key, value=repr(number)) for key, number in sorted(row.items()) if key != "utime"]
    status = bag_message("diagnostic_msgs/msg/DiagnosticStatus")(name=name, values=values)
    header = header_message(bag_messages(), int(row["utime"]) * 1000, topics.BASE_FRAME)
    return serialised(bag_message("diagnostic_msgs/msg/DiagnosticArray")(header=header, status=[status]))


def _vector(xyz: Vector) -> Any:
    x, y, z = xyz
    return bag_messages().Vector3(x=x, y=y, z=z)


def _quaternion(wxyz: Quaternion) -> Any:
    w, x, y, z = wxyz
    return bag_messages().Quaternion(x=x, y=y, z=z, w=w)
