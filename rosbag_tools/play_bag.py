"""Publish a recorded drive on a ROS 2 graph: at the speed it was recorded, faster, or as fast as a detector answers.

The serialised messages are published as they are. With ``--lossless`` the player never runs more than ``--horizon``
seconds (of the recording) ahead of the oldest trigger message that has no answer yet. Answers come in order: a message
on ``--answer`` settles the messages on ``--trigger`` up to its own stamp. Together with a detector node that has
``drop_frames: false``, every frame is made of everything that was recorded for it.

The space key, or the parameter ``paused`` of the node ``bag_player``, holds the player and lets it go on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from crkd_core import cli
from rosbag_tools.player import PlayError, PlayOptions, play_bag


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    default = PlayOptions()
    parser = cli.ArgumentParser(
        prog="play_bag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or a single .mcap or .db3 file")
    parser.add_argument("--topics", nargs="+", default=(), metavar="TOPIC", help="publish only these (default: all)")
    parser.add_argument(
        "--rate",
        type=cli.finite,
        help="speed relative to the recording; 0: as fast as possible (default: 1; with --lossless: 0)",
    )
    parser.add_argument(
        "--clock",
        type=cli.finite,
        nargs="?",
        const=100.0,
        default=0.0,
        metavar="HZ",
        help="publish /clock, for nodes with use_sim_time (default: not; without a number: 100)",
    )
    parser.add_argument("--loop", action="store_true", help="start again at the end, until interrupted")
    parser.add_argument(
        "--start", type=cli.finite, default=0.0, metavar="S", help="begin so many seconds into the recording"
    )
    parser.add_argument(
        "--paused", action="store_true", help="wait for the space key, or paused:=false, before the first message"
    )
    parser.add_argument("--lossless", action="store_true", help="wait for an answer to every trigger message")
    parser.add_argument("--trigger", default=default.trigger, help="topic that is answered (default: %(default)s)")
    parser.add_argument("--answer", default=default.answer, help="topic of the answers (default: %(default)s)")
    parser.add_argument(
        "--horizon",
        type=cli.finite,
        default=default.horizon,
        metavar="S",
        help="how far to run ahead of "
        "the oldest trigger without an answer, seconds of the recording (default: %(default)s)",
    )
    parser.add_argument(
        "--answer-timeout",
        type=cli.finite,
        default=default.answer_timeout,
        metavar="S",
        help="how long to wait for one answer (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=cli.finite,
        default=default.wait,
        metavar="S",
        help="how long to wait for subscribers before the first message; 0: do not wait (default: %(default)s)",
    )
    return parser


def run(argv: list[str] | None = None) -> int:
    """The command; returns its exit code.

    Raises:
        UserError: whatever the user can mend.
    """
    args = build_parser().parse_args(argv)
    rate = args.rate if args.rate is not None else 0.0 if args.lossless else 1.0
    for name, value, least in (
        ("--rate", rate, 0),
        ("--clock", args.clock, 0),
        ("--horizon", args.horizon, 0),
        ("--wait", args.wait, 0),
        ("--start", args.start, 0),
    ):
        if value < least:
            raise PlayError(f"{name}: expected {least} or more, got {value:g}")
    options = PlayOptions(
        topics=tuple(args.topics),
        rate=rate,
        clock=args.clock,
        loop=args.loop,
        start=args.start,
        paused=args.paused,
        lossless=args.lossless,
        trigger=args.trigger,
        answer=args.answer,
        horizon=args.horizon,
        answer_timeout=args.answer_timeout,
        wait=args.wait,
    )
    summary = play_bag(args.bag, options, progress=True)
    total = sum(summary.published.values())
    answers = f", {summary.answered} answers" if args.lossless else ""
    print(f"{args.bag}: {total} messages on {len(summary.published)} topics{answers}, {summary.seconds:.1f} s")
    for topic, type_name in summary.skipped.items():
        print(f"  {topic}: not played, message type {type_name} is not known here")
    return 0


def main() -> NoReturn:
    """Entry point of the command."""
    cli.run(run)


if __name__ == "__main__":
    main()
