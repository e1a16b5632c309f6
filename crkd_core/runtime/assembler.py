"""The frame assembler: camera images and radar sweeps in, one ``SensorFrame`` per trigger out.

Pure: no ROS, no thread, no clock. Every event brings its stamp (message time) and ``now`` (the caller's clock), both
ns; whoever calls decides what ``now`` is. The same object therefore serves the live node and a bag reader.

What a frame is made of is a function of the messages of each sensor, not of the order in which the sensors' messages
reach this object: a sensor's choice is settled by the first of its own messages that leaves nothing nearer to come
(see ``selection``). Only a deadline that passes makes arrival count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum

from crkd_core.runtime.poses import SECOND
from crkd_core.runtime.rig import AssemblerConfig, Rig
from crkd_core.runtime.selection import AnyTrack, Choice, Image, Points, Request, Selector
from crkd_core.runtime.track import Track
from crkd_core.types import SensorFrame

MAX_PENDING = 64
"""Frames that may wait at a time; with one more, the oldest goes as it is."""


class FrameState(str, Enum):
    """How much of the rig a frame holds."""

    NOMINAL = "NOMINAL"
    """Every configured sensor."""
    DEGRADED = "DEGRADED"
    """Some sensors are missing or late; the detector runs on the others."""
    STALE = "STALE"
    """Nothing to run on: no pose, no usable sensor, or no trigger at all."""


@dataclass(frozen=True)
class AssembledFrame:
    """One answer to one trigger.

    Attributes:
        stamp: reference stamp, ns.
        state: how complete the frame is.
        reasons: what is missing and why, one sentence each; empty when NOMINAL.
        frame: the measurements; None when STALE.
        waited: from the trigger's arrival to this answer on the caller's clock, ns.
    """

    stamp: int
    state: FrameState
    reasons: tuple[str, ...]
    frame: SensorFrame | None
    waited: int = 0


@dataclass(frozen=True)
class _Late:
    """A frame, a sensor that it waits for, and that sensor's newest message: until there is another one, it waits."""

    request: Request
    track: AnyTrack
    last: tuple[int, int] | None


