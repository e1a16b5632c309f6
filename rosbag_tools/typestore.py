"""Message types for bags: the common interfaces of rosbags, and vision_msgs from the texts in ``interfaces/``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from crkd_core.cli import UserError
from crkd_core.types import FloatArray
from crkd_ros.conversions.messages import PACKAGES, Make, Messages, Octets


class TypestoreError(UserError):
    """The message definitions are not where they belong."""


def interfaces_folder() -> Path:
    """The folder of our ``.msg`` texts: ``interfaces/`` of the source tree, or of the installed share folder.

    Raises:
        TypestoreError: found in neither.
    """
    here = Path(__file__).resolve()
    candidates = [here.parents[1] / "interfaces"]
    candidates += [parent / "share" / "crkd_ros" / "interfaces" for parent in here.parents]
    for folder in candidates:
        if (folder / "vision_msgs" / "msg").is_dir():
            return folder
    raise TypestoreError(f"message definitions: vision_msgs/msg not found in {candidates[0]}; reinstall crkd_ros")


@cache
def typestore() -> Typestore:
    """The type store every bag of this project is written and read with.

    Raises:
        TypestoreError: our message definitions are not found.
    """
    store = get_typestore(Stores.ROS2_KILTED)
    types: dict[str, Any] = {}
    for path in sorted(interfaces_folder().glob("*/msg/*.msg")):
        name = f"{path.parts[-3]}/msg/{path.stem}"
        if name not in store.types:
            types.update(get_types_from_msg(path.read_text(encoding="utf-8"), name))
    store.register(types)
    return store


@cache
def bag_messages() -> Messages:
    """The rosbags message classes, made so that fields not given are zero or empty, as in rclpy.

    Raises:
        TypestoreError: our message definitions are not found.
    """
    makers = {name: _maker(f"{package}/msg/{name}") for name, package in PACKAGES.items()}
    return Messages(octets=_octets, doubles=_doubles, **makers)


def bag_message(typename: str) -> Make:
    """A constructor of any type bags know, such as ``sensor_msgs/msg/Imu``; fields not given are zero or empty.

    Raises:
        TypestoreError: our message definitions are not found.
    """
    return _maker(typename)


def serialised(message: Any) -> bytes:
    """CDR bytes of a rosbags message."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))


def _octets(data: Octets) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def _doubles(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(values, dtype=np.float64)


@cache
def _maker(typename: str) -> Make:
    """A constructor of the type that fills in what it is not given."""
    store = typestore()
    cls = store.types[typename]
    constants: dict[str, Any] = {}
    nested: list[tuple[str, Callable[[], Any]]] = []
    for name, (kind, detail) in store.fielddefs[typename][1]:
        if kind == Nodetype.BASE:
            zeros: dict[Any, Any] = {"string": "", "bool": False, "float32": 0.0, "float64": 0.0}
            constants[name] = zeros.get(detail[0], 0)
        else:
            nested.append((name, _default((kind, detail))))
    if typename == "geometry_msgs/msg/Quaternion":
        constants["w"] = 1.0  # as in the ROS definition

    def make(**fields: Any) -> Any:
        for name, default in nested:
            if name not in fields:
                fields[name] = default()
        return cls(**(constants | fields))

    return make


def _default(description: Any) -> Callable[[], Any]:
    """Makes what a field holds that is not given, anew for every message."""
    kind, detail = description
    if kind == Nodetype.NAME:
        return _maker(detail)
    (inner, inner_detail), length = detail
    count = length if kind == Nodetype.ARRAY else 0
    if inner == Nodetype.BASE and inner_detail[0] != "string":
        dtype = {"bool": "?", "byte": "u1", "char": "u1"}.get(inner_detail[0], inner_detail[0])
        return lambda: np.zeros(count, dtype=dtype)
    element = _default((inner, inner_detail)) if inner == Nodetype.NAME else str
    return lambda: [element() for _ in range(count)]
