"""One scene of a nuScenes-format data set as one rosbag2."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from crkd_core.cli import UserError
from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes import NuScenesIndex
from crkd_ros import topics
from crkd_ros.conversions import ConversionError
from rosbag_tools.bags import Compression, Storage, check_can_write, new_bag, note_of
from rosbag_tools.map_image import MapCrop
from rosbag_tools.scene_messages import ChannelCount, ScenePlan, plan_scene

FORMAT = 2
"""Raised whenever the conversion would give another bag of the same data."""
NOTE = "nuscenes_to_rosbag"
"""Under this key the bag's metadata says what it was made of."""


class ConvertError(UserError):
    """A scene that cannot be converted."""


class BagOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a bag is to be like."""

    keyframes_only: bool = False
    """Leave out the sweeps between key frames."""
    storage: Storage = "mcap"
    compression: Compression = "none"
    renamed: dict[str, str] = {}
    """Topic of ``crkd_ros.topics`` -> the name it gets."""
    with_map: bool = True
    """Write the map around the drive, where the data set has one."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a bag was made of; equal origins make equal bags."""

    format: int
    scene: str
    options: BagOptions
    present: dict[str, int]
    """Sensor -> number of files that were there."""
    damaged: int = 0
    """Files that were left out because they could not be used."""


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
        cpu_seconds: of it, time that a processor worked for it.
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
    cpu_seconds: float = 0.0
    problems: tuple[str, ...] = field(default=())

    def text(self) -> str:
        """The report as a few lines."""
        total = self.key_frames + self.key_frames_without_data
        lines = [f"{'sensor':<20}{'written':>9}{'missing':>9}{'damaged':>9}"]
        for name, count in self.channels.items():
            lines.append(f"{name:<20}{count.written:>9}{count.missing:>9}{count.damaged:>9}")
        lines += self.problem_lines()
        lines.append(
            f"key frames: {self.key_frames} of {total}"
            + (
                f" ({self.key_frames_without_data} without any camera or radar file left out)"
                if self.key_frames < total
                else ""
            )
        )
        lines.append(self.line())
        return "\n".join(lines)

    def problem_lines(self) -> list[str]:
        """The first damaged files."""
        lines = [f"damaged: {problem}" for problem in self.problems[:10]]
        if len(self.problems) > 10:
            lines.append(f"damaged: and {len(self.problems) - 10} more files")
        return lines

    def line(self) -> str:
        """The report in one line."""
        rate = self.bytes / 1e6 / self.seconds if self.seconds else 0.0
        return (
            f"{self.scene} -> {self.out}: {self.messages} messages, {self.bytes / 1e6:.1f} MB in {self.seconds:.1f} s "
            f"({rate:.0f} MB/s; {self.cpu_seconds:.1f} s of CPU)"
        )


def convert_scene(
    index: NuScenesIndex,
    scene: str,
    out: Path,
    options: BagOptions | None = None,
    *,
    overwrite: bool = False,
    map_crop: MapCrop | None = None,
    on_file: Callable[[], None] = lambda: None,
) -> ConversionReport:
    """Write a scene to a bag. Missing and damaged files are counted and left out.

    Args:
        index: the data set.
        scene: name of the scene.
        out: folder of the bag, or a path ending in ``.mcap``; it appears when it is complete.
        options: what the bag is to be like.
        overwrite: replace a bag that is there.
        map_crop: the map around the drive.
        on_file: called after each sensor file.

    Raises:
        DataError: no such scene.
        ConvertError: none of the scene's files is there, or not enough disk space.
        BagError: ``out`` exists, or cannot be written.
    """
    options = options or BagOptions()
    started, cpu = time.perf_counter(), time.process_time()
    check_can_write(out, overwrite=overwrite)
    plan = checked_plan(index, scene, keyframes_only=options.keyframes_only, map_crop=map_crop)
    _check_space(out, plan)
    names = _names(plan, options.renamed)
    problems: list[str] = []
    messages = size = 0
    with new_bag(out, overwrite=overwrite, storage=options.storage, compression=options.compression) as bag:
        for topic, (msgtype, qos) in plan.topics.items():
            bag.add_topic(names[topic], msgtype, qos=qos)
        for stream, row, stamp in plan.rows():
            try:
                written = stream.make(row)
            except (DataError, ConversionError) as error:
                assert stream.channel is not None, "only sensor files can be damaged"
                plan.channels[stream.channel].damaged += 1
                problems.append(str(error))
                continue
            if stream.channel is not None:
                plan.channels[stream.channel].written += 1
                on_file()
            for topic, data in written:
                size += bag.write_raw(names[topic], stamp, data)
            messages += len(written)
        origin = Origin(format=FORMAT, scene=scene, options=options, present=plan.present, damaged=len(problems))
        bag.note(NOTE, msgspec.json.encode(origin).decode())
    return ConversionReport(
        scene=scene,
        out=out,
        channels=plan.channels,
        key_frames=plan.key_frames,
        key_frames_without_data=plan.key_frames_without_data,
        messages=messages,
        bytes=size,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu,
        problems=tuple(problems),
    )


