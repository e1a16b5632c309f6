"""How much of the detector's own speed detect_bag keeps on this machine.

    python -m rosbag_tools.benchmark_detect BAG --out /tmp/benchmark

The bare detector gets the frames of the bag one after the other, ready in memory; detect_bag reads the bag, makes the
frames, runs the same detector and writes a bag. Both are run in turn; medians are shown.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_ros.answers import make_detector
from crkd_ros.parameters import load_parameters
from rosbag_tools.bag_detection import assembled_frames, detect_bag
from rosbag_tools.bags import open_bag


def benchmark(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = ArgumentParser(
        prog="python -m rosbag_tools.benchmark_detect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", type=Path, help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument("--params", type=Path, help="ROS 2 parameter file (default: the shipped config/detector.yaml)")
    parser.add_argument("--checkpoint", type=Path, help="folder of a model (default: the parameter file's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--score-threshold", type=float, default=0.0, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="new bag; removed at the end")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.out.exists():
        raise UserError(f"--out {args.out}: exists already; name a new bag")
    chosen: dict[str, object] = {"device": args.device, "score_threshold": args.score_threshold}
    if args.checkpoint is not None:
        chosen["checkpoint"] = str(args.checkpoint)
    parameters = load_parameters(args.params, chosen)
    detector = make_detector(parameters)
    with open_bag(args.bag) as bag:
        made = assembled_frames(bag, parameters, sweeps=detector.recipe.live_sweeps)
        frames = [assembled.frame for assembled in made if assembled.frame is not None]
    if not frames:
        raise UserError(f"bag {args.bag}: no frame can be made of it")
    detector(frames[0])
    bare, whole, cpu = [], [], []
    for _ in range(args.repeat):
        started, before = time.perf_counter(), time.process_time()
        for frame in frames:
            detector(frame)
        bare.append(time.perf_counter() - started)
        between = time.process_time()
        try:
            whole.append(detect_bag(args.bag, args.out, detector, parameters, overwrite=True).seconds)
        finally:
            shutil.rmtree(args.out, ignore_errors=True)
        cpu.append((between - before) / (time.process_time() - between))
    a, b = statistics.median(bare), statistics.median(whole)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"{platform.machine()}, {detector.device}, {torch.get_num_threads()} threads, {load}; {args.repeat} runs")
    print(f"{detector.recipe.name}: {len(frames)} frames, bare detector {len(frames) / a:.2f}/s, ", end="")
    print(f"detect_bag {len(frames) / b:.2f}/s: {a / b:.2f} of it (by CPU time {statistics.median(cpu):.2f})")
    return 0


def main() -> NoReturn:
    """Entry point."""
    run(benchmark)


if __name__ == "__main__":
    main()