class FrameAssembler:
    """Collects measurements and answers every trigger with exactly one ``AssembledFrame``, in order of stamps.

    Attributes:
        config: as given.
        counts: events by kind: ``duplicate``, ``late_trigger``, ``jump``, ``straggler`` (a message of the time before a
            jump), and one per ``FrameState`` reported.
    """

    def __init__(self, config: AssemblerConfig, rig: Rig, *, on_jump: Callable[[int], None] | None = None) -> None:
        """An empty assembler.

        Args:
            config: what to wait for.
            rig: asked for calibration and poses whenever a frame may be complete.
            on_jump: called with the stamp from which time began anew. One jump may show itself more than once: on the
                caller's clock and in stamps, and in a replay again with every message of the old time that comes late.
        """
        self.config = config
        self.counts: Counter[str] = Counter()
        self._rig = rig
        self._on_jump = on_jump
        self._cameras: dict[str, Track[Image]] = {name: Track(config.camera_capacity) for name in config.cameras}
        self._radars: dict[str, Track[Points]] = {name: Track(config.sweeps + 64) for name in config.radars}
        self._selector = Selector(config, rig, self._cameras, self._radars)
        self._trigger_offset = 0 if config.trigger is None else config.cameras[config.trigger]
        self._awaited = "reference stamp" if config.trigger is None else f"image from {config.trigger}"
        self._pending: list[Request] = []
        self._late: _Late | None = None
        self._last_stamp: int | None = None  # reference stamp of the newest frame reported
        self._last_trigger: tuple[int, int] | None = None  # stamp and arrival of the newest trigger
        self._started: int | None = None
        self._now: int | None = None
        self._given_up: set[str] = set()  # context that a replay no longer waits for
        self._reported_silence = 0
        self._stragglers: tuple[int, int] | None = None  # after a jump: drop stamps beyond, until (caller's clock)

    # ----------------------------------------------------------------------------------------------------- events

    def camera(self, name: str, stamp: int, image: Image, now: int) -> list[AssembledFrame]:
        """An image has arrived; frames that are complete with it."""
        self._advance(now)
        track = self._cameras[name]
        if not self._heal(track, stamp, now):
            return []
        if not track.add(stamp, image, now):
            self.counts["duplicate"] += 1
        else:
            self._arrived(name, stamp, image, now)
        return self._ready(now)

    def radar(self, name: str, stamp: int, points: Points, now: int) -> list[AssembledFrame]:
        """A radar sweep, (N,) of ``RADAR_DTYPE``, has arrived; frames that are complete with it."""
        self._advance(now)
        track = self._radars[name]
        if not self._heal(track, stamp, now):
            return []
        if not track.add(stamp, points, now):
            self.counts["duplicate"] += 1
        else:
            self._arrived(name, stamp, points, now)
        return self._ready(now)

    def reference(self, stamp: int, now: int) -> list[AssembledFrame]:
        """An explicit trigger: a frame that refers to ``stamp`` is wanted.

        With a trigger camera: one of its images was taken then, but cannot be used.
        """
        self._advance(now)
        newest = self._last_trigger
        if newest is not None and stamp < newest[0] - self.config.jump:
            self._begin_anew(stamp, now)
        self._open(stamp, now)
        return self._ready(now)

    def poll(self, now: int) -> list[AssembledFrame]:
        """Time has passed, or poses or calibration have come in; frames that are complete or overdue."""
        self._advance(now)
        return self._ready(now) + self._silence(now)

    def flush(self, now: int) -> list[AssembledFrame]:
        """No more messages will come: every pending frame as it stands."""
        frames = []
        while self._pending:
            request = self._pending.pop(0)
            choice = self._selector.choose(request)
            self._given_up |= choice.context.keys()
            frames.append(self._report(request, now, choice))
        return frames

    def reset(self) -> None:
        """Forget every measurement and pending frame; the counts stay."""
        for track in self._tracks().values():
            track.clear()
        self._pending.clear()
        self._given_up.clear()
        self._reported_silence = 0
        self._last_stamp = self._last_trigger = self._started = self._now = self._stragglers = None

    # ------------------------------------------------------------------------------------------------ diagnostics

    @property
    def pending(self) -> int:
        """Number of triggers not answered yet."""
        return len(self._pending)

    def arrivals(self) -> dict[str, tuple[int, int] | None]:
        """Sensor -> (stamp, arrival on the caller's clock) of its newest message, or None if none has come."""
        return {name: track.last for name, track in self._tracks().items()}

    # ------------------------------------------------------------------------------------------------------- time

    def _tracks(self) -> dict[str, AnyTrack]:
        return {**self._cameras, **self._radars}

    def _advance(self, now: int) -> None:
        if self._now is not None and now < self._now - self.config.jump:
            # The caller's clock itself jumped back (simulated time of a looping bag): nothing held makes sense.
            self.reset()
            self._notice(now)
        self._now = now
        if self._started is None and now > 0:  # a simulated clock says 0 until its first message
            self._started = now

    def _heal(self, track: AnyTrack, stamp: int, now: int) -> bool:
        """Notice a jump back; False for a message of the old time that comes after it."""
        if self._stragglers is not None:
            beyond, until = self._stragglers
            if now >= until:
                self._stragglers = None
            elif stamp > beyond:
                self.counts["straggler"] += 1
                return False
        if track.newest is not None and stamp < track.newest - self.config.jump:
            if self.config.deadline_clock == "now":
                self._stragglers = (track.newest - self.config.jump // 4, now + self.config.jump // 2)
            self._begin_anew(stamp, now)
        return True

    def _begin_anew(self, stamp: int, now: int) -> None:
        """Forget all that lies beyond the jump; what already came of the new time stays."""
        limit = stamp + self.config.jump
        for track in self._tracks().values():
            track.purge_after(limit)
        self._pending = [p for p in self._pending if p.stamp <= limit]
        if self._last_stamp is not None and self._last_stamp > limit:
            self._last_stamp = None
        if self._last_trigger is not None and self._last_trigger[0] > limit:
            self._last_trigger = None
            self._started = now
        self._notice(stamp)

    def _notice(self, stamp: int) -> None:
        self.counts["jump"] += 1
        if self._on_jump is not None:
            self._on_jump(stamp)

    # ----------------------------------------------------------------------------------------------------- frames

    def _arrived(self, name: str, stamp: int, item: Image | Points, now: int) -> None:  # noqa: ARG002  # for others
        """A measurement was added to its track."""
        if name == self.config.trigger:
            self._open(stamp, now)

    def _open(self, trigger: int, now: int) -> None:
        instant = trigger - self._trigger_offset
        stamp = instant if self.config.at_instant else trigger
        if self._last_stamp is not None and stamp <= self._last_stamp:
            self.counts["late_trigger"] += 1
            return
        if any(p.stamp == stamp for p in self._pending):
            self.counts["duplicate"] += 1
            return
        self._pending.append(Request(stamp, instant, now))
        self._pending.sort(key=lambda p: p.stamp)
        if self._last_trigger is None or trigger > self._last_trigger[0]:
            self._last_trigger = (trigger, now)

    def _ready(self, now: int) -> list[AssembledFrame]:
        frames = []
        while self._pending:
            request = self._pending[0]
            overfull = len(self._pending) > MAX_PENDING
            if not overfull and self._waits_still(request, now):
                break
            choice = self._selector.choose(request)
            if not overfull and self._must_wait(request, choice, now):
                break
            if overfull:
                self._given_up |= choice.context.keys()
            self._pending.pop(0)
            frames.append(self._report(request, now, choice))
        return frames

    def _waits_still(self, request: Request, now: int) -> bool:
        """Whether a sensor that this frame waits for has sent nothing since the last look at all of them."""
        late = self._late
        if late is None or late.request is not request or late.track.last != late.last:
            return False
        since = self._started if late.last is None else late.last[1]
        silent = self.config.silent and since is not None and now - since > self.config.silent
        return not silent and now - request.opened < self.config.deadline

    def _must_wait(self, request: Request, choice: Choice, now: int) -> bool:
        missing = choice.waiting.keys() - self._silent(now)
        if self.config.deadline_clock == "now":
            tracks = [track for name, track in self._tracks().items() if name in missing]
            if tracks:  # of equal sensors, the one that has just sent is the last to send again
                track = max(tracks, key=lambda track: track.newest or 0)
                self._late = _Late(request, track, track.last)
            return bool(missing or choice.context) and now - request.opened < self.config.deadline
        # Poses come a hundred times a second and lag behind where messages are taken from each topic in turn; a replay
        # waits for them, and for calibration, until it is clear that there are none.
        self._given_up &= choice.context.keys()
        if self._last_stamp is not None and self._rig.covers(self._last_stamp):
            self._given_up.discard("pose")
        return bool(choice.context.keys() - self._given_up) or bool(missing and not self._overtaken(request, missing))

    def _overtaken(self, request: Request, missing: AbstractSet[str]) -> bool:
        """Whether every other sensor is ahead by more than the deadline: the missing ones are not coming."""
        others = [track.newest for name, track in self._tracks().items() if name not in missing]
        return bool(others) and all(
            newest is not None and newest > request.instant + self.config.deadline for newest in others
        )

    def _silence(self, now: int) -> list[AssembledFrame]:
        """One STALE frame per ``stale_after`` without any trigger."""
        if not self.config.stale_after or self._pending or self._started is None:
            return []
        since = self._last_trigger[1] if self._last_trigger is not None else self._started
        quiet = now - since
        if quiet <= self.config.stale_after or now - max(self._reported_silence, since) <= self.config.stale_after:
            return []
        self._reported_silence = now
        # Message time goes on as the caller's clock does; without any message the two are one.
        stamp = now if self._last_trigger is None else self._last_trigger[0] + quiet
        self.counts[FrameState.STALE.value] += 1
        return [AssembledFrame(stamp, FrameState.STALE, (f"no {self._awaited} for {quiet / SECOND:.1f} s",), None)]

    def _silent(self, now: int) -> set[str]:
        if not self.config.silent or self._started is None:
            return set()
        since = {name: track.last[1] if track.last else self._started for name, track in self._tracks().items()}
        return {name for name, arrival in since.items() if now - arrival > self.config.silent}

    def _report(self, request: Request, now: int, choice: Choice) -> AssembledFrame:
        frame, reasons = self._selector.build(request, choice)
        state = FrameState.STALE if frame is None else FrameState.DEGRADED if reasons else FrameState.NOMINAL
        self.counts[state.value] += 1
        self._last_stamp = request.stamp
        self._forget(request)
        return AssembledFrame(request.stamp, state, reasons, frame, now - request.opened)

    def _forget(self, request: Request) -> None:
        """Drop what no later frame can use."""
        for name, offset in self.config.cameras.items():
            self._cameras[name].drop_before(request.instant + offset - self.config.slop(name))
        for name, track in self._radars.items():
            track.drop_before(request.instant - 2 * self.config.staleness(name))
