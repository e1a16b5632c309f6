"""Detections of recorded drives, through the same pipeline and detector as in the live node."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from crkd_core.data.errors import DataError
from crkd_core.runtime.assembler import AssembledFrame
from crkd_core.runtime.detector import Detector, Submitted
from crkd_core.runtime.tracker import Tracker
from crkd_core.types import FloatArray
from crkd_ros import topics
from crkd_ros.answers import OUTPUT_TYPES, Answer, Detect, answer, make_detector, output_messages
from crkd_ros.inputs import absolute
from crkd_ros.parameters import DetectorParameters
from crkd_ros.pipeline import FramePipeline
from rosbag_tools.bags import Bag, BagError, BagWriter, check_can_write, new_bag, open_bag
from rosbag_tools.read_ahead import read_ahead
from rosbag_tools.typestore import bag_messages

logger = logging.getLogger(__name__)

KEY_FRAME_REFERENCE = {
    "reference": "topic",
    "reference_topic": topics.GROUND_TRUTH,
    "reference_type": "vision_msgs/msg/Detection3DArray",
    "radar_staleness_ms": 500.0,
}
"""Parameters that make one frame per annotated key frame, at its stamp, of what the loader of the data set takes: six
sweeps of each radar, which span 462 ms where it skipped one of its beats."""

READ_AHEAD = 4
"""Frames that are made ready while the detector works on one."""
WRITE_BEHIND = 4
"""Answers that wait to be written, at most."""


@dataclass
class DetectSummary:
    """What was done.

    Attributes:
        states: number of frames by state.
        incomplete: sensor (or ``pose``, ``bev``) -> number of frames that lack it.
        malformed: messages that could not be used, by topic.
        detections: boxes in all.
        timings_ms: stage -> mean milliseconds a frame.
        seconds: wall time.
    """

    states: Counter[str] = field(default_factory=Counter)
    incomplete: Counter[str] = field(default_factory=Counter)
    malformed: Counter[str] = field(default_factory=Counter)
    detections: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def frames(self) -> int:
        """Number of frames."""
        return sum(self.states.values())

    def text(self, out: Path) -> str:
        """The summary as a few lines."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        what = f"{self.frames} frames ({states or 'none'}), {self.detections} detections"
        lines = [f"{out}: {what}, {self.seconds:.1f} s"]
        if self.timings_ms:
            lines.append("mean ms a frame: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in self.timings_ms.items()))
        lines += [
            f"  {sensor}: missing or damaged in {count} frames" for sensor, count in sorted(self.incomplete.items())
        ]
        lines += [f"  {topic}: {count} messages could not be used" for topic, count in sorted(self.malformed.items())]
        return "\n".join(lines)


def detect_bag(
    bag_path: Path | str,
    out: Path | str,
    detector: Detector,
    parameters: DetectorParameters,
    *,
    keep_input: bool = False,
    keep_going: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> DetectSummary:
    """Write the detections of a bag to a new bag.

    Args:
        bag_path: the recorded drive.
        out: the bag to write, with the topics that the node publishes; each message is recorded at its frame's
            reference stamp.
        detector: what to run.
        parameters: topics, frames and times, as for the node.
        keep_input: also copy every message of the bag, as it is; detections it holds already are replaced.
        keep_going: a topic that is missing, or a message that cannot be used, is reported and counted as in the node;
            otherwise it is an error.
        overwrite: replace a bag that is there.
        progress: show a progress bar.

    Raises:
        BagError: a bag that cannot be read or written, or lacks a topic.
        MessageError: a message that cannot be used.
        DataError: an image that cannot be decoded.
    """
    check_can_write(Path(out), overwrite=overwrite)
    summary, started = DetectSummary(), time.perf_counter()
    sweeps = detector.recipe.live_sweeps
    with open_bag(bag_path) as bag, new_bag(out, overwrite=overwrite) as writer:
        names = _announce(writer, parameters)
        if keep_input:
            _copy(bag, writer, without=set(names.values()))
        frames = assembled_frames(
            bag, parameters, sweeps=sweeps, keep_going=keep_going, summary=summary, progress=progress
        )
        # Ended before an error is told, so that it stands on a line of its own, after the progress bar.
        with read_ahead(frames, depth=READ_AHEAD) as ready, ThreadPoolExecutor(1) as behind:
            writing: deque[Future[None]] = deque()
            for found, timings in answers(
                detector,
                ready,
                frame_id=parameters.text("base_frame"),
                min_scores=parameters.min_scores(),
                tracker=parameters.tracker(),
                strict=not keep_going,
            ):
                _count(summary, found, timings)
                writing.append(behind.submit(_write, writer, names, found))
                if len(writing) > WRITE_BEHIND:
                    writing.popleft().result()
            for left in writing:
                left.result()
    for stage in summary.timings_ms:
        summary.timings_ms[stage] /= max(1, summary.frames)
    summary.seconds = time.perf_counter() - started
    return summary


def answers(
    detector: Detector,
    frames: Iterable[AssembledFrame],
    *,
    frame_id: str,
    min_scores: FloatArray | None = None,
    tracker: Tracker | None = None,
    strict: bool = False,
) -> Iterator[tuple[Answer, dict[str, float]]]:
    """Answers to frames, each with the detector's timings; a GPU computes one while the next one is prepared.

    Args:
        detector: what to run.
        frames: in order.
        frame_id: see ``answer``.
        min_scores: see ``answer``.
        tracker: see ``answer``.
        strict: see ``answer``.

    Raises:
        DataError: with ``strict``, an image that cannot be decoded; the message names the frame.
    """

    def answered(assembled: AssembledFrame, detect: Detect) -> tuple[Answer, dict[str, float]]:
        found = answer(detect, assembled, frame_id=frame_id, min_scores=min_scores, tracker=tracker, strict=strict)
        return found, detector.last_timings if assembled.frame is not None else {}

    under_way: tuple[AssembledFrame, Submitted] | None = None
    for assembled in frames:
        submitted = _submitted(detector, assembled)
        if under_way is not None:
            before, ticket = under_way
            under_way = None
            yield answered(before, lambda _, ticket=ticket: detector.collect(ticket))  # type: ignore[misc]
        if submitted is not None:
            under_way = (assembled, submitted)
        else:  # nothing to detect in, or an image that cannot be decoded: ``answer`` knows what to do
            yield answered(assembled, detector)
    if under_way is not None:
        before, last = under_way
        yield answered(before, lambda _: detector.collect(last))


def _submitted(detector: Detector, assembled: AssembledFrame) -> Submitted | None:
    if assembled.frame is None:
        return None
    try:
        return detector.submit(assembled.frame)
    except DataError:
        return None


def assembled_frames(
    bag: Bag,
    parameters: DetectorParameters,
    *,
    sweeps: int,
    keep_going: bool = False,
    summary: DetectSummary | None = None,
    progress: bool = False,
) -> Generator[AssembledFrame, None, None]:
    """The frames of a bag, as the node would make them in a replay that loses nothing.

    Args:
        bag: an open bag.
        parameters: topics, frames and times.
        sweeps: radar sweeps the model uses.
        keep_going: see ``detect_bag``.
        summary: its ``malformed`` is filled in.
        progress: show a progress bar.

    Raises:
        BagError: a topic is missing, or the bag is damaged.
        MessageError: a message that cannot be used.
    """
    pipeline = FramePipeline(parameters, sweeps=sweeps, replay=True, strict=not keep_going, warn=logger.warning)
    names = {use.topic for use in pipeline.inputs}
    if keep_going:
        absent = sorted(name for name in names if name not in bag.topics or not bag.topics[name].count)
        if absent:
            logger.warning("bag %s: no message on %s", bag.path, ", ".join(absent))
    else:
        bag.require(sorted(names))
    _check_types(bag, pipeline)
    total = sum(bag.topics[name].count for name in names if name in bag.topics)
    now = bag.start
    with tqdm(total=total, unit="msg", desc="detect", disable=not progress, mininterval=0.5) as bar:
        for message in bag.messages(names):
            # Recording times may go back by a little where topics were written side by side.
            now = max(now, message.stamp)
            yield from pipeline.on_message(message.topic, message.message, now)
            bar.update()
    yield from pipeline.flush(now)
    if summary is not None:
        summary.malformed = pipeline.malformed


def _copy(bag: Bag, writer: BagWriter, *, without: set[str]) -> None:
    """Every message of a bag, as it is. Readers put messages in order of time."""
    kept = [topic for topic in bag.topics if topic not in without]
    for topic in kept:
        writer.copy_topic(bag, topic)
    for topic, stamp, data in bag.raw_messages(kept) if kept else ():
        writer.write_raw(topic, stamp, data)


def _check_types(bag: Bag, pipeline: FramePipeline) -> None:
    """A topic of another type than expected would be a stream of useless messages.

    Images may be of either type: the message says which.
    """
    for use in pipeline.inputs:
        found = bag.topics.get(use.topic)
        images = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
        allowed = images if use.role == "image" else {use.type}
        if found is not None and use.role != "reference" and found.type not in allowed:
            raise BagError(
                f"bag {bag.path}: topic {use.topic}: expected {' or '.join(sorted(allowed))}, got {found.type}"
            )


def _announce(writer: BagWriter, parameters: DetectorParameters) -> Mapping[str, str]:
    names = {key: absolute(parameters.text(key)) for key in OUTPUT_TYPES}
    for key, name in names.items():
        writer.add_topic(name, OUTPUT_TYPES[key])
    return names


def _write(writer: BagWriter, names: Mapping[str, str], found: Answer) -> None:
    for key, message in output_messages(bag_messages(), found, wanted=OUTPUT_TYPES):
        writer.write(names[key], found.detections.stamp, message)


def _count(summary: DetectSummary, found: Answer, timings: Mapping[str, float]) -> None:
    summary.states[found.report.state] += 1
    summary.incomplete.update(reason.split(":", 1)[0] for reason in found.report.reasons)
    summary.detections += len(found.detections)
    for stage, milliseconds in timings.items():
        summary.timings_ms[stage] = summary.timings_ms.get(stage, 0.0) + milliseconds


# ----------------------------------------------------------------------------------------------------- several bags


@dataclass(frozen=True)
class DetectTask:
    """One bag to work on."""

    bag: Path
    out: Path
    keep_input: bool
    keep_going: bool
    overwrite: bool


def detected(
    tasks: Sequence[DetectTask], parameters: DetectorParameters, *, jobs: int = 1
) -> Iterator[tuple[DetectTask, Callable[[], DetectSummary]]]:
    """Work on bags, in several processes with a detector each; each task with a function that gives its summary.

    Args:
        tasks: what to do.
        parameters: as for the node.
        jobs: processes; they share the processors.
    """
    if not tasks:
        return
    if min(jobs, len(tasks)) == 1:
        detector = make_detector(parameters)
        for task in tasks:
            yield task, partial(_work_on, task, detector, parameters, progress=True)
        return
    context = multiprocessing.get_context("forkserver")
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=context, initializer=_begin, initargs=(parameters, threads)
    ) as pool:
        futures = {pool.submit(_work, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result


_own: tuple[Detector, DetectorParameters] | None = None
"""In a worker process: its detector."""


def _begin(parameters: DetectorParameters, threads: int) -> None:
    global _own  # noqa: PLW0603  # a pool gives its processes no other place for what they keep
    torch.set_num_threads(threads)
    _own = (make_detector(parameters), parameters)


def _work(task: DetectTask) -> DetectSummary:
    assert _own is not None
    return _work_on(task, *_own, progress=False)


def _work_on(task: DetectTask, detector: Detector, parameters: DetectorParameters, *, progress: bool) -> DetectSummary:
    return detect_bag(
        task.bag,
        task.out,
        detector,
        parameters,
        keep_input=task.keep_input,
        keep_going=task.keep_going,
        overwrite=task.overwrite,
        progress=progress,
    )
