from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crkd_core.geometry.transforms import transform
from crkd_ros.conversions import (
    ConversionError,
    Messages,
    duration_message,
    header_message,
    odometry_message,
    pose_of_odometry,
    stamp_of,
    tf_message,
    time_message,
    transform_message,
    transform_of,
    transform_stamped_message,
)

STAMP = 1_538_984_233_547_259_123
# A vehicle far from the origin, rolled, pitched and yawed; the quaternion's w is the smallest component.
T_MAP_FROM_BASE = transform([-0.11, 0.52, -0.35, 0.77], [1754.123456789, -18100.000000123, 1.5])


@pytest.mark.parametrize("stamp", [0, 1, 999_999_999, 1_000_000_000, STAMP])
def test_stamps_keep_every_nanosecond(messages: Messages, sent: Callable[[Any], Any], stamp: int) -> None:
    assert stamp_of(sent(time_message(messages, stamp))) == stamp


@pytest.mark.parametrize("seconds", [2**31, -(2**31) - 1])
def test_times_beyond_32_bits_are_refused(messages: Messages, seconds: int) -> None:
    with pytest.raises(ConversionError, match="before January 2038"):
        time_message(messages, seconds * 10**9)


def test_durations_carry_into_seconds(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = sent(duration_message(messages, 1.25))
    assert (message.sec, message.nanosec) == (1, 250_000_000)


def test_header_holds_stamp_and_frame(messages: Messages, sent: Callable[[Any], Any]) -> None:
    header = sent(header_message(messages, STAMP, "cam_front"))
    assert (stamp_of(header.stamp), header.frame_id) == (STAMP, "cam_front")


def test_transform_round_trip_is_exact(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = sent(transform_message(messages, T_MAP_FROM_BASE))
    np.testing.assert_allclose(transform_of(message), T_MAP_FROM_BASE, rtol=0, atol=1e-9)


def test_transform_maps_points_of_the_child_to_the_parent(messages: Messages, sent: Callable[[Any], Any]) -> None:
    # Child 2 m ahead of the parent, turned left by 90 degrees: what lies ahead of the child lies left of it.
    half = np.sqrt(0.5)
    stamped = messages.TransformStamped(
        child_frame_id="radar_left",
        transform=messages.Transform(
            translation=messages.Vector3(x=2.0), rotation=messages.Quaternion(z=half, w=half, x=0.0, y=0.0)
        ),
    )
    T_base_from_radar = transform_of(sent(stamped))
    np.testing.assert_allclose(T_base_from_radar @ [5, 0, 0, 1], [2, 5, 0, 1], atol=1e-12)


def test_tf_message_names_parent_and_child(messages: Messages, sent: Callable[[Any], Any]) -> None:
    moved = transform_stamped_message(messages, T_MAP_FROM_BASE, stamp=STAMP, parent="map", child="base_link")
    (found,) = sent(tf_message(messages, [moved])).transforms
    assert (found.header.frame_id, found.child_frame_id, stamp_of(found.header.stamp)) == ("map", "base_link", STAMP)
    np.testing.assert_allclose(transform_of(found), T_MAP_FROM_BASE, rtol=0, atol=1e-9)


def test_odometry_round_trip(messages: Messages, sent: Callable[[Any], Any]) -> None:
    message = sent(
        odometry_message(
            messages,
            T_MAP_FROM_BASE,
            stamp=STAMP,
            world="map",
            base="base_link",
            linear=np.array([4.0, -0.1, 0.02]),
            angular=np.array([0.01, 0.02, -0.35]),
        )
    )
    np.testing.assert_allclose(pose_of_odometry(message), T_MAP_FROM_BASE, rtol=0, atol=1e-9)
    twist = message.twist.twist
    assert (twist.linear.x, twist.linear.y, twist.angular.z) == (4.0, -0.1, -0.35)
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")


def test_zero_quaternion_is_refused_with_its_frames(messages: Messages) -> None:
    stamped = transform_stamped_message(messages, np.eye(4), stamp=0, parent="base_link", child="cam_back")
    stamped.transform.rotation.w = 0.0
    with pytest.raises(ConversionError, match=r"base_link -> cam_back.*quaternion"):
        transform_of(stamped)


def test_translation_that_is_not_a_number_is_refused() -> None:
    nan = SimpleNamespace(x=np.nan, y=0.0, z=0.0)
    message = SimpleNamespace(translation=nan, rotation=SimpleNamespace(w=1.0, x=0.0, y=0.0, z=0.0))
    with pytest.raises(ConversionError, match="translation is not finite"):
        transform_of(message)
