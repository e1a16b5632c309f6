#!/usr/bin/env python3
"""Simulate key frames once, into a folder that any number of training runs on this machine read.

training/pack_synthscenes.py --seeds 0:4000 --lidar-sweeps 4 --lidar-step 3 --out frames
training/train.py teacher_study --frames frames --out runs/teacher
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.data.packed import PackedFrames, pack_simulated
from crkd_core.data.simulated import simulated_keys
from crkd_core.data.synthscenes.config import check_image_width
from crkd_core.data.synthscenes.shards import parse_seeds


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the new folder; must not exist")
    parser.add_argument("--seeds", nargs="+", required=True, metavar="SEED", help="of the drives, or ranges as 0:4000")
    parser.add_argument(
        "--frames-per-drive", type=int, default=4, help="key frames of each drive (default: %(default)s)"
    )
    parser.add_argument("--image-width", type=int, default=448, help="pixels; 0: no images (default: %(default)s)")
    parser.add_argument("--radar-sweeps", type=int, default=6, help="scans per radar (default: %(default)s)")
    parser.add_argument("--lidar-sweeps", type=int, default=0, help="revolutions of the LiDAR (default: %(default)s)")
    parser.add_argument(
        "--lidar-step", type=int, default=1, help="every so-many-th, back from the key frame (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser.parse_args()


def main() -> int:
    """Write the folder and say how large it is."""
    args = arguments()
    least = {"frames_per_drive": 1, "image_width": 0, "radar_sweeps": 0, "lidar_sweeps": 0, "lidar_step": 1, "jobs": 1}
    for name, bound in least.items():
        if getattr(args, name) < bound:
            raise UserError(f"--{name.replace('_', '-')}: expected {bound} or more, got {getattr(args, name)}")
    if args.image_width > 0:
        check_image_width(args.image_width)
    seeds = parse_seeds(args.seeds)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: expected each once, got {' '.join(args.seeds)}")
    keys = simulated_keys(seeds, frames_per_drive=args.frames_per_drive)
    lidar_sweeps = range(0, args.lidar_sweeps * args.lidar_step, args.lidar_step)
    begin = time.perf_counter()
    pack_simulated(
        args.out,
        keys,
        image_width=args.image_width,
        radar_sweeps=args.radar_sweeps,
        lidar_sweeps=lidar_sweeps,
        jobs=args.jobs,
        progress=not args.no_progress,
    )
    seconds, size = time.perf_counter() - begin, PackedFrames(args.out).contents.offsets[-1]
    what = f"{args.image_width} pixels, {args.radar_sweeps} radar and {args.lidar_sweeps} LiDAR sweeps"
    print(f"{args.out}: {len(keys)} key frames of {what}; {size / 1e6:.0f} MB, {size / len(keys) / 1e6:.2f} MB each")
    print(f"{seconds:.0f} s on {args.jobs} processes")
    return 0


if __name__ == "__main__":
    run(main)
