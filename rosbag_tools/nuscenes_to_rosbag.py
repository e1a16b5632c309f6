"""Scenes of a nuScenes-format data set as rosbag2 bags: every measurement at its own time, annotations included.

The topics and frames are those of ``crkd_ros.topics``. Run ``nuscenes_to_rosbag --help``; docs/rosbags.md says more.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.data.nuscenes import NuScenesIndex, load_index
from crkd_core.training.ground_truth import scenes_of_split
from crkd_ros import topics
from rosbag_tools.bags import BagError, check_can_write, listed
from rosbag_tools.scene_bag import BagOptions, ConvertError, checked_plan
from rosbag_tools.scene_bags import Outcome, convert_scenes
from rosbag_tools.scene_messages import ScenePlan
from rosbag_tools.scene_tables import version_of

# -------------------------------------------------------------------------------------------------------- preflight


def preflight_text(index: NuScenesIndex, plans: Mapping[str, ScenePlan]) -> str:
    """What would be written, and what is missing, as a few lines."""
    present: dict[str, int] = {}
    missing: dict[str, int] = {}
    lines = []
    for name, plan in plans.items():
        for channel, count in plan.channels.items():
            missing[channel] = missing.get(channel, 0) + count.missing
        for stream in plan.streams:
            if stream.channel is not None:
                present[stream.channel] = present.get(stream.channel, 0) + len(stream.stamps)
        first, last = plan.span
        lines.append(
            f"{name}: {(last - first) * 1e-9:.1f} s, {plan.key_frames} annotated key frames "
            f"({plan.key_frames_without_data} without any camera or radar file), "
            f"{plan.bytes / 1e6:.1f} MB of sensor files"
        )
    table = [f"{'sensor':<20}{'present':>9}{'missing':>9}"]
    table += [f"{name:<20}{present.get(name, 0):>9}{count:>9}" for name, count in sorted(missing.items())]
    absent = [path for plan in plans.values() for path in plan.missing]
    if absent:
        shown = [str(path.relative_to(index.root)) for path in absent]
        table.append(f"missing: {listed(shown, most=3)} (all of them: --missing FILE)")
    return "\n".join([*table, *lines])


def _preflight(index: NuScenesIndex, bags: Mapping[str, Path], args: argparse.Namespace) -> None:
    plans: dict[str, ScenePlan] = {}
    for name in bags:
        try:
            plans[name] = checked_plan(index, name, keyframes_only=args.keyframes_only)
        except ConvertError as error:  # noqa: PERF203  # the other scenes are looked at all the same
            if len(bags) == 1:
                raise
            print(f"{name}: left out: {error}")
    print(preflight_text(index, plans))
    if args.missing is not None:
        paths = [str(path.relative_to(index.root)) for plan in plans.values() for path in plan.missing]
        try:
            args.missing.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--missing {args.missing}: cannot be written: {error.strerror}") from None
        print(f"missing files: {len(paths)}, listed in {args.missing}")


# ----------------------------------------------------------------------------------------------------- command line


def foxglove_names(channels: Mapping[str, str]) -> dict[str, str]:
    """The topic names that Foxglove's nuScenes layouts know, for ``BagOptions.renamed``.

    Args:
        channels: sensor -> camera, radar or lidar.
    """
    names = {topics.GROUND_TRUTH_MARKERS: "/markers/annotations"}
    for channel, modality in channels.items():
        name = channel.lower()
        if modality == "camera":
            names[topics.image_topic(name)] = f"/{name}/image_rect_compressed"
        else:
            names[topics.points_topic(name)] = f"/{name}"
    return names


def shard_of(text: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """(i, n): this process converts every n-th scene, beginning with scene i.

    Args:
        text: ``i/n`` as on the command line; None: from the environment of torchrun or SLURM, else 0/1.
        environment: variables.

    Raises:
        UserError: not i/n with 0 <= i < n.
    """
    if text is None:
        for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
            if rank in environment and size in environment:
                text = f"{environment[rank]}/{environment[size]}"
                break
        else:
            return 0, 1
    i, slash, n = text.partition("/")
    if not slash or not i.isdigit() or not n.isdigit() or int(i) >= int(n):
        raise UserError(f"--shard: expected i/n with i from 0 to n - 1, got '{text}'")
    return int(i), int(n)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="nuscenes_to_rosbag",
        description="Convert scenes of a nuScenes-format data set to rosbag2 bags with images, radar and LiDAR points, "
        "transforms, odometry, CAN bus, map, ground truth and complete annotations, every message at its own time.",
        epilog="A bag appears under its name when it is complete. Run the same command again after an interruption: "
        "finished scenes are skipped (with --out-dir).",
    )
    parser.add_argument(
        "--dataroot", type=Path, required=True, help="folder that holds samples/, sweeps/ and the tables"
    )
    parser.add_argument("--version", help="folder of the tables (default: the only one there)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scene", help="one scene, for example scene-0916; needs --out")
    what.add_argument("--scenes", nargs="+", metavar="SCENE", help="these scenes; needs --out-dir")
    what.add_argument("--split", help="a split (train, val, mini_val, ..., or of <version>/splits.json); --out-dir")
    what.add_argument("--all", action="store_true", help="all scenes; needs --out-dir")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="bag of the one scene: a folder, or a path ending in .mcap or .db3")
    where.add_argument("--out-dir", type=Path, help="folder of the bags, each named like its scene")
    content = parser.add_argument_group("content")
    content.add_argument("--keyframes-only", action="store_true", help="leave out the sweeps between key frames (2 Hz)")
    content.add_argument("--no-map", action="store_true", help="leave out the map, which takes seconds to cut out")
    content.add_argument(
        "--names",
        choices=("ros", "foxglove"),
        default="ros",
        help="topic names: as image_transport has them and the detector expects, or as Foxglove's nuScenes layouts do "
        "(default: %(default)s)",
    )
    content.add_argument(
        "--rename", action="append", default=[], metavar="FROM:=TO", help="another name for a topic; may be repeated"
    )
    storage = parser.add_argument_group("storage")
    storage.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap", help="(default: %(default)s)")
    storage.add_argument(
        "--compression",
        choices=("none", "zstd"),
        default="none",
        help="zstd: smaller by a quarter, slower (default: %(default)s)",
    )
    work = parser.add_argument_group("work")
    work.add_argument("--jobs", type=int, default=1, help="processes, one scene each (default: %(default)s)")
    work.add_argument(
        "--shard",
        metavar="I/N",
        help="convert every N-th scene from scene I (0 to N - 1) on, one machine of N (default: RANK/WORLD_SIZE of "
        "torchrun, or SLURM_PROCID/SLURM_NTASKS, where set; else all scenes)",
    )
    work.add_argument("--overwrite", action="store_true", help="replace bags that exist, finished or not")
    work.add_argument("--dry-run", action="store_true", help="say what would be written and what is missing, no more")
    work.add_argument("--missing", type=Path, metavar="FILE", help="with --dry-run: list all missing files there")
    work.add_argument("--no-progress", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    if (args.scene is None) != (args.out is None):
        raise UserError("--scene goes with --out, several scenes go with --out-dir")
    if args.jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, got {args.jobs}")
    if args.missing is not None and not args.dry_run:
        raise UserError("--missing: goes with --dry-run")
    return args


def _bags(index: NuScenesIndex, args: argparse.Namespace) -> dict[str, Path]:
    if args.scene is not None:
        return {index.scene(args.scene).name: args.out}
    names = [scene.name for scene in index.scenes]
    if args.split is not None:
        names = scenes_of_split(index.root / index.version, args.split, names)
    elif args.scenes is not None:
        names = [index.scene(name).name for name in dict.fromkeys(args.scenes)]
    i, n = shard_of(args.shard, os.environ)
    if n > 1:
        print(f"shard {i}/{n}: {len(names[i::n])} of {len(names)} scenes")
    return {name: args.out_dir / name for name in names[i::n]}


def _options(index: NuScenesIndex, args: argparse.Namespace) -> BagOptions:
    renamed: dict[str, str] = {}
    if args.names == "foxglove":
        modalities: dict[str, str] = {}
        for scene in index.scenes:
            modalities |= {channel: index.records(scene, channel)[0].modality for channel in index.channels(scene)}
        renamed = foxglove_names(modalities)
    for text in args.rename:
        before, arrow, after = text.partition(":=")
        if not arrow or not before.startswith("/") or not after.startswith("/"):
            raise UserError(f"--rename: expected /from:=/to, got '{text}'")
        renamed[before] = after
    return BagOptions(
        keyframes_only=args.keyframes_only,
        storage=args.storage,
        compression=args.compression,
        renamed=renamed,
        with_map=not args.no_map,
    )


def convert(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if a scene of several could not be converted."""
    args = _arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if args.out is not None and not args.dry_run:
        check_can_write(args.out, overwrite=args.overwrite)
    index = load_index(args.dataroot, version_of(args.dataroot, args.version))
    bags = _bags(index, args)
    if args.dry_run:
        _preflight(index, bags, args)
        return 0
    started = time.perf_counter()
    options, progress = _options(index, args), not args.no_progress
    outcome = convert_scenes(index, bags, options, jobs=args.jobs, overwrite=args.overwrite, progress=progress)
    if args.scene is not None:
        if outcome.failed:
            raise BagError(outcome.failed[args.scene])
        print(outcome.reports[0].text())
        return 0
    _summarise(outcome, time.perf_counter() - started)
    return 1 if outcome.failed else 0


def _summarise(outcome: Outcome, seconds: float) -> None:
    size = sum(report.bytes for report in outcome.reports)
    for report in outcome.reports:
        damaged = sum(count.damaged for count in report.channels.values())
        missing = sum(count.missing for count in report.channels.values())
        if damaged or missing:
            print(f"{report.scene}: {missing} files missing, {damaged} damaged")
        for line in report.problem_lines():
            print(f"  {line}")
    for scene, reason in outcome.failed.items():
        print(f"{scene}: failed: {reason}")
    print(
        f"{len(outcome.reports)} scenes converted, {len(outcome.finished)} were finished, "
        f"{len(outcome.failed)} failed; {size / 1e6:.0f} MB in {seconds:.1f} s ({size / 1e6 / seconds:.0f} MB/s)"
    )


def main() -> NoReturn:
    """Entry point of ``nuscenes_to_rosbag``."""
    run(convert)


if __name__ == "__main__":
    main()
