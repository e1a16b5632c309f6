"""What the pipeline asks of a backend, and the built-in one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from crkd_core.cli import UserError
from crkd_core.runtime.assembler import AssembledFrame, FrameAssembler
from crkd_core.runtime.rig import AssemblerConfig, Rig
from crkd_core.types import FloatArray
from crkd_ros.conversions import points_of, rgb_image_of
from crkd_ros.tf_buffer import TfBuffer

OnJump = Callable[[int], None]


class BackendError(UserError):
    """A package of the ROS distribution that cannot be imported; names it and the fix."""


class Transforms(Protocol):
    """The transform tree; see ``TfBuffer`` for what each method promises."""

    def insert_static(self, parent: str, child: str, T_parent_from_child: FloatArray) -> None:
        """Set a fixed edge."""

    def insert(self, parent: str, child: str, stamp: int, T_parent_from_child: FloatArray) -> None:
        """Add a stamped transform of a moving edge."""

    def lookup(self, target: str, source: str, stamp: int) -> FloatArray | None:
        """``T_target_from_source`` at a stamp, ns; None where it is not known."""

    def covers(self, target: str, source: str, stamp: int) -> bool:
        """Whether the answer of ``lookup`` is final."""

    def is_fixed(self, target: str, source: str) -> bool:
        """Whether only fixed edges connect the two frames."""

    def problem(self, target: str, source: str) -> str:
        """Why ``lookup`` finds nothing."""

    def purge_after(self, stamp: int) -> None:
        """Forget moving transforms newer than ``stamp``."""


class Assembler(Protocol):
    """Measurements in, frames out; see ``FrameAssembler`` for what each method promises."""

    counts: Counter[str]

    @property
    def pending(self) -> int:
        """Frames that wait."""

    def camera(self, name: str, stamp: int, image: bytes | NDArray[np.uint8], now: int) -> list[AssembledFrame]:
        """An image has arrived."""

    def radar(self, name: str, stamp: int, points: NDArray[np.void], now: int) -> list[AssembledFrame]:
        """A sweep has arrived."""

    def reference(self, stamp: int, now: int) -> list[AssembledFrame]:
        """A frame that refers to ``stamp`` is wanted."""

    def poll(self, now: int) -> list[AssembledFrame]:
        """Time has passed."""

    def flush(self, now: int) -> list[AssembledFrame]:
        """No more messages will come."""

    def arrivals(self) -> dict[str, tuple[int, int] | None]:
        """Sensor -> stamp and arrival of its newest message."""


@dataclass(frozen=True)
class Backend:
    """One way to do the four things.

    Attributes:
        rgb_image_of: ``sensor_msgs/Image`` -> (H, W, 3) uint8 RGB; keyword ``source`` for errors.
        points_of: ``sensor_msgs/PointCloud2`` -> (N,) structured array; keyword ``source`` for errors.
        transforms: an empty tree; keyword ``jump``: stamps of an edge that go back by more begin anew, ns.
        assembler: an empty assembler.
    """

    name: Literal["builtin", "distribution"]
    rgb_image_of: Callable[..., NDArray[np.uint8]]
    points_of: Callable[..., NDArray[np.void]]
    transforms: Callable[..., Transforms]
    assembler: Callable[[AssemblerConfig, Rig, OnJump], Assembler]


def _assembler(config: AssemblerConfig, rig: Rig, on_jump: OnJump) -> Assembler:
    return FrameAssembler(config, rig, on_jump=on_jump)


BUILTIN = Backend("builtin", rgb_image_of, points_of, TfBuffer, _assembler)


def backend_of(name: str, *, slop: int) -> Backend:
    """The backend of that name.

    Args:
        name: ``builtin`` or ``distribution``.
        slop: how far apart the messages may be that ``distribution`` matches, ns.

    Raises:
        BackendError: a package that ``distribution`` needs cannot be imported.
        ValueError: another name.
    """
    if name == "builtin":
        return BUILTIN
    if name != "distribution":
        raise ValueError(f"backend: expected builtin or distribution, got '{name}'")
    from crkd_ros.backends.distribution import distribution

    return distribution(slop=slop)
