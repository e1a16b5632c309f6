"""Messages in, sensor frames out: the one path of the live node and of the bag reader.

No rclpy and no thread; the caller says what time it is. A message that cannot be used never raises (unless asked to):
it is counted by topic and reported through a callback at a bounded rate.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from crkd_core.cli import UserError
from crkd_core.runtime.assembler import AssembledFrame
from crkd_core.runtime.poses import SECOND, PoseBuffer
from crkd_core.runtime.rig import CameraCalibration
from crkd_core.types import FloatArray
from crkd_ros.backends import BUILTIN, Backend
from crkd_ros.cdr import header_stamp
from crkd_ros.conversions import (
    CameraModel,
    ConversionError,
    camera_model_of,
    image_of,
    pose_of_odometry,
    radar_points_of,
    stamp_of,
    transform_of,
)
from crkd_ros.inputs import Input, inputs_of
from crkd_ros.parameters import DetectorParameters

logger = logging.getLogger(__name__)

WARNING_PERIOD = 5 * SECOND
"""At most one warning per topic in this time, ns on the caller's clock."""


class MessageError(UserError):
    """A message that cannot be used; raised only by a strict pipeline."""


class MessageRig:
    """What messages say about where sensors sit and how the vehicle moves (``assembler.Rig``).

    Attributes:
        tf: the transform tree.
        models: camera -> its intrinsics.
        frames: sensor -> its frame; from the parameters, else from its newest message.
    """

    def __init__(self, parameters: DetectorParameters, backend: Backend = BUILTIN) -> None:
        self._base = parameters.text("base_frame")
        self._world = parameters.text("world_frame")
        self._bev_frame = parameters.text("bev_frame")
        self._T_base_from_bev = parameters.T_base_from_bev
        self._jump = parameters.nanoseconds("jump_ms")
        self.tf = backend.transforms(jump=self._jump)
        self.models: dict[str, CameraModel] = {}
        self._given_mountings = {n: c.T_base_from_cam for n, c in parameters.cameras.items()} | {
            n: r.T_base_from_radar for n, r in parameters.radars.items()
        }
        given = [(name, camera.frame_id) for name, camera in parameters.cameras.items()]
        given += [(name, radar.frame_id) for name, radar in parameters.radars.items()]
        self.frames = {name: frame_id for name, frame_id in given if frame_id}
        self._given_frames = frozenset(self.frames)
        self._odometry = PoseBuffer() if parameters.text("pose_source") == "odometry" else None
        self._mountings: dict[str, FloatArray] = {}
        self._calibrations: dict[str, CameraCalibration] = {}

    def camera(self, name: str) -> CameraCalibration | None:
        """Calibration of a camera, once its camera_info and its transform are known."""
        if name not in self._calibrations:
            model, T = self.models.get(name), self._mounting_of(name)
            if model is None or T is None:
                return None
            self._calibrations[name] = CameraCalibration(model.intrinsics, T, model.distortion)
        return self._calibrations[name]

    def radar(self, name: str) -> FloatArray | None:
        """``T_base_from_radar``, once its transform is known."""
        return self._mounting_of(name)

    def bev(self) -> FloatArray | None:
        """``T_base_from_bev``: the parameter, else the transform of the frame the parameters name."""
        return self._T_base_from_bev if self._T_base_from_bev is not None else self._mounting(self._bev_frame)

    def problem(self, name: str) -> str:
        """Why a sensor, or ``bev``, cannot be placed."""
        if self._given_mountings.get(name) is not None:
            return "no camera_info yet"
        frame = self._bev_frame if name == "bev" else self.frames.get(name)
        if frame is None:
            return "no message yet that names its frame"
        if self._mounting(frame) is None:
            if self.tf.lookup(self._base, frame, 0) is None or self.tf.is_fixed(self._base, frame):
                return self.tf.problem(self._base, frame)
            return f"frame '{frame}' moves relative to '{self._base}'; expected a transform on /tf_static"
        return "no camera_info yet"

    def covers(self, stamp: int) -> bool:
        """Whether the pose at ``stamp`` is final."""
        if self._odometry is not None:
            return self._odometry.covers(stamp)
        return self.tf.covers(self._world, self._base, stamp)

    def pose(self, stamp: int) -> FloatArray | None:
        """``T_world_from_base`` at ``stamp``."""
        if self._odometry is not None:
            return self._odometry.at(stamp)
        return self.tf.lookup(self._world, self._base, stamp)

    def set_model(self, name: str, model: CameraModel) -> None:
        """A camera_info has come."""
        self.models[name] = model
        self._calibrations.pop(name, None)

    def set_frame(self, name: str, frame_id: str) -> None:
        """A message of a sensor names its frame; a frame given by parameter stays."""
        if name not in self._given_frames and self.frames.get(name) != frame_id:
            self.frames[name] = frame_id
            self._calibrations.pop(name, None)

    def add_static(self, parent: str, child: str, T: FloatArray) -> None:
        """A fixed transform has come."""
        self.tf.insert_static(parent, child, T)
        self._mountings.clear()
        self._calibrations.clear()

    def add_odometry(self, child: str, stamp: int, T_world_from_child: FloatArray) -> None:
        """A pose has come.

        Raises:
            ConversionError: it is the pose of another frame than the vehicle's.
        """
        assert self._odometry is not None
        if child.lstrip("/") != self._base.lstrip("/"):
            raise ConversionError(f"odometry: child_frame_id: expected '{self._base}' (base_frame), got '{child}'")
        if self._odometry.newest is not None and stamp < self._odometry.newest - self._jump:
            self._odometry.purge_after(stamp)
        self._odometry.insert(stamp, T_world_from_child)

    def purge_after(self, stamp: int) -> None:
        """Forget poses newer than ``stamp``."""
        self.tf.purge_after(stamp)
        if self._odometry is not None:
            self._odometry.purge_after(stamp)

    def _mounting_of(self, name: str) -> FloatArray | None:
        given = self._given_mountings[name]
        return given if given is not None else self._mounting(self.frames.get(name))

    def _mounting(self, frame: str | None) -> FloatArray | None:
        if frame is None:
            return None
        if frame not in self._mountings:
            T = self.tf.lookup(self._base, frame, 0) if self.tf.is_fixed(self._base, frame) else None
            if T is None:
                return None
            self._mountings[frame] = T
        return self._mountings[frame]


