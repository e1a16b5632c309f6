"""The detector's state of health as a level, a sentence and key-value pairs; no ROS in here."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import torch

from crkd_core.runtime.assembler import FrameState
from crkd_core.runtime.detector import DetectorStatus
from crkd_core.runtime.poses import SECOND
from crkd_ros.answers import FrameReport
from crkd_ros.pipeline import FramePipeline


class Level(IntEnum):
    """The levels of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True)
class Status:
    """One line on /diagnostics.

    Attributes:
        level: how bad it is.
        message: one sentence.
        values: the figures behind it.
    """

    level: Level
    message: str
    values: dict[str, str]


@dataclass
class Health:
    """Collects what happened between two messages on /diagnostics; may be told about answers from another thread.

    Attributes:
        answers: by state, since the activation.
        dropped: frames replaced by newer ones before the detector got to them, since the activation.
        failed: frames on which the detector failed, since the activation.
    """

    answers: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    failed: int = 0
    _recent: deque[FrameReport] = field(default_factory=lambda: deque(maxlen=64))
    _timings: deque[Mapping[str, float]] = field(default_factory=lambda: deque(maxlen=64))
    _since: int | None = None
    _before: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, report: FrameReport, timings_ms: Mapping[str, float]) -> None:
        """A frame was answered.

        Args:
            report: what the answer was made of.
            timings_ms: stage -> milliseconds; ``latency`` is the time from the trigger's arrival.
        """
        with self._lock:
            self.answers[report.state] += 1
            self._recent.append(report)
            self._timings.append(timings_ms)

    def failure(self) -> None:
        """The detector, or the handling of a message, failed."""
        with self._lock:
            self.failed += 1

    def status(self, pipeline: FramePipeline, now: int, *, detector: DetectorStatus, listening: bool = True) -> Status:
        """The state since the last call.

        Args:
            pipeline: its counts and arrival times are reported.
            now: the clock that the pipeline was given, ns.
            detector: how it runs.
            listening: whether anybody subscribes to the results.
        """
        with self._lock:
            return self._status(pipeline, now, detector, listening=listening)

    def _status(self, pipeline: FramePipeline, now: int, detector: DetectorStatus, *, listening: bool) -> Status:
        elapsed = (now - self._since) / SECOND if self._since is not None and now > self._since else None
        counts = Counter(pipeline.received)
        counts.update({f"malformed {topic}": n for topic, n in pipeline.malformed.items()})
        counts.update({"dropped": self.dropped, "failed": self.failed, "answers": sum(self.answers.values())})
        new = counts - self._before
        values = self._values(pipeline, now, new, elapsed) | detector_values(detector)
        level, message = self._verdict(new, detector, listening=listening)
        self._since, self._before = now, counts
        self._recent.clear()
        self._timings.clear()
        return Status(level, message, values)

    def _verdict(self, new: Counter[str], detector: DetectorStatus, *, listening: bool) -> tuple[Level, str]:
        malformed = [name.split(" ", 1)[1] for name in new if name.startswith("malformed ")]
        last = self._recent[-1] if self._recent else None
        state, reasons = (last.state, "; ".join(last.reasons)) if last is not None else ("", "")
        # The worst comes first.
        findings = [
            (new["failed"] > 0, Level.ERROR, f"the detector failed on {new['failed']} frames; see the log"),
            (not listening, Level.OK, "nobody subscribes to the results; nothing is computed"),
            (last is None, Level.ERROR, "no frame since the last report"),
            (state == FrameState.STALE.value, Level.ERROR, f"STALE: {reasons}"),
            (state == FrameState.DEGRADED.value, Level.WARN, f"DEGRADED: {reasons}"),
            (bool(malformed), Level.WARN, f"messages that cannot be used on {', '.join(malformed)}"),
            (new["dropped"] > 0, Level.WARN, f"{new['dropped']} frames dropped: slower than the trigger"),
            (bool(detector.missing), Level.WARN, f"the detector runs eagerly, slowly: {'; '.join(detector.missing)}"),
        ]
        return next(((level, text) for found, level, text in findings if found), (Level.OK, FrameState.NOMINAL.value))

    def _values(self, pipeline: FramePipeline, now: int, new: Counter[str], elapsed: float | None) -> dict[str, str]:
        values = {f"frames {state.value}": str(self.answers[state.value]) for state in FrameState}
        values["frames dropped"], values["frames failed"] = str(self.dropped), str(self.failed)
        values["frames pending"] = str(pipeline.assembler.pending)
        if elapsed:
            values["output rate (Hz)"] = f"{new['answers'] / elapsed:.2f}"
        if self._recent:
            values["state"] = self._recent[-1].state
        stages = {stage: 0 for timings in self._timings for stage in timings}  # in their order
        for stage in stages:
            times = [timings[stage] for timings in self._timings if stage in timings]
            values[f"{stage} mean (ms)"] = f"{sum(times) / len(times):.1f}"
            values[f"{stage} max (ms)"] = f"{max(times):.1f}"
        for use in pipeline.inputs:
            if use.role in ("image", "radar"):
                values.update(_sensor_values(use.sensor, pipeline, now, new[use.topic], elapsed))
        values.update({f"malformed {topic}": str(n) for topic, n in sorted(pipeline.malformed.items())})
        values.update({f"assembler {kind}": str(n) for kind, n in sorted(pipeline.assembler.counts.items())})
        return values


def detector_values(detector: DetectorStatus) -> dict[str, str]:
    """How the detector runs, and the memory that it takes on a GPU."""
    values = {"device": detector.device, "precision": detector.precision, "backend": detector.backend}
    if detector.device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(detector.device)
        memory = {
            "allocated": torch.cuda.memory_allocated(detector.device),
            "reserved": torch.cuda.memory_reserved(detector.device),
            "free": free,
            "total": total,
        }
        values |= {f"GPU memory {name} (MiB)": f"{size / 2**20:.0f}" for name, size in memory.items()}
    return values


def _sensor_values(sensor: str, pipeline: FramePipeline, now: int, new: int, elapsed: float | None) -> dict[str, str]:
    arrival = pipeline.assembler.arrivals().get(sensor)
    values = {f"{sensor} age (ms)": "never" if arrival is None else f"{(now - arrival[1]) / 1e6:.0f}"}
    if elapsed:
        values[f"{sensor} rate (Hz)"] = f"{new / elapsed:.2f}"
    return values
