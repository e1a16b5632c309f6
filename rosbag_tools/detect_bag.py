"""Run the detector on a recorded drive, without a ROS graph: a bag in, a bag of detections out.

Messages go through the same pipeline and detector as in the live node (``crkd_ros.pipeline``, ``crkd_ros.answers``), so
that frames made of the same measurements give the same boxes. The result does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from crkd_core import cli
from crkd_core.runtime.assembler import AssembledFrame
from crkd_core.runtime.detector import Detector
from crkd_ros import topics
from crkd_ros.answers import OUTPUT_TYPES, Answer, answer, make_detector, report_message
from crkd_ros.conversions import detection_messages, marker_array
from crkd_ros.parameters import DetectorParameters, load_parameters
from crkd_ros.pipeline import FramePipeline, absolute
from rosbag_tools.bags import Bag, BagError, BagWriter, check_can_write, new_bag, open_bag
from rosbag_tools.typestore import bag_messages

logger = logging.getLogger(__name__)

KEY_FRAME_REFERENCE = {
    "reference": "topic",
    "reference_topic": topics.GROUND_TRUTH,
    "reference_type": "vision_msgs/msg/Detection3DArray",
}
"""Parameters that make one frame per annotated key frame, at its stamp."""


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


def detect_bag(
    bag_path: Path | str,
    out: Path | str,
    detector: Detector,
    parameters: DetectorParameters,
    *,
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
    base, threshold = parameters.text("base_frame"), parameters.number("score_threshold")
    sweeps = detector.recipe.live_sweeps
    with open_bag(bag_path) as bag, new_bag(out, overwrite=overwrite) as writer:
        names = _announce(writer, parameters)
        # Closed here, so that an error is told after the end of the progress bar, on a line of its own.
        with contextlib.closing(
            assembled_frames(bag, parameters, sweeps=sweeps, keep_going=keep_going, summary=summary, progress=progress)
        ) as frames:
            for assembled in frames:
                found = answer(detector, assembled, frame_id=base, score_threshold=threshold, strict=not keep_going)
                _write(writer, names, found)
                _count(summary, found, detector.last_timings if assembled.frame is not None else {})
    for stage in summary.timings_ms:
        summary.timings_ms[stage] /= max(1, summary.frames)
    summary.seconds = time.perf_counter() - started
    return summary


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
    messages, stamp = bag_messages(), found.detections.stamp
    array, velocities = detection_messages(messages, found.detections)
    writer.write(names["detections_topic"], stamp, array)
    writer.write(names["velocities_topic"], stamp, velocities)
    writer.write(names["markers_topic"], stamp, marker_array(messages, found.detections))
    writer.write(names["manifest_topic"], stamp, report_message(messages, found.report))


def _count(summary: DetectSummary, found: Answer, timings: Mapping[str, float]) -> None:
    summary.states[found.report.state] += 1
    summary.incomplete.update(reason.split(":", 1)[0] for reason in found.report.reasons)
    summary.detections += len(found.detections)
    for stage, milliseconds in timings.items():
        summary.timings_ms[stage] = summary.timings_ms.get(stage, 0.0) + milliseconds


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.ArgumentParser(prog="detect_bag", description=__doc__.split("\n", 1)[0])
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or a single .mcap or .db3 file")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="folder with model.safetensors and model.json (default: the parameter file's, else the shipped weights)",
    )
    parser.add_argument("--out", type=Path, required=True, help="bag to write: a folder, or a path ending in .mcap")
    parser.add_argument("--params", type=Path, help="ROS 2 parameter file (default: the shipped config/detector.yaml)")
    parser.add_argument(
        "--reference",
        choices=("camera", "instant", "keyframes"),
        help="what frames refer to. "
        "camera, instant: each image of the trigger camera, at its stamp or at its stamp minus its "
        f"offset; keyframes: each annotated key frame ({topics.GROUND_TRUTH}) (default: as the "
        "parameter file says)",
    )
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: as the parameter file says)")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="arithmetic of the network")
    parser.add_argument("--recipe", help="name the checkpoint's recipe must have")
    parser.add_argument("--score-threshold", type=cli.finite, help="leave out detections below this score")
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="count and report missing topics and messages that cannot be used, instead of stopping at the first",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a bag that exists")
    return parser


def overrides_of(args: argparse.Namespace) -> dict[str, object]:
    """Parameters that the command line sets."""
    chosen: dict[str, object] = {}
    if args.reference == "keyframes":
        chosen.update(KEY_FRAME_REFERENCE)
    elif args.reference is not None:
        chosen["reference"] = args.reference
    for name in ("device", "precision", "recipe", "score_threshold"):
        if getattr(args, name) is not None:
            chosen[name] = getattr(args, name)
    if args.checkpoint is not None:
        chosen["checkpoint"] = str(args.checkpoint)
    return chosen


def run(argv: list[str] | None = None) -> int:
    """The command; returns its exit code.

    Raises:
        UserError: whatever the user can mend.
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parameters = load_parameters(args.params, overrides_of(args))
    check_can_write(args.out, overwrite=args.overwrite)
    with open_bag(args.bag):
        pass  # a wrong path should not cost the time it takes to load a model
    summary = detect_bag(
        args.bag,
        args.out,
        make_detector(parameters),
        parameters,
        keep_going=args.keep_going,
        overwrite=args.overwrite,
        progress=True,
    )
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary.states.items()))
    print(
        f"{args.out}: {summary.frames} frames ({states or 'none'}), {summary.detections} detections, "
        f"{summary.seconds:.1f} s"
    )
    if summary.timings_ms:
        print("mean ms a frame: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in summary.timings_ms.items()))
    for sensor, count in sorted(summary.incomplete.items()):
        print(f"  {sensor}: missing or damaged in {count} frames")
    for topic, count in sorted(summary.malformed.items()):
        print(f"  {topic}: {count} messages could not be used")
    return 0


def main() -> NoReturn:
    """Entry point of the command."""
    cli.run(run)


if __name__ == "__main__":
    main()
