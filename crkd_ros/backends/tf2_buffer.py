"""The transform tree kept by tf2_ros."""

from __future__ import annotations

import importlib
from typing import Any

from crkd_core.runtime.poses import SECOND
from crkd_core.types import FloatArray
from crkd_ros.conversions import ros_messages, transform_stamped_message

AUTHORITY = "crkd_ros"


class Tf2Buffer:
    """A ``tf2_ros.Buffer`` that answers as ``TfBuffer`` does.

    It keeps ten seconds, does not extrapolate, and interpolates across gaps of any length. It cannot forget a part: a
    jump back of time clears every moving transform.
    """

    def __init__(self, tf2: Any, rotations: Any, *, jump: int = SECOND) -> None:
        """An empty tree.

        Args:
            tf2: the module ``tf2_ros``.
            rotations: the module ``tf_transformations``.
            jump: a stamp that much older than the newest one of its edge means that time began anew, ns.
        """
        self._Time = importlib.import_module("rclpy.time").Time
        self._errors = tf2.TransformException
        self._rotations = rotations
        self._jump = jump
        self._newest: dict[str, int] = {}  # child of a moving edge -> stamp
        self._buffer = tf2.Buffer()

    def insert_static(self, parent: str, child: str, T_parent_from_child: FloatArray) -> None:
        """Set a fixed edge."""
        self._buffer.set_transform_static(self._message(parent, child, 0, T_parent_from_child), AUTHORITY)

    def insert(self, parent: str, child: str, stamp: int, T_parent_from_child: FloatArray) -> None:
        """Add one stamped transform of a moving edge.

        Raises:
            ValueError: a frame without a name, or its own parent: tf2 would ignore it.
        """
        newest = self._newest.get(child)
        if newest is not None and stamp < newest - self._jump:
            self._clear()
        message = self._message(parent, child, stamp, T_parent_from_child)
        self._buffer.set_transform(message, AUTHORITY)
        self._newest[child] = max(stamp, self._newest.get(child, stamp))

    def lookup(self, target: str, source: str, stamp: int) -> FloatArray | None:
        """``T_target_from_source`` at ``stamp`` (ns), or None where tf2 refuses."""
        if stamp < 0:
            return None  # rclpy has no such time
        try:
            found = self._buffer.lookup_transform_core(target.lstrip("/"), source.lstrip("/"), self._time(stamp))
        except self._errors:
            return None
        p, q = found.transform.translation, found.transform.rotation
        T: FloatArray = self._rotations.quaternion_matrix((q.x, q.y, q.z, q.w))
        T[:3, 3] = p.x, p.y, p.z
        return T

    def covers(self, target: str, source: str, stamp: int) -> bool:
        """Whether every moving edge on the way knows a transform at or after ``stamp``."""
        common = self._common(target, source)
        return common is not None and (common == 0 or stamp <= common)

    def is_fixed(self, target: str, source: str) -> bool:
        """Whether the two frames are connected by fixed edges only."""
        return self._common(target, source) == 0

    def problem(self, target: str, source: str) -> str:
        """What tf2 says about the two frames."""
        try:
            self._buffer.lookup_transform_core(target.lstrip("/"), source.lstrip("/"), self._time(0))
        except self._errors as error:
            return f"tf2: {error}"
        return f"no transform '{target}' <- '{source}' at that time"

    def purge_after(self, stamp: int) -> None:
        """Forget every moving transform, if one is newer than ``stamp``."""
        if any(newest > stamp for newest in self._newest.values()):
            self._clear()

    def _clear(self) -> None:
        self._newest.clear()
        self._buffer.clear()  # fixed edges stay

    def _common(self, target: str, source: str) -> int | None:
        """Newest stamp at which both are known, ns; 0: at any; None: they are not connected."""
        try:
            return int(self._buffer.get_latest_common_time(target.lstrip("/"), source.lstrip("/")).nanoseconds)
        except self._errors:
            return None

    def _time(self, stamp: int) -> Any:
        return self._Time(nanoseconds=stamp)

    def _message(self, parent: str, child: str, stamp: int, T: FloatArray) -> Any:
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not parent or not child or parent == child:
            raise ValueError(f"transform: expected two different frame names, got '{parent}' <- '{child}'")
        return transform_stamped_message(ros_messages(), T, stamp=stamp, parent=parent, child=child)
