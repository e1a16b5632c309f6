"""What a run is reported as: for machines and for people."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import cv2
import msgspec
import numpy as np
from load.report import Answers, Growth, Work

P50_GOAL, P99_GOAL = 15.0, 40.0
"""ms"""
GROWTH_GOAL = 3.0
"""MB between the first and the last fifth of a soak. Python takes memory in pieces of 1 MB: a step or two are no
growth; to lose 1 kB a frame would be 4.6 MB."""


class Comparison(msgspec.Struct, frozen=True):
    """ApproximateTimeSynchronizer on the same stream.

    Attributes:
        slop: s.
        match_rate: matches for each frame of the trigger camera.
        work: CPU time of its process.
    """

    slop: float
    match_rate: float
    work: Work


class Result(msgspec.Struct, frozen=True):
    """Everything that is reported; what it was measured with, and on what.

    Attributes:
        machine: processor, number of processors, system, Python, versions of packages.
        load_average: over the last minute, before and after.
        seed: of the stream.
        seconds: length of the stream.
        image_kilobytes: mean size of the images.
        decode_ms: CPU time of decoding the images of one frame; the detector's work, not the node's.
    """

    machine: dict[str, str]
    load_average: tuple[float, float]
    seed: int
    seconds: float
    image_kilobytes: float
    decode_ms: float
    answers: Answers
    work: Work
    publisher_share: float
    memory: Growth | None = None
    comparisons: tuple[Comparison, ...] = ()

    def goals(self) -> dict[str, bool]:
        """Goal -> whether it is met."""
        found = self.answers.overhead
        goals = {
            "no frame lost": self.answers.lost == 0 and self.answers.expected > 0,
            f"p50 <= {P50_GOAL:g} ms": found is not None and found.p50 <= P50_GOAL,
            f"p99 <= {P99_GOAL:g} ms": found is not None and found.p99 <= P99_GOAL,
        }
        if self.memory is not None:
            goals[f"memory grows by less than {GROWTH_GOAL:g} MB"] = self.memory.end - self.memory.begin < GROWTH_GOAL
        return goals


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "processors": str(len(os.sched_getaffinity(0))),
        "system": platform.platform(),
        "python": platform.python_version(),
        "rclpy": metadata.version("rclpy"),
        "middleware": os.environ.get("RMW_IMPLEMENTATION", "the default"),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def text(result: Result) -> str:
    """The result for people."""
    answers, lines = result.answers, [", ".join(f"{k} {v}" for k, v in result.machine.items())]
    before, after = result.load_average
    lines.append(
        f"load average {before:.1f} before, {after:.1f} after; seed {result.seed}; {result.seconds:g} s of six cameras "
        f"(JPEG, {result.image_kilobytes:.0f} kB) and five radars"
    )
    lines.append(
        f"frames: {answers.expected} asked for, {answers.lost} lost, {answers.not_nominal} not NOMINAL, "
        f"{answers.same_inputs} of the very messages a node without delay would use; in the whole run "
        f"{answers.dropped} dropped for a newer one, {answers.messages_lost} messages lost"
    )
    if answers.overhead is not None:
        o = answers.overhead
        lines.append(
            f"last message to answer: p50 {o.p50:.1f} ms, p90 {o.p90:.1f}, p99 {o.p99:.1f}, largest {o.largest:.1f}"
        )
    lines += ["", f"the node, {result.work.share:.1%} of one processor", *_table(result.work)]
    lines.append(f"  (decoding the images, which is the detector's: {result.decode_ms:.1f} ms a frame)")
    for other in result.comparisons:
        head = (
            f"ApproximateTimeSynchronizer, slop {other.slop:g} s: {other.match_rate:.2f} matches a frame, "
            f"{other.work.share:.1%} of one processor"
        )
        lines += ["", head, *_table(other.work)]
    if result.memory is not None:
        m = result.memory
        lines += ["", f"memory: {m.begin:.1f} MB, {m.seconds:.0f} s later {m.end:.1f} MB; {m.slope:+.2f} MB/h"]
    lines += ["", *(f"{'met   ' if met else 'MISSED'} {goal}" for goal, met in result.goals().items())]
    return "\n".join(lines)


def page(result: Result, command: str) -> str:
    """The result as a page of documentation; ``command`` is what it was made by."""
    return f"""# The live node under load

Six cameras at 12 Hz (1600 x 900, JPEG) and five radars at 13 Hz on a real ROS 2 graph, with a detector that takes no
time: what is left is the node's own work. The publisher, the node and the receiver are processes of one machine. A
frame's last message is the last of those that the node waits for; a node that needs no time would answer then. CPU time
is the node's, by part, for each frame of the trigger camera; measuring it costs about 2 us a call more.

```text
{text(result)}
```

Made by `{command}`. ApproximateTimeSynchronizer (message_filters) gets the images and sweeps only, in the same
executor, and does nothing with a match; the node besides reads camera_info and /tf, converts, places and publishes.
"""


def _table(work: Work) -> list[str]:
    rows = sorted(work.parts.items(), key=lambda item: -item[1])
    shown = [f"  {part:<26}{ms:8.2f} ms{_calls(work, part)}" for part, ms in rows]
    return ["  CPU time for each frame of the trigger camera:", *shown, f"  {'all':<26}{work.per_frame:8.2f} ms"]


def _calls(work: Work, part: str) -> str:
    return f"{work.calls[part]:8.1f} calls" if part in work.calls else ""
