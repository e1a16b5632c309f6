"""Run the detector on recorded drives, without a ROS graph: a bag in, a bag of detections out.

Messages go through the same pipeline and detector as in the live node (``crkd_ros.pipeline``, ``crkd_ros.answers``), so
that frames made of the same measurements give the same boxes. The result does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from pathlib import Path
from typing import NoReturn

from crkd_core import cli
from crkd_ros import topics
from crkd_ros.parameters import load_parameters
from rosbag_tools.bag_detection import KEY_FRAME_REFERENCE, DetectTask, detected
from rosbag_tools.bags import check_can_write, open_bag


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = cli.ArgumentParser(prog="detect_bag", description=__doc__.split("\n", 1)[0])
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="folder with model.safetensors and model.json (default: the parameter file's, else the shipped weights)",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="bag to write for a single BAG: a folder, or a path ending in .mcap")
    where.add_argument("--out-dir", type=Path, help="folder of the bags to write, each named like its input")
    parser.add_argument("--keep-input", action="store_true", help="copy all messages of the input to the output, too")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes with a detector each, one bag at a time (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="with --out-dir: leave out bags whose output is there")
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
    outputs = _outputs(args)
    parameters = load_parameters(args.params, overrides_of(args))
    for path, out in outputs.items():
        check_can_write(out, overwrite=args.overwrite)
        with open_bag(path):
            pass  # a wrong path should not cost the time it takes to load a model
    failed = 0
    tasks = [DetectTask(path, out, args.keep_input, args.keep_going, args.overwrite) for path, out in outputs.items()]
    for task, result in detected(tasks, parameters, jobs=args.jobs):
        try:
            print(result().text(task.out), flush=True)
        except cli.UserError as error:  # noqa: PERF203  # the other bags are worked on all the same
            if len(tasks) == 1:
                raise
            failed += 1
            print(f"{task.bag}: failed: {error}", flush=True)
    return 1 if failed else 0


def _outputs(args: argparse.Namespace) -> dict[Path, Path]:
    """Input -> output."""
    if args.jobs < 1:
        raise cli.UserError(f"--jobs: expected 1 or more, got {args.jobs}")
    if args.out is not None:
        if len(args.bags) > 1 or args.resume:
            raise cli.UserError("--out is for a single bag; several bags, and --resume, go with --out-dir")
        return {args.bags[0]: args.out}
    outputs = {path: args.out_dir / path.stem for path in args.bags}
    twice = [out.name for out, count in Counter(outputs.values()).items() if count > 1]
    if twice:
        raise cli.UserError(f"--out-dir: several bags named {twice[0]}; rename one, or write it by itself")
    done = [path for path, out in outputs.items() if args.resume and out.exists()]
    if done:
        print(f"{len(done)} of {len(outputs)} bags are there already")
    return {path: out for path, out in outputs.items() if path not in done}


def main() -> NoReturn:
    """Entry point of the command."""
    cli.run(run)


if __name__ == "__main__":
    main()
