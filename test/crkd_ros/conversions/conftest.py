"""Both kinds of messages: of rosbags always, of rclpy where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crkd_ros.conversions import Messages, ros_messages
from rosbag_tools.typestore import bag_messages, typestore

KINDS = [pytest.param("rosbags"), pytest.param("rclpy", marks=pytest.mark.ros)]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which library's messages."""
    return str(request.param)


@pytest.fixture
def messages(kind: str) -> Messages:
    """The classes to make messages of."""
    return bag_messages() if kind == "rosbags" else ros_messages()


@pytest.fixture
def sent(kind: str) -> Callable[[Any], Any]:
    """What arrives of a message: serialised and deserialised, so that a field of the wrong type shows."""

    def by_rosbags(message: Any) -> Any:
        store, name = typestore(), message.__msgtype__
        return store.deserialize_cdr(store.serialize_cdr(message, name), name)

    def by_rclpy(message: Any) -> Any:
        from rclpy.serialization import deserialize_message, serialize_message

        return deserialize_message(serialize_message(message), type(message))

    return by_rosbags if kind == "rosbags" else by_rclpy
