#!/usr/bin/env python3
"""Simulate drives and write them as a data set in nuScenes v1.0 format."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import msgspec

from crkd_core import cli
from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.data.synthscenes.world import make_drive
from crkd_core.data.synthscenes.writer import SPLIT, write_nuscenes


def _arguments() -> argparse.Namespace:
    parser = cli.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="the new data set; must not exist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[9000], help="one drive (scene-<seed>) per seed")
    parser.add_argument("--duration", type=cli.finite, default=10.0, help="length of each drive, seconds")
    parser.add_argument("--version", default="v1.0-mini", help="name of the folder of tables")
    parser.add_argument("--image-width", type=int, default=SynthConfig().image_width, help="pixels; images are 16:9")
    parser.add_argument("--jpeg-quality", type=int, default=90, help="1 to 100")
    parser.add_argument("--keyframes-only", action="store_true", help="no images and radar sweeps between key frames")
    parser.add_argument("--lidar-sweeps", action="store_true", help="also LiDAR sweeps between key frames (20 Hz)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args()


def main() -> int:
    """Write the data set and say where it is."""
    args = _arguments()
    if args.image_width < 64:
        raise cli.UserError(f"--image-width: expected at least 64 pixels, got {args.image_width}")
    start = time.perf_counter()
    config = msgspec.structs.replace(SynthConfig(), image_width=args.image_width)
    drives = [make_drive(seed, config, args.duration) for seed in args.seeds]
    write_nuscenes(
        args.out,
        drives,
        version=args.version,
        sweeps=not args.keyframes_only,
        lidar_sweeps=args.lidar_sweeps,
        jpeg_quality=args.jpeg_quality,
        jobs=args.jobs,
        progress=True,
    )
    scenes = ", ".join(f"scene-{drive.seed:04d}" for drive in drives)
    seconds = time.perf_counter() - start
    print(f"{args.out}: {scenes} ({args.version}, split '{SPLIT}'), {seconds:.1f} s with {args.jobs} processes")
    return 0


if __name__ == "__main__":
    cli.run(main)
