"""How fast scenes become bags on this machine, beside a plain copy of the same files.

    python -m rosbag_tools.benchmark --dataroot DATA --scenes scene-0061 scene-0103 --out /tmp/benchmark

Every variant is run in turn, several times, after a warm-up that brings the files into memory; medians are shown. CPU
is the time that processors worked for it, in all processes.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.data.nuscenes import NuScenesIndex, load_index
from rosbag_tools.scene_bag import BagOptions
from rosbag_tools.scene_bags import convert_scenes
from rosbag_tools.scene_tables import version_of


@dataclass(frozen=True)
class Run:
    """One run of one variant, s."""

    wall: float
    cpu: float


Work = Callable[[], float]
"""What is measured; returns the CPU seconds of processes that are not this one's children."""


def measured(work: Work) -> Run:
    """Wall and CPU time of a call, its child processes included; the disk has nothing left to do before."""
    os.sync()
    started, before = time.perf_counter(), _cpu()
    elsewhere = work()
    return Run(time.perf_counter() - started, _cpu() - before + elsewhere)


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _files(index: NuScenesIndex, scenes: Sequence[str]) -> list[Path]:
    return [
        record.path.relative_to(index.root)
        for name in scenes
        for channel in index.channels(index.scene(name))
        for record in index.records(index.scene(name), channel)
        if record.present
    ]


def variants(index: NuScenesIndex, scenes: Sequence[str], out: Path) -> dict[str, Work]:
    """Name -> what is measured; each writes below ``out``."""
    files = "\0".join(str(path) for path in _files(index, scenes)).encode()

    def copy() -> float:
        target = out / "copy"
        target.mkdir(parents=True)
        command = ["xargs", "-0", "cp", "--parents", "-t", str(target.resolve())]
        subprocess.run(command, input=files, cwd=index.root, check=True)
        return 0.0

    def converting(jobs: int, options: BagOptions) -> Work:
        def convert() -> float:
            outcome = convert_scenes(index, {name: out / "bags" / name for name in scenes}, options, jobs=jobs)
            if outcome.failed:
                raise UserError(f"benchmark: {outcome.failed}")
            return sum(report.cpu_seconds for report in outcome.reports) if jobs > 1 else 0.0

        return convert

    plain = BagOptions(with_map=False)
    found: dict[str, Work] = {"plain copy (cp)": copy, "mcap": converting(1, plain)}
    if len(scenes) > 1:
        found["mcap, 2 processes"] = converting(2, plain)
    found["mcap, zstd"] = converting(1, BagOptions(with_map=False, compression="zstd"))
    found["sqlite3"] = converting(1, BagOptions(with_map=False, storage="sqlite3"))
    found["mcap, with map"] = converting(1, BagOptions())
    return found


def benchmark(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = ArgumentParser(
        prog="python -m rosbag_tools.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataroot", type=Path, required=True, help="data set in nuScenes format")
    parser.add_argument("--version", help="folder of the tables (default: the only one there)")
    parser.add_argument("--scenes", nargs="+", required=True, metavar="SCENE", help="what to convert")
    parser.add_argument("--out", type=Path, required=True, help="new folder for what is written; removed at the end")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each variant (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.out.exists():
        raise UserError(f"--out {args.out}: exists already; name a new folder")
    if args.repeat < 1:
        raise UserError(f"--repeat: expected 1 or more, got {args.repeat}")
    index = load_index(args.dataroot, version_of(args.dataroot, args.version))
    size = sum((index.root / path).stat().st_size for path in _files(index, args.scenes)) / 1e6
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    print(f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {load}")
    print(f"{len(args.scenes)} scenes, {len(_files(index, args.scenes))} files, {size:.0f} MB; {args.repeat} runs")
    runs: dict[str, list[Run]] = {}
    try:
        for turn in range(args.repeat + 1):
            for name, work in variants(index, args.scenes, args.out).items():
                shutil.rmtree(args.out, ignore_errors=True)
                one = measured(work)
                if turn:  # the first one warms up
                    runs.setdefault(name, []).append(one)
    finally:
        shutil.rmtree(args.out, ignore_errors=True)
    _print(runs, size, len(args.scenes))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"largest process: {peak / 1e3:.0f} MB")
    return 0


def _print(runs: dict[str, list[Run]], size: float, scenes: int) -> None:
    copy = statistics.median(one.wall for one in runs["plain copy (cp)"])
    print(f"{'':<20}{'s a scene':>11}{'CPU s':>8}{'MB/s':>8}{'of cp':>8}{'fastest':>9}")
    for name, found in runs.items():
        wall, cpu = statistics.median(one.wall for one in found), statistics.median(one.cpu for one in found)
        best = min(one.wall for one in found)
        print(
            f"{name:<20}{wall / scenes:>11.2f}{cpu / scenes:>8.2f}{size / wall:>8.0f}{copy / wall:>8.0%}"
            f"{size / best:>9.0f}"
        )


def main() -> NoReturn:
    """Entry point."""
    run(benchmark)


if __name__ == "__main__":
    main()