def checked_plan(
    index: NuScenesIndex, scene: str, *, keyframes_only: bool = False, map_crop: MapCrop | None = None
) -> ScenePlan:
    """``plan_scene``, where there is something to write.

    Raises:
        DataError: no such scene.
        ConvertError: none of the scene's files is there.
    """
    plan = plan_scene(index, scene, keyframes_only=keyframes_only, map_crop=map_crop)
    if not plan.streams:
        raise ConvertError(
            f"{index.root}/{index.version}: none of the {len(plan.missing)} sensor files of {scene} is there; "
            "expected them below samples/ and sweeps/"
        )
    return plan


def is_finished(index: NuScenesIndex, scene: str, out: Path, options: BagOptions) -> bool:
    """Whether a bag is what ``convert_scene`` would write now.

    A bag that lacks files which were missing or damaged is not, once they are there; one with damaged files never is.

    Raises:
        ConvertError: it was made with other options, of another scene, or by something else.
    """
    try:
        found = msgspec.json.decode(note_of(out, NOTE) or "", type=Origin)
    except msgspec.DecodeError:
        found = None
    if found is None or found.format != FORMAT:
        raise ConvertError(
            f"bag {out}: exists, and was not made by this version of nuscenes_to_rosbag; give --overwrite, or another "
            "--out-dir"
        )
    if found.options != options or found.scene != scene:
        raise ConvertError(
            f"bag {out}: was made of {found.scene} with other options ({_differences(found.options, options)}); "
            "give --overwrite, or another --out-dir"
        )
    drive = index.scene(scene)
    present = {
        channel: sum(record.present for record in index.records(drive, channel)) for channel in index.channels(drive)
    }
    return found == Origin(format=FORMAT, scene=scene, options=options, present=present)


def _differences(found: BagOptions, wanted: BagOptions) -> str:
    a, b = msgspec.structs.asdict(found), msgspec.structs.asdict(wanted)
    return ", ".join(f"{name}: {a[name]}, now {b[name]}" for name in a if a[name] != b[name]) or "same options"


def _names(plan: ScenePlan, renamed: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(renamed.keys() - plan.topics.keys() - set(ALWAYS_RENAMEABLE))
    if unknown:
        raise ConvertError(f"topic {unknown[0]}: cannot be renamed, the scene has {', '.join(sorted(plan.topics))}")
    names = {topic: renamed.get(topic, topic) for topic in plan.topics}
    if len(set(names.values())) < len(names):
        raise ConvertError(f"topics: two of them would have one name: {', '.join(sorted(names.values()))}")
    return names


ALWAYS_RENAMEABLE = (topics.MAP, topics.IMU, topics.GROUND_TRUTH_MARKERS)
"""Topics that not every scene has."""


def _check_space(out: Path, plan: ScenePlan) -> None:
    # Annotations, poses and indices come on top of the files, about a megabyte for ten seconds.
    check_space(out, plan.bytes + plan.bytes // 20 + 4_000_000)


def check_space(out: Path, needed: int) -> None:
    """Check that so many bytes are free where ``out`` will be.

    Raises:
        ConvertError: they are not.
    """
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConvertError(f"bag {out}: needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free at {folder}")
