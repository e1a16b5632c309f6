"""The node under load: six cameras at 12 Hz and five radars at 13 Hz on a real ROS 2 graph, with a detector that takes
no time.

    make load        about 80 seconds
    make soak        ten minutes and a half; does memory grow?

A stream of simulated drives (1600 x 900 JPEG images of about 150 kB, sweeps of 43-byte returns, /tf at 100 Hz) is
published in real time by one process, the node runs in a second one, and a third one takes its results. Reported are
frames lost, the time from the publication of a frame's last message to the arrival of its detections, and the node's
CPU time by part. Then message_filters' ApproximateTimeSynchronizer gets the same stream, where it can be imported.

Exit code 0: every goal is met; 1: one is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
from load.listener import Heard
from load.meter import samples_of
from load.parts import CONVERSION, MATCHED
from load.publisher import Published
from load.report import growth, judged, possible_frames, work_between
from load.result import Comparison, Result, machine, page, text
from load.stream import CAMERA_HZ, KINDS, SEED, Content, Event, schedule, simulated_content

from crkd_core import cli
from crkd_core.config import load_recipe
from crkd_core.data.images import decoded
from crkd_core.runtime.poses import SECOND
from crkd_core.types import CameraImage
from crkd_ros.parameters import load_parameters
from rosbag_tools.children import Child, Children, ended_by_signals, graph_environment

WARM_UP, END = 3.0, 1.0
"""Seconds at the beginning and at the end of a run that are not judged."""
MEMORY_WARM_UP = 120.0
"""Seconds before memory is watched: until every bounded buffer is full."""
START_TIME = 120.0
SLOPS = (0.05, 0.1)
"""Of the synchroniser, s."""


def decode_ms(content: Content) -> float:
    """CPU time of decoding one image of each camera, ms."""
    repeat = 3
    images = [
        CameraImage(images[0], content.models[name].intrinsics, np.eye(4), np.eye(4), 0)
        for name, images in content.images.items()
    ]
    begun = time.process_time()
    for _ in range(repeat):
        for image in images:
            decoded(image, "image")
    return 1e3 * (time.process_time() - begun) / repeat


def measure_node(args: argparse.Namespace, content: Content) -> Result:
    """Run the node on the stream."""
    before = os.getloadavg()[0]
    files = {name: args.out / f"{name}.json" for name in ("node", "listener", "publisher")}
    with Children(args.out / "logs", graph_environment()) as children:
        listener = children.start_module("listener", "load.listener", [str(files["listener"])])
        detector = children.start_module("node", "load.node", [str(files["node"])])
        listener.wait_for("listening", timeout=START_TIME)
        detector.wait_for("active", timeout=START_TIME, others=[listener])
        publisher = start_publisher(children, files["publisher"], args, args.seconds)
        publisher.wait(timeout=args.seconds + START_TIME, others=[listener, detector])
        ended(detector)
        ended(listener)
    published = msgspec.json.decode(files["publisher"].read_bytes(), type=Published)
    heard = msgspec.json.decode(files["listener"].read_bytes(), type=Heard)
    samples = samples_of(files["node"])
    parameters = load_parameters()
    events = schedule(parameters, seconds=args.seconds, seed=args.seed)
    begin, end = judged_time(published, args.seconds)
    sweeps = load_recipe("student_r50").live_sweeps
    possible = possible_frames(published, events, content, parameters, sweeps=sweeps)
    sizes = [len(image) for images in content.images.values() for image in images]
    taken = samples[-1].calls[CONVERSION]
    memory_begin = published.start + round(MEMORY_WARM_UP * SECOND)
    return Result(
        machine=machine(),
        load_average=(before, os.getloadavg()[0]),
        seed=args.seed,
        seconds=args.seconds,
        image_kilobytes=round(sum(sizes) / len(sizes) / 1e3, 1),
        decode_ms=round(decode_ms(content), 2),
        answers=judged(possible, heard, begin=begin, end=end, messages_lost=len(events) + 1 - taken),
        work=work_between(samples, begin=begin, end=end, frames_per_second=CAMERA_HZ),
        publisher_share=round(published.cpu / args.seconds, 4),
        memory=growth(samples, begin=memory_begin, end=end) if args.soak else None,
    )


def measure_synchronizer(args: argparse.Namespace, content: Content) -> tuple[Comparison, ...]:
    """Run the synchronisers, side by side, on the same stream."""
    pairs = [(event.topic, KINDS[event.kind]) for event in first_messages(content)]
    words = [word for pair in pairs for word in pair]
    files = {slop: args.out / f"synchronizer_{slop:g}.json" for slop in SLOPS}
    with Children(args.out / "logs", graph_environment()) as children:
        running = [
            children.start_module(f"synchronizer_{slop:g}", "load.synchronizer", [str(path), str(slop), *words])
            for slop, path in files.items()
        ]
        for child in running:
            child.wait_for("listening", timeout=START_TIME)
        publisher = start_publisher(children, args.out / "publisher_again.json", args, args.compare)
        publisher.wait(timeout=args.compare + START_TIME, others=running)
        for child in running:
            ended(child)
    published = msgspec.json.decode((args.out / "publisher_again.json").read_bytes(), type=Published)
    begin, end = judged_time(published, args.compare)
    found = []
    for slop, path in files.items():
        work = work_between(samples_of(path), begin=begin, end=end, frames_per_second=CAMERA_HZ)
        found.append(Comparison(slop, work.calls.get(MATCHED, 0.0), work))
    return tuple(found)


def first_messages(content: Content) -> list[Event]:
    """One message of each topic that a synchroniser would match: images and sweeps."""
    return [Event(0, "image", name, 0) for name in content.images] + [
        Event(0, "radar", name, 0) for name in content.clouds
    ]


def start_publisher(children: Children, out: Path, args: argparse.Namespace, seconds: float) -> Child:
    """Start the sensors."""
    return children.start_module("publisher", "load.publisher", [str(out), str(seconds), str(args.seed)])


def ended(child: Child) -> None:
    """End a program.

    Raises:
        UserError: it failed.
    """
    code = child.stop()
    if code:
        raise cli.UserError(f"{child.name}: exit code {code}; its log is {child.log}")


def judged_time(published: Published, seconds: float) -> tuple[int, int]:
    """From when to when a run counts, ns of the system clock."""
    return published.start + round(WARM_UP * SECOND), published.start + round((seconds - END) * SECOND)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a length that is too short.
    """
    parser = cli.ArgumentParser(
        prog="python -m load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=cli.finite, help="length of the stream (default: 30; with --soak: 600)")
    parser.add_argument(
        "--compare",
        type=cli.finite,
        help="length of the stream for the synchroniser; 0: leave it out (default: 15; with --soak: 0)",
    )
    parser.add_argument("--soak", action="store_true", help="also watch memory, from the third minute on")
    parser.add_argument("--seed", type=int, default=SEED, help="of images, phases and jitter (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/load"), help="folder for logs, records and result.json")
    parser.add_argument("--page", type=Path, help="also write the result as a Markdown page there")
    args = parser.parse_args(argv)
    args.seconds = args.seconds if args.seconds is not None else 600.0 if args.soak else 30.0
    args.compare = args.compare if args.compare is not None else 0.0 if args.soak else 15.0
    least = MEMORY_WARM_UP + 30.0 if args.soak else WARM_UP + END + 4.0
    for name, value, shortest in (("--seconds", args.seconds, least), ("--compare", args.compare or 1e9, 8.0)):
        if value < shortest:
            raise cli.UserError(f"{name}: expected {shortest:g} or more, got {value:g}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure, tell and write; returns the exit code."""
    args = arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    content = simulated_content(seed=args.seed)
    with ended_by_signals():
        result = measure_node(args, content)
        if args.compare and importlib.util.find_spec("message_filters") is not None:
            result = msgspec.structs.replace(result, comparisons=measure_synchronizer(args, content))
        elif args.compare:
            sys.stdout.write("message_filters cannot be imported (source a ROS distribution): no comparison\n")
    sys.stdout.write(text(result) + "\n")
    path = args.out / "result.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2))
    sys.stdout.write(f"written: {path}\n")
    if args.page is not None:
        compared = f' LOAD_ARGS="--compare {args.compare:g}"' if args.soak and args.compare else ""
        args.page.write_text(page(result, f"make {'soak' if args.soak else 'load'}{compared}"))
    return 0 if all(result.goals().values()) else 1


if __name__ == "__main__":
    cli.run(main)
