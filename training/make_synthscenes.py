#!/usr/bin/env python3
"""Simulate drives and write them as a data set in nuScenes v1.0 format.

Over several machines or jobs, each writes its own share of the seeds to its own folder:
    torchrun --nproc-per-node 1 --nnodes 4 ... training/make_synthscenes.py --out D --seeds 0:400
    srun -n 4 training/make_synthscenes.py --out D --seeds 0:400        # D/shard-0-of-4 ... D/shard-3-of-4
    training/make_synthscenes.py --out D --seeds 0:400 --shard 2/4      # the same by hand
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import cv2
import msgspec
import numpy as np

from crkd_core import cli
from crkd_core.data.synthscenes.conditions import ConditionShares
from crkd_core.data.synthscenes.config import EVALUATION_SEEDS, SIMULATOR_VERSION, SynthConfig, check_image_width
from crkd_core.data.synthscenes.frames import frame_at, keyframe_stamps
from crkd_core.data.synthscenes.rigs import with_rig
from crkd_core.data.synthscenes.shards import Shard, parse_seeds, parse_shard, shard_of_environment
from crkd_core.data.synthscenes.world import DriveKey, conditions_of, make_drive
from crkd_core.data.synthscenes.writer import split_of, write_nuscenes


def _arguments() -> argparse.Namespace:
    parser = cli.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, help="the new data set; must not exist")
    parser.add_argument(
        "--seeds", nargs="+", default=["9000"], metavar="SEED",
        help=f"one drive (scene-<seed>) per seed, or ranges as 0:400; from {EVALUATION_SEEDS[0]} on they are for "
        "evaluation only (default: 9000)",
    )  # fmt: skip
    parser.add_argument("--duration", type=cli.finite, default=10.0, help="length of each drive, s (default: 10)")
    parser.add_argument("--version", default="v1.0-mini", help="name of the folder of tables (default: v1.0-mini)")
    parser.add_argument("--keyframes-only", action="store_true", help="no images and radar sweeps between key frames")
    parser.add_argument("--lidar-sweeps", action="store_true", help="also LiDAR sweeps between key frames (20 Hz)")
    parser.add_argument("--jpeg-quality", type=int, default=90, help="1 to 100 (default: 90)")

    world = parser.add_argument_group("what is simulated")
    world.add_argument("--rig", type=Path, metavar="FILE", help="cameras, radars, mountings; see config/rigs/")
    width = SynthConfig().image_width
    world.add_argument("--image-width", type=int, default=width, help=f"64 to 4096 pixels (default: {width})")
    world.add_argument("--light", choices=["day", "dusk", "night"], help="of every drive (default: drawn per drive)")
    world.add_argument("--rain", type=cli.finite, metavar="MM/H", help="in every drive, 0: dry (default: drawn)")
    world.add_argument("--visibility", type=cli.finite, metavar="M", help="in every drive's dry air (default: drawn)")
    world.add_argument("--sun", type=cli.finite, metavar="DEG", help="elevation of every day's sun (default: drawn)")

    work = parser.add_argument_group("work")
    work.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    work.add_argument(
        "--shard", type=parse_shard, metavar="I/N",
        help="write every N-th seed from the I-th (from 0) to OUT/shard-I-of-N (default: from RANK and WORLD_SIZE, or "
        "SLURM_PROCID and SLURM_NTASKS, where they are set)",
    )  # fmt: skip
    work.add_argument(
        "--measure", type=int, metavar="N",
        help="write nothing: simulate N key frames of these drives in one process and print the speed",
    )  # fmt: skip
    return parser.parse_args()


def _config(args: argparse.Namespace) -> SynthConfig:
    check_image_width(args.image_width)
    for name, low, high in (("rain", 0, 150), ("visibility", 20, 1e6), ("sun", 4, 90)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise cli.UserError(f"--{name}: expected {low} to {high:g}, got {value:g}")
    shares: dict[str, object] = {}
    if args.light is not None:
        shares |= {"night": float(args.light == "night"), "dusk": float(args.light == "dusk")}
    if args.rain is not None:
        shares |= {"rain": float(args.rain > 0)} | ({"rain_mm_h": (args.rain,) * 2} if args.rain else {})
    if args.visibility is not None:
        shares |= {"fog_visibility": (args.visibility,) * 2, "dry_visibility": (args.visibility,) * 2}
        shares["fog"] = float(args.visibility < 1000)
    if args.sun is not None:
        shares["day_elevation_deg"] = (args.sun,) * 2
    conditions = msgspec.structs.replace(ConditionShares(), **shares)
    config = msgspec.structs.replace(SynthConfig(), image_width=args.image_width, conditions=conditions)
    return config if args.rig is None else with_rig(config, args.rig)


def _measure(config: SynthConfig, seeds: list[int], count: int) -> None:
    """Print key frames per second of CPU time of this process, without and with a LiDAR revolution, in turns."""
    if count < 1:
        raise cli.UserError(f"--measure: expected at least 1 key frame, got {count}")
    cv2.setNumThreads(1)
    each = -(-count // len(seeds))
    begin = time.process_time()
    drives = [make_drive(seed, config, 1.0 + each / config.keyframe_hz) for seed in seeds]
    for drive in drives:  # fills what images of one drive share
        frame_at(drive, drive.start_ns, with_lidar=True)
    made = (time.process_time() - begin) / len(drives)
    work = [(drive, stamp) for drive in drives for stamp in keyframe_stamps(drive)[1:]][:count]
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"simulator: version {SIMULATOR_VERSION}, configuration {config.config_hash()}, seeds {seeds}")
    print(
        f"content: {len(config.cameras)} images of {config.image_width} pixels, 6 sweeps of {len(config.radars)} radars"
    )
    print(f"making a drive: {1e3 * made:.0f} ms of CPU time")
    spent, waited = np.zeros((len(work), 2)), np.zeros((len(work), 2))
    for k, (drive, stamp) in enumerate(work):
        for with_lidar in (False, True) if k % 2 == 0 else (True, False):  # the second finds the caches warm
            begin, wall = time.process_time(), time.perf_counter()
            frame_at(drive, stamp, with_lidar=with_lidar)
            spent[k, int(with_lidar)] = time.process_time() - begin
            waited[k, int(with_lidar)] = time.perf_counter() - wall
    for name, cpu, clock in zip(("without LiDAR", "with LiDAR"), spent.mean(axis=0), waited.mean(axis=0), strict=True):
        rates = f"{1 / cpu:.1f} key frames/s/core ({1 / clock:.1f} by the clock)"
        print(f"{name}: {1e3 * cpu:.1f} ms of CPU time, {rates}")


def _write(args: argparse.Namespace, config: SynthConfig, seeds: list[int], shard: Shard) -> None:
    mine, out = shard.part(seeds), shard.folder(args.out)
    if not mine:
        print(f"{out}: nothing to do, {len(seeds)} seeds for {shard.of} shards")
        return
    start = time.perf_counter()
    drives = [DriveKey(seed, config, args.duration) for seed in mine]
    count = write_nuscenes(
        out,
        drives,
        version=args.version,
        sweeps=not args.keyframes_only,
        lidar_sweeps=args.lidar_sweeps,
        jpeg_quality=args.jpeg_quality,
        jobs=args.jobs,
        progress=True,
    )
    seconds = time.perf_counter() - start
    for drive in drives:
        print(f"scene-{drive.seed:04d} ({split_of(drive.seed)}): {conditions_of(drive.seed, config).describe()}")
    jobs = min(args.jobs, os.cpu_count() or 1)
    print(
        f"{out}: {len(drives)} scenes, {count} key frames ({args.version}, configuration {config.config_hash()}) in "
        f"{seconds:.1f} s: {count / seconds:.2f} key frames/s, {count / seconds / jobs:.2f} per core"
    )


def main() -> int:
    """Write the data set and say where it is, or measure."""
    args = _arguments()
    config, seeds = _config(args), parse_seeds(args.seeds)
    if (args.out is None) == (args.measure is None):
        raise cli.UserError("name either --out DIR to write a data set or --measure N to write none")
    if args.measure is not None:
        _measure(config, seeds, args.measure)
    else:
        _write(args, config, seeds, args.shard or shard_of_environment(os.environ))
    return 0


if __name__ == "__main__":
    cli.run(main)
