"""Frames of messages that message_filters' ApproximateTimeSynchronizer matches."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from crkd_core.runtime.assembler import AssembledFrame, FrameAssembler
from crkd_core.runtime.rig import AssemblerConfig, Rig
from crkd_core.runtime.selection import Choice, Image, Points, Request, Selector
from crkd_core.runtime.track import Track
from crkd_ros.backends.backend import OnJump

QUEUE = 10
"""Messages that the synchronizer holds per sensor."""
REFERENCE = "reference"


Match = Mapping[str, tuple[int, Any]]
"""Sensor -> stamp and image or points."""


class MatchedSelector(Selector):
    """Takes what was matched; waits for nothing but poses and calibration."""

    def __init__(
        self,
        config: AssemblerConfig,
        rig: Rig,
        cameras: Mapping[str, Track[Image]],
        radars: Mapping[str, Track[Points]],
        *,
        matches: Mapping[int, Match],
    ) -> None:
        """As ``Selector``; ``matches`` by reference stamp, kept up to date by the caller."""
        super().__init__(config, rig, cameras, radars)
        self._matches = matches

    def choose(self, request: Request) -> Choice:
        """The matched images, the matched sweeps and those before them."""
        choice, match = Choice(), self._matches[request.stamp]
        for name in self._config.cameras:
            choice.images[name] = match[name]
            self._add_context(choice, name, known=self._rig.camera(name) is not None)
        for name in self._config.radars:
            choice.sweeps[name] = [match[name], *self._before(name, match[name][0])]
            self._add_context(choice, name, known=self._rig.radar(name) is not None)
        self._add_poses(request, choice)
        return choice

    def _before(self, name: str, stamp: int) -> list[tuple[int, Points]]:
        track = self._radars[name]
        last = track.first_from(stamp)
        first = max(track.first_from(stamp - self._config.staleness(name)), last - self._config.sweeps + 1)
        return [(track.stamps[j], track.items[j]) for j in range(last - 1, first - 1, -1)]


class SynchronizedAssembler(FrameAssembler):
    """A frame assembler whose frames are what the synchronizer matches.

    There is no deadline for sensors: a frame needs one message of every camera and radar (and of the reference topic)
    within ``slop``. When one stays away there are no frames, which is told as STALE after ``stale_after``.
    """

    def __init__(self, config: AssemblerConfig, rig: Rig, *, filters: Any, slop: int, on_jump: OnJump) -> None:
        """An empty assembler.

        Args:
            config: what a frame holds.
            rig: asked for calibration and poses.
            filters: the module ``message_filters``.
            slop: how far apart the messages of a frame may be, relative to when each is due, ns.
            on_jump: as for ``FrameAssembler``.
        """
        super().__init__(config, rig, on_jump=on_jump)
        self._Time = importlib.import_module("rclpy.time").Time
        self._filters = filters
        self._slop = slop
        self._matches: dict[int, Match] = {}
        self._selector = MatchedSelector(config, rig, self._cameras, self._radars, matches=self._matches)
        self._names = [*config.cameras, *config.radars, *([] if config.trigger else [REFERENCE])]
        self._awaited = f"match of {', '.join(self._names)}"
        self._renew()

    def reference(self, stamp: int, now: int) -> list[AssembledFrame]:
        """A message of the reference topic; with a trigger camera, one of its images that cannot be used: no match."""
        if self.config.trigger is not None:
            return self.poll(now)
        self._advance(now)
        self._match(REFERENCE, stamp, None, now)
        return self._ready(now)

    def reset(self) -> None:
        """Forget every measurement and pending frame."""
        super().reset()
        self._renew()

    def _arrived(self, name: str, stamp: int, item: Image | Points, now: int) -> None:
        self._match(name, stamp - self.config.cameras.get(name, 0), (stamp, item), now)

    def _notice(self, stamp: int) -> None:
        # It drops the oldest of a full queue: after a jump back, that is every new message.
        self._renew()
        super()._notice(stamp)

    def _renew(self) -> None:
        """A synchronizer that has seen nothing."""
        self._inputs = {name: self._filters.SimpleFilter() for name in self._names}
        synchronizer = self._filters.ApproximateTimeSynchronizer(list(self._inputs.values()), QUEUE, self._slop * 1e-9)
        synchronizer.registerCallback(self._matched)
        self._now_matching = 0

    def _match(self, name: str, due: int, item: tuple[int, Image | Points] | None, now: int) -> None:
        """Hand a message over; ``due`` is its stamp less the offset of its camera, ns."""
        self._now_matching = now
        header = SimpleNamespace(stamp=self._Time(nanoseconds=due))
        self._inputs[name].signalMessage(SimpleNamespace(header=header, name=name, item=item))

    def _matched(self, *messages: Any) -> None:
        match = {message.name: message for message in messages}
        trigger = self.config.trigger
        due = int(match[REFERENCE if trigger is None else trigger].header.stamp.nanoseconds)
        before = {request.stamp for request in self._pending}
        self._open(due + self._trigger_offset, self._now_matching)
        for request in self._pending:
            if request.stamp not in before:
                self._matches[request.stamp] = {name: m.item for name, m in match.items() if m.item is not None}
        for stamp in self._matches.keys() - {request.stamp for request in self._pending}:
            del self._matches[stamp]
