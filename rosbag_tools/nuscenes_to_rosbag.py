"""A scene of a nuScenes-format data set as a rosbag2 (MCAP): every measurement at its own time, annotations included.

The topics and frames are those of ``crkd_ros.topics``. Run ``python -m rosbag_tools.nuscenes_to_rosbag --help``.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes import NuScenesIndex, load_index
from crkd_ros.conversions import ConversionError
from rosbag_tools.bags import check_can_write, new_bag
from rosbag_tools.scene_messages import ChannelCount, ScenePlan, plan_scene


class ConvertError(UserError):
    """A scene that cannot be converted."""


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        scene: its name.
        out: the bag.
        channels: per sensor, what was written and what was not.
        key_frames: annotated key frames written.
        key_frames_without_data: key frames left out because none of their camera and radar files is there.
        messages: all messages written.
        bytes: their size.
        seconds: how long it took.
        problems: one line for each damaged file.
    """

    scene: str
    out: Path
    channels: dict[str, ChannelCount]
    key_frames: int
    key_frames_without_data: int
    messages: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problems: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """The report as a few lines."""
        total = self.key_frames + self.key_frames_without_data
        rate = self.bytes / 1e6 / self.seconds if self.seconds else 0.0
        lines = [f"{'sensor':<20}{'written':>9}{'missing':>9}{'damaged':>9}"]
        for name, count in self.channels.items():
            lines.append(f"{name:<20}{count.written:>9}{count.missing:>9}{count.damaged:>9}")
        lines += [f"damaged: {problem}" for problem in self.problems[:10]]
        if len(self.problems) > 10:
            lines.append(f"damaged: and {len(self.problems) - 10} more files")
        lines.append(
            f"key frames: {self.key_frames} of {total}"
            + (
                f" ({self.key_frames_without_data} without any camera or radar file left out)"
                if self.key_frames < total
                else ""
            )
        )
        lines.append(
            f"{self.scene} -> {self.out}: {self.messages} messages, {self.bytes / 1e6:.1f} MB in {self.seconds:.1f} s "
            f"({rate:.0f} MB/s)"
        )
        return "\n".join(lines)


def convert_scene(
    index: NuScenesIndex,
    scene: str,
    out: Path,
    *,
    keyframes_only: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> ConversionReport:
    """Write a scene to a bag. Missing and damaged files are counted and left out.

    Args:
        index: the data set.
        scene: name of the scene.
        out: folder of the bag, or a path ending in ``.mcap``; it appears when it is complete.
        keyframes_only: leave out the sweeps between key frames.
        overwrite: replace a bag that is there.
        progress: show a progress bar.

    Raises:
        DataError: no such scene.
        ConvertError: none of the scene's files is there, or not enough disk space.
        BagError: ``out`` exists, or cannot be written.
    """
    started = time.perf_counter()
    check_can_write(out, overwrite=overwrite)
    plan = checked_plan(index, scene, keyframes_only=keyframes_only)
    _check_space(out, plan)
    problems: list[str] = []
    messages = size = 0
    with new_bag(out, overwrite=overwrite) as bag:
        for topic, (msgtype, qos) in plan.topics.items():
            bag.add_topic(topic, msgtype, qos=qos)
        for item in tqdm(plan.items, desc=scene, unit="msg", disable=not progress):
            try:
                written = item.make()
            except (DataError, ConversionError) as error:
                assert item.channel is not None, "only sensor files can be damaged"
                plan.channels[item.channel].damaged += 1
                problems.append(str(error))
                continue
            if item.channel is not None:
                plan.channels[item.channel].written += 1
            size += sum(bag.write(topic, item.stamp, message) for topic, message in written)
            messages += len(written)
    return ConversionReport(
        scene=scene,
        out=out,
        channels=plan.channels,
        key_frames=plan.key_frames,
        key_frames_without_data=plan.key_frames_without_data,
        messages=messages,
        bytes=size,
        seconds=time.perf_counter() - started,
        problems=tuple(problems),
    )


def checked_plan(index: NuScenesIndex, scene: str, *, keyframes_only: bool = False) -> ScenePlan:
    """``plan_scene``, where there is something to write.

    Raises:
        DataError: no such scene.
        ConvertError: none of the scene's files is there.
    """
    plan = plan_scene(index, scene, keyframes_only=keyframes_only)
    if not plan.items:
        missing = sum(count.missing for count in plan.channels.values())
        raise ConvertError(
            f"{index.root}/{index.version}: none of the {missing} sensor files of {scene} is there; "
            "expected them below samples/ and sweeps/"
        )
    return plan


def _check_space(out: Path, plan: ScenePlan) -> None:
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    # Annotations, poses and indices come on top of the files, about a megabyte for ten seconds.
    needed = plan.bytes + plan.bytes // 20 + 4_000_000
    if free < needed:
        raise ConvertError(f"bag {out}: needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free at {folder}")


def _preflight_text(scene: str, plan: ScenePlan) -> str:
    present: dict[str, int] = dict.fromkeys(plan.channels, 0)
    for item in plan.items:
        if item.channel is not None:
            present[item.channel] += 1
    lines = [f"{'sensor':<20}{'present':>9}{'missing':>9}"]
    lines += [f"{name:<20}{present[name]:>9}{count.missing:>9}" for name, count in plan.channels.items()]
    seconds = (plan.items[-1].stamp - plan.items[0].stamp) * 1e-9
    lines.append(
        f"{scene}: {seconds:.1f} s, {plan.key_frames} annotated key frames "
        f"({plan.key_frames_without_data} without any camera or radar file), {plan.bytes / 1e6:.1f} MB of sensor files"
    )
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="nuscenes_to_rosbag",
        description="Convert a scene of a nuScenes-format data set to a rosbag2 (MCAP) with images, radar and LiDAR "
        "points, transforms, odometry, ground truth and complete annotations, every message at its own time.",
    )
    parser.add_argument(
        "--dataroot", type=Path, required=True, help="folder that holds samples/, sweeps/ and the tables"
    )
    parser.add_argument("--version", default="v1.0-mini", help="folder of the tables (default: %(default)s)")
    parser.add_argument("--scene", required=True, help="name of the scene, for example scene-0916")
    parser.add_argument("--out", type=Path, required=True, help="bag folder to write, or a path ending in .mcap")
    parser.add_argument("--keyframes-only", action="store_true", help="leave out the sweeps between key frames (2 Hz)")
    parser.add_argument("--overwrite", action="store_true", help="replace the bag if it exists")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    return parser.parse_args(argv)


def convert(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _arguments(argv)
    if not args.dry_run:
        check_can_write(args.out, overwrite=args.overwrite)
    index = load_index(args.dataroot, args.version)
    if args.dry_run:
        print(_preflight_text(args.scene, checked_plan(index, args.scene, keyframes_only=args.keyframes_only)))
        return 0
    report = convert_scene(
        index,
        args.scene,
        args.out,
        keyframes_only=args.keyframes_only,
        overwrite=args.overwrite,
        progress=True,
    )
    print(report.text())
    return 0


def main() -> NoReturn:
    """Entry point of ``nuscenes_to_rosbag``."""
    run(convert)


if __name__ == "__main__":
    main()
