#!/usr/bin/env python3
"""Measure a detector on a CPU, beside the same weights computed as the released CRKD code does.

    training/benchmark_cpu.py weights/student_tiny --threads 2

Six 1600 x 900 frames of noise, 8-bit RGB, and five radars of six sweeps, from host memory to boxes. All take turns,
frame by frame, so that other work on the machine disturbs them alike. Milliseconds of wall time and of CPU time (of all
threads), medians; the released way in float32 (``benchmark_reference.py``), the detector in float32 and bfloat16, which
pays where the CPU multiplies it (avx512_bf16, amx_bf16 among the flags of lscpu).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from benchmark_frames import FRAMES, noise  # type: ignore[import-not-found]
from benchmark_machine import machine  # type: ignore[import-not-found]
from benchmark_reference import ReferenceDetector  # type: ignore[import-not-found]

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.runtime.checkpoint import load_checkpoint
from crkd_core.runtime.detector import Detector
from crkd_core.types import SensorFrame

WARM_UP = 2


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of a camera + radar student")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=20, help="frames of each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the frames (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON there")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    for name in ("threads", "runs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}: expected 1 or more, got {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    exact = Detector(args.checkpoint, device="cpu")
    model, _ = load_checkpoint(args.checkpoint)
    if model.recipe.model.camera is None or model.recipe.model.radar is None:
        raise UserError(f"{args.checkpoint}: recipe '{model.recipe.name}': expected cameras and radars")
    released = ReferenceDetector(model, autocast=False)
    ways: dict[str, Callable[[SensorFrame], object]] = {
        "released way": lambda frame: released.network(released.preprocess(frame)),
        "detector, fp32": exact,
        "detector, bf16": Detector(args.checkpoint, device="cpu", precision="bf16"),
    }
    found = {
        "machine": machine(),
        "checkpoint": str(args.checkpoint),
        "recipe": exact.recipe.name,
        "threads": args.threads,
        "runs": args.runs,
        "seed": args.seed,
        "ms": {},
    }
    found["ms"] = in_turns(ways, noise(args.seed, pinned=False), args.runs)
    print(json.dumps(found, indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def in_turns(
    ways: dict[str, Callable[[SensorFrame], object]], frames: list[SensorFrame], runs: int
) -> dict[str, dict[str, float]]:
    """Median milliseconds of a frame, one way after the other."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(WARM_UP + runs):
        for name, way in ways.items():
            begin = time.perf_counter(), time.process_time()
            way(frames[i % FRAMES])
            wall[name].append(time.perf_counter() - begin[0])
            cpu[name].append(time.process_time() - begin[1])
    return {
        name: {
            "wall": 1e3 * statistics.median(wall[name][WARM_UP:]),
            "cpu": 1e3 * statistics.median(cpu[name][WARM_UP:]),
        }
        for name in ways
    }


if __name__ == "__main__":
    run(main)