class FramePipeline:
    """Feeds a frame assembler from messages.

    Attributes:
        inputs: the topics it reads.
        received: messages by topic.
        malformed: messages that could not be used, by topic.
        rig: calibration and poses so far.
        assembler: the frame assembler.
    """

    def __init__(
        self,
        parameters: DetectorParameters,
        *,
        sweeps: int,
        replay: bool,
        strict: bool = False,
        namespace: str = "/",
        backend: Backend = BUILTIN,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        """A pipeline without any message yet.

        Args:
            parameters: topics, frames and times.
            sweeps: radar sweeps the model uses.
            replay: measure waiting times in message time (bags, lossless replay), not on the caller's clock.
            strict: raise MessageError for a message that cannot be used.
            namespace: of the node, for relative topic names.
            backend: converts, matches and transforms; ``distribution`` takes messages of rclpy only.
            warn: gets one sentence about each kind of trouble, at a bounded rate.
        """
        self.inputs = inputs_of(parameters, namespace=namespace)
        self.received: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self.rig = MessageRig(parameters, backend)
        self._backend = backend
        self._parameters = parameters
        self._strict = strict
        self._warn = warn
        self._warned: dict[str, int] = {}
        self._now = 0  # the caller's clock at the last call
        config = parameters.assembler(sweeps=sweeps, replay=replay)
        self.assembler = backend.assembler(config, self.rig, self._jumped)
        self._by_topic: dict[str, list[Input]] = {}
        for use in self.inputs:
            self._by_topic.setdefault(use.topic, []).append(use)

    def on_message(self, topic: str, message: Any, now: int) -> list[AssembledFrame]:
        """Take one message.

        Args:
            topic: absolute name, one of ``inputs``.
            message: of rclpy or of rosbags; of a reference topic, its CDR bytes will do.
            now: the caller's clock, ns.

        Returns:
            The frames that are complete, or overdue, with it.

        Raises:
            MessageError: a message that cannot be used, and the pipeline is strict.
        """
        self._advance(now)
        self.received[topic] += 1
        return [frame for use in self._by_topic[topic] for frame in self._use(use, message, now)]

    def poll(self, now: int) -> list[AssembledFrame]:
        """Frames that are overdue at ``now``; call it often (every 10 ms or so) on a live graph."""
        self._advance(now)
        return self.assembler.poll(now)

    def flush(self, now: int) -> list[AssembledFrame]:
        """No more messages will come: every pending frame as it stands."""
        return self.assembler.flush(now)

    def _advance(self, now: int) -> None:
        if now < self._now:  # a simulated clock begins anew: what was said a moment ago was said a moment ago
            self._warned = {key: last + now - self._now for key, last in self._warned.items()}
        self._now = now

    def _use(self, use: Input, message: Any, now: int) -> list[AssembledFrame]:
        try:
            return self._take(use, message, now)
        except (ConversionError, ValueError) as error:
            if self._strict:
                raise MessageError(f"{use.topic}: {error}") from None
            self.malformed[use.topic] += 1
            count = self.malformed[use.topic]
            self._complain(use.topic, f"{use.topic}: message dropped ({count} so far): {error}", now)
            return self._without(use, message, now)

    def _take(self, use: Input, message: Any, now: int) -> list[AssembledFrame]:
        if use.role == "image":
            image = image_of(message, source=use.sensor, read=self._backend.rgb_image_of)
            self.rig.set_frame(use.sensor, message.header.frame_id)
            return self.assembler.camera(use.sensor, _stamp(message), image, now)
        if use.role == "radar":
            read = self._backend.points_of
            points = radar_points_of(message, source=use.sensor, accept_relative=True, read=read)
            self.rig.set_frame(use.sensor, message.header.frame_id)
            return self.assembler.radar(use.sensor, _stamp(message), points, now)
        if use.role == "reference":
            return self.assembler.reference(_stamp(message), now)
        if use.role == "camera_info":
            rectified = self._parameters.cameras[use.sensor].rectified
            self.rig.set_model(use.sensor, camera_model_of(message, source=use.sensor, rectified=rectified))
        elif use.role == "odometry":
            T = pose_of_odometry(message)
            self.rig.add_odometry(message.child_frame_id, stamp_of(message.header.stamp), T)
        else:
            self._take_transforms(message, fixed=use.role == "tf_static")
        return self.assembler.poll(now)

    def _without(self, use: Input, message: Any, now: int) -> list[AssembledFrame]:
        """What follows from a message that cannot be used.

        An image of the trigger camera still asks for a frame: whoever waits for an answer gets one, from the others.
        """
        if use.role == "image" and use.sensor == self._parameters.trigger:
            with contextlib.suppress(ConversionError):
                return self.assembler.reference(_stamp(message), now)
        return []

    def _take_transforms(self, message: Any, *, fixed: bool) -> None:
        for stamped in message.transforms:
            parent, child = stamped.header.frame_id, stamped.child_frame_id
            T = transform_of(stamped)
            if fixed:
                self.rig.add_static(parent, child, T)
            else:
                self.rig.tf.insert(parent, child, stamp_of(stamped.header.stamp), T)

    def _jumped(self, stamp: int) -> None:
        # Data and a simulated clock may show the same jump one after the other; late messages of the old time show it
        # again, and a short loop shows it every round.
        text = "time jumped back (a looping recording, or a clock that was set); buffers flushed"
        self._complain("jump", text, self._now)
        self.rig.purge_after(stamp + self._parameters.nanoseconds("jump_ms"))

    def _complain(self, key: str, text: str, now: int) -> None:
        last = self._warned.get(key)
        if last is None or now - last >= WARNING_PERIOD:
            self._warned[key] = now
            self._warn(text)


def _stamp(message: Any) -> int:
    """Of the header, ns; of a message of any type, its CDR bytes will do.

    Raises:
        ConversionError: it was never set. Taken for a time, it would begin anew in 1970.
    """
    stamp = header_stamp(message) if isinstance(message, bytes) else stamp_of(message.header.stamp)
    if stamp <= 0:
        raise ConversionError(f"header stamp is {stamp} ns; the driver has to set it")
    return stamp
