"""Stable numbers for detected objects: constant velocity, greedily matched by the distance of centres.

As in CenterPoint (Yin, Zhou, Krähenbühl, CVPR 2021, section 4.4): each detection is moved back to the previous frame by
its own velocity, and takes the nearest object of its class there, detections in the order of their scores. An object
that is not seen moves on with its velocity, and is given up after some time. All of it happens in the world frame, so
that the vehicle's own motion does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from crkd_core.runtime.poses import SECOND
from crkd_core.types import Boxes3D, Detections, FloatArray

MAX_DISTANCES: Mapping[str, float] = {
    "car": 4.0,
    "truck": 4.0,
    "construction_vehicle": 4.0,
    "bus": 5.5,
    "trailer": 3.0,
    "barrier": 1.0,
    "motorcycle": 13.0,
    "bicycle": 3.0,
    "pedestrian": 1.0,
    "traffic_cone": 1.0,
}
"""How far a detection may lie from where an object was expected, m.

CenterPoint's values (nuScenes, 2 Hz) for the seven classes that move. The other three are not tracked there: a
construction vehicle is taken for a truck, what stands on the road for a pedestrian.
"""


@dataclass(frozen=True)
class TrackerConfig:
    """How objects are followed.

    Attributes:
        max_distances: (10,) m, by label; see ``MAX_DISTANCES``.
        max_age: an object not seen for longer is given up, ns.
    """

    max_distances: FloatArray
    max_age: int


@dataclass(frozen=True)
class _Objects:
    """What is followed, at the stamp of the newest frame."""

    positions: FloatArray  # (M, 2) m, in the world frame
    velocities: FloatArray  # (M, 2) m/s, likewise
    labels: NDArray[np.int64]  # (M,)
    ids: NDArray[np.int64]  # (M,)
    seen: NDArray[np.int64]  # (M,) stamp of the newest detection, ns

    def filtered(self, pick: NDArray[np.bool_] | NDArray[np.int64]) -> _Objects:
        return _Objects(**{each.name: getattr(self, each.name)[pick] for each in fields(self)})


_NOTHING = _Objects(np.zeros((0, 2)), np.zeros((0, 2)), *(np.zeros(0, dtype=np.int64) for _ in range(3)))


class Tracker:
    """Follows objects from frame to frame. What it holds is bounded by what is detected within ``max_age``."""

    def __init__(self, config: TrackerConfig) -> None:
        self.config = config
        self._objects = _NOTHING
        self._stamp: int | None = None  # of the newest frame
        self._next_id = 1

    def update(self, detections: Detections, T_world_from_base: FloatArray) -> tuple[int, ...]:
        """Take the detections of the next frame.

        Args:
            detections: in ``base_link`` at their stamp. A stamp that is not newer than the last one means that time
                began anew: everything is forgotten.
            T_world_from_base: the vehicle's pose at that stamp.

        Returns:
            The number of each detection's object, from 1 on; a number is never given to another object.
        """
        if self._stamp is None or detections.stamp <= self._stamp:
            self._objects, self._stamp = _NOTHING, detections.stamp
        seconds = (detections.stamp - self._stamp) / SECOND
        self._objects = self._objects.filtered(detections.stamp - self._objects.seen <= self.config.max_age)
        here = detections.boxes.transformed(T_world_from_base)
        matches = self._matches(here.moved(-seconds).centers[:, :2], detections)
        ids = np.where(matches >= 0, np.append(self._objects.ids, 0)[matches], 0)
        new = ids == 0
        ids[new] = self._next_id + np.arange(new.sum())
        self._next_id += int(new.sum())
        self._remember(here, detections, ids, matches, seconds)
        return tuple(ids.tolist())

    def _matches(self, positions: FloatArray, detections: Detections) -> NDArray[np.int64]:
        """(N,) which object each detection is, or -1; ``positions`` (N, 2): where it was in the previous frame, m."""
        objects = self._objects
        matches = np.full(len(detections), -1, dtype=np.int64)
        if not len(objects.ids):
            return matches
        distances = np.linalg.norm(positions[:, None] - objects.positions[None], axis=2)
        reach = self.config.max_distances[detections.labels][:, None]
        other = detections.labels[:, None] != objects.labels[None]
        distances[other | (distances > reach)] = np.inf
        for row in np.argsort(-detections.scores, kind="stable"):
            nearest = int(np.argmin(distances[row]))
            if np.isfinite(distances[row, nearest]):
                matches[row] = nearest
                distances[:, nearest] = np.inf
        return matches

    def _remember(
        self, here: Boxes3D, detections: Detections, ids: NDArray[np.int64], matches: NDArray[np.int64], seconds: float
    ) -> None:
        """The detections of this frame, and the objects that were not seen in it, where they should be by now."""
        unseen = self._objects.filtered(np.setdiff1d(np.arange(len(self._objects.ids)), matches))
        self._objects = _Objects(
            positions=np.concatenate([here.centers[:, :2], unseen.positions + unseen.velocities * seconds]),
            velocities=np.concatenate([np.nan_to_num(here.velocities), unseen.velocities]),
            labels=np.concatenate([detections.labels, unseen.labels]),
            ids=np.concatenate([ids, unseen.ids]),
            seen=np.concatenate([np.full(len(ids), detections.stamp), unseen.seen]),
        )
        self._stamp = detections.stamp
