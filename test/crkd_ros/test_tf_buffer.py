"""The transform tree over time."""

import numpy as np
import pytest

from crkd_core.geometry.transforms import inverse, transform, yaw_rotation
from crkd_ros.tf_buffer import MAX_FRAMES, TfBuffer

S = 1_000_000_000
T_ODOM = transform(yaw_rotation(0.3), [10.0, 2.0, 0.0])
T_CAM = transform(yaw_rotation(-1.0), [1.5, 0.2, 1.6])


def vehicle() -> TfBuffer:
    """map <- odom <- base_link <- cam, the first two moving."""
    buffer = TfBuffer()
    buffer.insert_static("base_link", "cam", T_CAM)
    for i in range(11):
        buffer.insert("map", "odom", i * S // 10, T_ODOM)
        buffer.insert("odom", "base_link", i * S // 10, transform(np.eye(3), [float(i), 0, 0]))
    return buffer


def test_chain_composes_from_left_to_right():
    expected = T_ODOM @ transform(np.eye(3), [4.5, 0, 0]) @ T_CAM
    np.testing.assert_allclose(vehicle().lookup("map", "cam", 45 * S // 100), expected, atol=1e-12)


def test_lookup_against_the_chain_is_the_inverse():
    buffer = vehicle()
    np.testing.assert_allclose(
        buffer.lookup("cam", "map", S // 2), inverse(buffer.lookup("map", "cam", S // 2)), atol=1e-12
    )


def test_siblings_meet_at_their_common_ancestor():
    buffer = vehicle()
    buffer.insert_static("base_link", "radar", transform(np.eye(3), [3.0, 0, 0]))
    found = buffer.lookup("cam", "radar", 0)
    np.testing.assert_allclose(found, inverse(T_CAM) @ transform(np.eye(3), [3.0, 0, 0]), atol=1e-12)
    assert buffer.is_fixed("cam", "radar")
    assert not buffer.is_fixed("map", "cam")


def test_single_edge_at_an_exact_stamp_is_returned_unrounded():
    buffer, T = TfBuffer(), transform(yaw_rotation(0.123), [1 / 3, 1 / 7, 0])
    buffer.insert("map", "base_link", 5, T)
    assert buffer.lookup("map", "base_link", 5) is T


def test_slash_in_front_of_a_name_means_nothing():
    assert vehicle().lookup("/base_link", "/cam", 0) is not None


def test_covers_needs_every_moving_edge():
    buffer = vehicle()
    buffer.insert("odom", "base_link", 2 * S, np.eye(4))
    assert buffer.covers("odom", "base_link", 2 * S)
    assert not buffer.covers("map", "base_link", 2 * S)
    assert buffer.covers("base_link", "cam", 99 * S)
    assert not buffer.covers("map", "nowhere", 0)


def test_missing_frame_is_named_with_what_there_is():
    assert vehicle().lookup("map", "lidar", 0) is None
    assert vehicle().problem("base_link", "lidar") == (
        "no transform names frame 'lidar' (known: base_link, cam, map, odom)"
    )
    buffer = vehicle()
    buffer.insert_static("island", "hut", np.eye(4))
    assert buffer.problem("map", "hut") == "frames 'map' and 'hut' are not connected"


def test_time_that_jumps_back_is_followed():
    buffer = TfBuffer()
    for i in range(10):
        buffer.insert("map", "base_link", i * S, transform(np.eye(3), [float(i), 0, 0]))
    buffer.insert("map", "base_link", 0, transform(np.eye(3), [0.0, 0, 0]))
    buffer.insert("map", "base_link", S // 2, transform(np.eye(3), [50.0, 0, 0]))
    assert not buffer.covers("map", "base_link", S)
    assert buffer.lookup("map", "base_link", S // 2)[0, 3] == 50.0


def test_frame_that_is_its_own_parent_is_refused():
    with pytest.raises(ValueError, match="two different frame names"):
        TfBuffer().insert("a", "/a", 0, np.eye(4))


def test_circle_of_frames_ends():
    buffer = TfBuffer()
    buffer.insert_static("a", "b", np.eye(4))
    buffer.insert_static("b", "a", np.eye(4))
    assert buffer.lookup("a", "c", 0) is None


def test_made_up_frames_do_not_fill_the_memory():
    tf = TfBuffer()
    tf.insert_static("base_link", "camera", np.eye(4))
    for i in range(MAX_FRAMES - 1):
        tf.insert("map", f"ghost_{i}", i, np.eye(4))
    with pytest.raises(ValueError, match="expected at most 4096 frames, got another one, 'ghost_x'"):
        tf.insert("map", "ghost_x", 0, np.eye(4))
    with pytest.raises(ValueError, match="expected at most 4096 frames"):
        tf.insert_static("map", "ghost_x", np.eye(4))
    tf.insert("map", "ghost_7", 8, np.eye(4))
    tf.insert_static("base_link", "camera", np.eye(4))
