"""The transform tree of /tf and /tf_static as a function of time, without rclpy (REP-105 names, slashes ignored)."""

from __future__ import annotations

import numpy as np

from crkd_core.geometry.transforms import inverse
from crkd_core.runtime.poses import SECOND, PoseBuffer
from crkd_core.types import FloatArray

MAX_DEPTH = 64
MAX_FRAMES = 4096
"""Frames in the tree; a name that is not known is refused beyond, so that made-up names do not fill the memory."""


class TfBuffer:
    """A tree of frames: each child has one parent, by a fixed transform or by one that moves.

    An edge whose stamps jump back by more than ``jump`` forgets what lies after the jump, so that a looping bag is
    followed instead of refused.
    """

    def __init__(self, *, jump: int = SECOND) -> None:
        """An empty tree.

        Args:
            jump: a stamp that much older than the newest one of its edge means that time began anew, ns.
        """
        self._jump = jump
        self._fixed: dict[str, tuple[str, FloatArray]] = {}
        self._moving: dict[str, tuple[str, PoseBuffer]] = {}

    @property
    def frames(self) -> list[str]:
        """Names of all frames, sorted."""
        edges = {**self._fixed, **self._moving}
        return sorted(edges.keys() | {parent for parent, _ in edges.values()})

    def insert_static(self, parent: str, child: str, T_parent_from_child: FloatArray) -> None:
        """Set a fixed edge; a later one of the same child replaces it.

        Raises:
            ValueError: a frame without a name, or its own parent; or ``MAX_FRAMES`` are there.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        self._check(parent, child)
        self._moving.pop(child, None)
        self._fixed[child] = (parent, T_parent_from_child)

    def insert(self, parent: str, child: str, stamp: int, T_parent_from_child: FloatArray) -> None:
        """Add one stamped transform of a moving edge.

        Raises:
            ValueError: as for ``insert_static``.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        self._check(parent, child)
        if child in self._fixed:
            del self._fixed[child]
        known = self._moving.get(child)
        if known is None or known[0] != parent:
            known = self._moving[child] = (parent, PoseBuffer())
        buffer = known[1]
        if buffer.newest is not None and stamp < buffer.newest - self._jump:
            buffer.purge_after(stamp)
        buffer.insert(stamp, T_parent_from_child)

    def lookup(self, target: str, source: str, stamp: int) -> FloatArray | None:
        """``T_target_from_source`` at ``stamp`` (ns), or None where the tree or the time does not allow it."""
        path = self._path(target, source)
        if path is None:
            return None
        up_source, up_target = path
        T_source, T_target = self._climb(up_source, stamp), self._climb(up_target, stamp)
        if T_source is None or T_target is None:
            return None
        if not up_target:
            return T_source
        return inverse(T_target) if not up_source else inverse(T_target) @ T_source

    def covers(self, target: str, source: str, stamp: int) -> bool:
        """Whether the answer of ``lookup`` is final: every moving edge on the way knows a transform at or after it."""
        path = self._path(target, source)
        if path is None:
            return False
        return all(self._moving[child][1].covers(stamp) for child in path[0] + path[1] if child in self._moving)

    def is_fixed(self, target: str, source: str) -> bool:
        """Whether the two frames are connected by fixed edges only."""
        path = self._path(target, source)
        return path is not None and all(child in self._fixed for child in path[0] + path[1])

    def problem(self, target: str, source: str) -> str:
        """Why ``lookup`` finds nothing, in words: what is missing, and what there is."""
        known = set(self.frames)
        missing = [name for name in (target, source) if name.lstrip("/") not in known]
        if missing:
            return f"no transform names frame '{missing[0]}' (known: {', '.join(sorted(known)) or 'none'})"
        if self._path(target, source) is None:
            return f"frames '{target}' and '{source}' are not connected"
        return f"no transform '{target}' <- '{source}' at that time"

    def purge_after(self, stamp: int) -> None:
        """Forget every moving transform newer than ``stamp``; fixed ones stay."""
        for _, buffer in self._moving.values():
            buffer.purge_after(stamp)

    def _check(self, parent: str, child: str) -> None:
        if not parent or not child or parent == child:
            raise ValueError(f"transform: expected two different frame names, got '{parent}' <- '{child}'")
        known = child in self._fixed or child in self._moving
        if not known and len(self._fixed) + len(self._moving) >= MAX_FRAMES:
            raise ValueError(f"transform: expected at most {MAX_FRAMES} frames, got another one, '{child}'")

    def _chain(self, frame: str) -> list[str]:
        chain = [frame.lstrip("/")]
        while len(chain) < MAX_DEPTH:
            edge: tuple[str, object] | None = self._fixed.get(chain[-1]) or self._moving.get(chain[-1])
            if edge is None:
                break
            chain.append(edge[0])
        return chain

    def _path(self, target: str, source: str) -> tuple[list[str], list[str]] | None:
        """Children whose edges lead up from source, and from target, to their nearest common ancestor."""
        from_source, from_target = self._chain(source), self._chain(target)
        ancestors = {name: i for i, name in reversed(list(enumerate(from_target)))}
        for i, name in enumerate(from_source):
            if name in ancestors:
                return from_source[:i], from_target[: ancestors[name]]
        return None

    def _climb(self, children: list[str], stamp: int) -> FloatArray | None:
        """``T_top_from_bottom`` along edges; the first edge alone is returned as it was stored, unrounded."""
        T: FloatArray | None = None
        for child in children:
            fixed = self._fixed.get(child)
            edge = fixed[1] if fixed is not None else self._moving[child][1].at(stamp)
            if edge is None:
                return None
            T = edge if T is None else edge @ T
        return np.eye(4) if T is None else T
