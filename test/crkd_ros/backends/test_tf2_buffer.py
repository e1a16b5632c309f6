"""tf2 and the built-in tree say the same of the same transforms."""

from __future__ import annotations

import numpy as np
import pytest
from ros_packages import needed

from crkd_core.geometry.transforms import transform
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.types import FloatArray
from crkd_ros.backends import Transforms
from crkd_ros.backends.tf2_buffer import Tf2Buffer
from crkd_ros.tf_buffer import TfBuffer

pytestmark = pytest.mark.ros
T0 = 1_600_000_000 * SECOND
FRAMES = ("map", "odom", "base_link", "mast", "camera")


def tf2_buffer() -> Tf2Buffer:
    return Tf2Buffer(needed("tf2_ros"), needed("tf_transformations"))


def random_transform(rng: np.random.Generator) -> FloatArray:
    return transform(rng.normal(size=4), rng.normal(scale=20, size=3))


def fill(tree: Transforms) -> None:
    """map -> odom -> base_link move at different rates; base_link -> mast -> camera are fixed."""
    rng = np.random.default_rng(7)
    tree.insert_static("base_link", "/mast", random_transform(rng))
    tree.insert_static("mast", "camera", random_transform(rng))
    for i in range(20):
        tree.insert("map", "odom", T0 + i * 100 * MILLISECOND, random_transform(rng))
    for i in range(60):
        tree.insert("odom", "base_link", T0 + i * 33 * MILLISECOND, random_transform(rng))


@pytest.fixture
def trees() -> tuple[TfBuffer, Tf2Buffer]:
    both = TfBuffer(), tf2_buffer()
    for tree in both:
        fill(tree)
    return both


def test_transforms_agree_at_any_time_within_what_is_known(trees: tuple[TfBuffer, Tf2Buffer]) -> None:
    ours, theirs = trees
    rng = np.random.default_rng(1)
    for stamp in (T0 + rng.integers(0, 1900 * MILLISECOND, size=40)).tolist():
        target, source = rng.choice(FRAMES, size=2, replace=False)
        a, b = ours.lookup(target, source, stamp), theirs.lookup(target, source, stamp)
        assert a is not None
        assert b is not None
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("offset", [-SECOND, 0, 1900, 1947, 5000])
def test_both_know_alike_what_is_final_and_what_is_fixed(trees: tuple[TfBuffer, Tf2Buffer], offset: int) -> None:
    ours, theirs = trees
    for target, source in (("map", "camera"), ("base_link", "camera"), ("odom", "base_link"), ("map", "moon")):
        stamp = T0 + offset * MILLISECOND
        assert ours.covers(target, source, stamp) == theirs.covers(target, source, stamp)
        assert ours.is_fixed(target, source) == theirs.is_fixed(target, source)


def test_only_the_builtin_tree_extrapolates(trees: tuple[TfBuffer, Tf2Buffer]) -> None:
    ours, theirs = trees
    stamp = T0 + 59 * 33 * MILLISECOND + 10 * MILLISECOND
    assert ours.lookup("odom", "base_link", stamp) is not None
    assert theirs.lookup("odom", "base_link", stamp) is None


def test_unknown_frames_are_named(trees: tuple[TfBuffer, Tf2Buffer]) -> None:
    for tree in trees:
        assert tree.lookup("map", "moon", T0) is None
        assert tree.lookup("map", "camera", -5) is None
        assert "moon" in tree.problem("map", "moon")


def test_both_follow_a_recording_that_begins_anew(trees: tuple[TfBuffer, Tf2Buffer]) -> None:
    for tree in trees:
        fill(tree)
        assert tree.covers("map", "camera", T0 + 1900 * MILLISECOND)
        tree.purge_after(T0 + 500 * MILLISECOND)
        assert not tree.covers("map", "camera", T0 + 1000 * MILLISECOND)
        assert tree.is_fixed("base_link", "camera")
        fill(tree)
        assert tree.lookup("map", "camera", T0 + 1000 * MILLISECOND) is not None


def test_frames_without_a_name_are_refused() -> None:
    tree = tf2_buffer()
    with pytest.raises(ValueError, match="expected two different frame names"):
        tree.insert("map", "map", T0, np.eye(4))
