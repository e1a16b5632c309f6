"""The main job from end to end: a drive in nuScenes format -> bag -> live detector on a ROS 2 graph -> boxes, scored.

What ``make demo`` runs. Without ``--dataroot`` a drive is simulated (SynthScenes). Everything is written to ``--out``;
the drive and its bag are kept, and used again as long as they are what is asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import msgspec

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.data.nuscenes import NuScenesIndex, load_index
from crkd_core.data.nuscenes_tables import table_state, version_folder
from crkd_core.data.synthscenes import DriveKey, SynthConfig
from crkd_core.data.synthscenes.writer import write_nuscenes
from crkd_core.runtime.checkpoint import Checkpoint, CheckpointError, read_sidecar
from crkd_ros import topics
from crkd_ros.answers import shipped_checkpoint
from rosbag_tools.bags import open_bag
from rosbag_tools.children import Child, Children, ended_by_signals, graph_environment
from rosbag_tools.evaluate_bag import score
from rosbag_tools.render_bag import render
from rosbag_tools.scene_bag import FORMAT, convert_scene
from rosbag_tools.scene_tables import version_of

SYNTH_VERSION = "v1.0-mini"
SYNTH_SEED = 100_003
"""Far from the seeds the shipped weights are trained on (0, 1, 2, ...)."""

RECORDED = (
    topics.DETECTIONS,
    topics.DETECTION_VELOCITIES,
    topics.DETECTION_MARKERS,
    topics.MANIFEST,
    topics.LABELS,
    "/diagnostics",
)
"""What the detector publishes."""

RECORDER_READY = "recording all topics"
DETECTOR_READY = "active"
LOSSLESS_NOTE = (
    "assemble and queue are times of waiting: here the player runs ahead of the detector and waits for its answers;\n"
    "--real-time shows those of live use"
)
START_TIMEOUT = 120.0
"""Seconds for the detector to load its model, and for the recorder to find its topics."""
SECONDS_PER_FRAME = 10.0
"""The slowest detector that is waited for."""


class DemoError(UserError):
    """The demo cannot go on; says why and what to do."""


@dataclass(frozen=True)
class Source:
    """Where the drive comes from.

    Attributes:
        dataroot: data set in nuScenes format.
        version: its folder of tables.
        scene: name.
        offsets_ms: camera -> when it fires relative to the rig's common instant; empty: as in nuScenes.
    """

    dataroot: Path
    version: str
    scene: str
    offsets_ms: dict[str, float] = field(default_factory=dict)


class Steps:
    """Announces what is done, with the time it took."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._number = 0
        self._started = time.monotonic()

    def begin(self, title: str) -> None:
        """The next step."""
        self._number += 1
        print(f"\n[{self._number}/{self._total}] {title} ({self.seconds:.0f} s)", flush=True)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started


# -------------------------------------------------------------------------------------------------- the drive as a bag


def simulated_drive(out: Path, *, seed: int, seconds: float, config: SynthConfig | None = None) -> Source:
    """A simulated drive below ``out``, written unless the very same one is there.

    Args:
        out: gets ``synthscenes/``.
        seed: of the drive.
        seconds: its length.
        config: sensors and noise; None: the default.

    Raises:
        SynthError: arguments the simulator cannot work with.
        DemoError: something else lies where the drive belongs.
    """
    root, config = out / "synthscenes", config or SynthConfig()
    offsets = {camera.name.lower(): -camera.lead_ms for camera in config.cameras}
    source = Source(root, SYNTH_VERSION, f"scene-{seed:04d}", offsets)
    key = _digest([config.config_hash(), seed, seconds])
    if _cached(root, key):
        print(f"drive: {root} (from the last time)")
        return source
    if root.exists():
        if not (root / SYNTH_VERSION / "splits.json").is_file():
            raise DemoError(f"{root}: exists and is not a simulated drive; choose another --out")
        shutil.rmtree(root)
    write_nuscenes(
        root, [DriveKey(seed, config, seconds)], version=SYNTH_VERSION, jobs=os.cpu_count() or 1, progress=True
    )
    _remember(root, key)
    print(f"drive: {root}, {seconds:g} s, seed {seed}")
    return source


def chosen_scene(index: NuScenesIndex) -> str:
    """The scene with the most complete key frames.

    Raises:
        DemoError: there is none.
    """
    complete = Counter(sample.scene for sample in index.complete_samples())
    if not complete:
        raise DemoError(f"{index.root}/{index.version}: no key frame has all its files; {index.report()}")
    return complete.most_common(1)[0][0]


def input_bag(out: Path, source: Source, index: NuScenesIndex | None = None) -> Path:
    """The drive as a bag below ``out``, converted unless that has been done.

    Args:
        out: gets ``input/``.
        source: the drive.
        index: of the source, if it is at hand.

    Raises:
        DataError: the data set cannot be read, or has no such scene.
        ConvertError: nothing to convert, or the disk is full.
        BagError: the bag cannot be written.
    """
    bag = out / "input"
    index = index or load_index(source.dataroot, source.version)
    tables = table_state(version_folder(source.dataroot, source.version))
    root = str(source.dataroot.resolve())
    key = _digest([FORMAT, root, source.version, source.scene, tables, index.file_counts()])
    if _cached(bag, key):
        print(f"bag: {bag} (from the last time)")
        return bag
    report = convert_scene(index, source.scene, bag, overwrite=True)
    _remember(bag, key)
    print(report.text())
    return bag


def _cached(path: Path, key: str) -> bool:
    try:
        return path.exists() and _key_file(path).read_text() == key
    except OSError:
        return False


def _remember(path: Path, key: str) -> None:
    _key_file(path).write_text(key)


def _key_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.key")


def _digest(values: object) -> str:
    return hashlib.sha256(msgspec.json.encode(values)).hexdigest()


# -------------------------------------------------------------------------------------------------------------- live


def detector_arguments(source: Source, args: argparse.Namespace) -> list[str]:
    """The node's parameters, as on its command line."""
    parameters = {
        "drop_frames": "true" if args.real_time else "false",
        "use_sim_time": "true",
        "device": args.device,
        "checkpoint": str(args.checkpoint.resolve()),
    }
    if args.recipe:
        parameters["recipe"] = args.recipe
    parameters |= {f"camera.{name}.offset_ms": f"{offset:.1f}" for name, offset in source.offsets_ms.items()}
    return ["--ros-args", *(word for name, value in parameters.items() for word in ("-p", f"{name}:={value}"))]


def detect_live(source: Source, bag: Path, detections: Path, args: argparse.Namespace) -> None:
    """Play the bag to the detector node on a ROS graph of its own, and record what it publishes.

    Args:
        source: the drive.
        bag: the drive as a bag.
        detections: ``.mcap`` file to write.
        args: the demo's.

    Raises:
        ChildError: one of the three programs failed.
    """
    with open_bag(bag) as opened:
        trigger = topics.image_topic("cam_front")
        opened.require([trigger])
        frames = opened.topics[trigger].count
    environment = graph_environment()
    print(f"ROS_DOMAIN_ID={environment['ROS_DOMAIN_ID']}, logs in {args.out / 'logs'}")
    detections.unlink(missing_ok=True)
    with ended_by_signals(), _removed_on_failure(detections), Children(args.out / "logs", environment) as children:
        recorder = children.start_module(
            "recorder",
            "rosbag_tools.record_bag",
            [*RECORDED, "--out", str(detections), "--use-sim-time", "--overwrite"],
        )
        detector = children.start_module("detector", "crkd_ros.nodes.detector", detector_arguments(source, args))
        detector.wait_for(DETECTOR_READY, timeout=START_TIMEOUT, others=[recorder])
        recorder.wait_for(RECORDER_READY, timeout=START_TIMEOUT, others=[detector])
        speed = [] if args.real_time else ["--lossless"]
        player = children.start_module("player", "rosbag_tools.play_bag", [str(bag), "--clock", *speed])
        bar = _Echo(player, "play:")
        limit = START_TIMEOUT + frames * SECONDS_PER_FRAME
        player.wait(timeout=limit, others=[detector, recorder], on_poll=bar.show)
        bar.close()
        if args.real_time:
            time.sleep(1.0)  # the last frame is still being worked on
        for child in (recorder, detector):
            child.stop()
            child.check()
        print(_last_line(recorder))


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    """Half a recording must not be taken for a whole one."""
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class _Echo:
    """Shows the progress bar that a program writes to its log."""

    def __init__(self, child: Child, start: str) -> None:
        self._child = child
        self._start = start
        self._shown = ""

    def show(self) -> None:
        lines = [line for line in self._child.text().splitlines() if line.startswith(self._start)]
        if lines and lines[-1] != self._shown:
            self._shown = lines[-1]
            print(f"\r{self._shown}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        self.show()
        if self._shown:
            print(file=sys.stderr)


def _last_line(child: Child) -> str:
    lines = child.text().strip().splitlines()
    return lines[-1] if lines else ""


# ------------------------------------------------------------------------------------------------------ command line


def checked_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """What the checkpoint says about itself, before anything is started.

    Raises:
        CheckpointError: no such checkpoint, a damaged one, or one of another recipe.
    """
    found = read_sidecar(args.checkpoint)
    if args.recipe and found.recipe.name != args.recipe:
        raise CheckpointError(f"{args.checkpoint}: expected recipe '{args.recipe}', got '{found.recipe.name}'")
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m rosbag_tools.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="where everything goes (default: %(default)s)"
    )
    data = parser.add_argument_group("real data instead of a simulated drive")
    data.add_argument("--dataroot", type=Path, help="data set in nuScenes format")
    data.add_argument("--version", help="its folder of tables (default: the only one there)")
    data.add_argument("--scene", help="name (default: the one with the most complete key frames)")
    synth = parser.add_argument_group("simulated drive")
    synth.add_argument("--seed", type=int, default=SYNTH_SEED, help="(default: %(default)s, not trained on)")
    synth.add_argument("--seconds", type=finite, default=6.0, help="length (default: %(default)s)")
    model = parser.add_argument_group("detector")
    model.add_argument(
        "--checkpoint", type=Path, help="folder with model.safetensors and model.json (default: the shipped weights)"
    )
    model.add_argument("--recipe", help="name the checkpoint's recipe must have (default: any)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    model.add_argument(
        "--real-time",
        action="store_true",
        help="play at the recorded speed and let the detector drop the frames it cannot keep up with; otherwise the "
        "player waits for every answer",
    )
    args = parser.parse_args(argv)
    if args.scene and not args.dataroot:
        raise DemoError("--scene: names a scene of --dataroot, which is missing")
    if args.seconds < 2:
        raise DemoError(f"--seconds: expected at least 2, got {args.seconds:g}")
    args.checkpoint = args.checkpoint or shipped_checkpoint()
    return args


def _source(args: argparse.Namespace) -> tuple[Source, NuScenesIndex | None]:
    if args.dataroot is None:
        return simulated_drive(args.out, seed=args.seed, seconds=args.seconds), None
    version = version_of(args.dataroot, args.version)
    index = load_index(args.dataroot, version)
    scene = index.scene(args.scene).name if args.scene else chosen_scene(index)
    print(f"drive: {scene} of {args.dataroot}")
    return Source(args.dataroot, version, scene), index


def demo(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _arguments(argv)
    checkpoint = checked_checkpoint(args)
    args.out.mkdir(parents=True, exist_ok=True)
    detections, metrics = args.out / "detections.mcap", args.out / "metrics.json"
    sheet, video = args.out / "sheet.png", args.out / "drive.mp4"
    steps = Steps(5)
    steps.begin("the drive, in nuScenes format")
    source, index = _source(args)
    steps.begin("nuScenes format -> rosbag2")
    bag = input_bag(args.out, source, index)
    steps.begin(f"live detection with '{checkpoint.recipe.name}' on a ROS 2 graph")
    detect_live(source, bag, detections, args)
    steps.begin("pictures")
    render([str(bag), "--detections", str(detections), "--sheet", str(sheet), "--video", str(video)])
    steps.begin("scores, by the official nuScenes metric")
    score([str(detections), "--input", str(bag), "--out", str(metrics)])
    if not args.real_time:
        print(LOSSLESS_NOTE)
    if args.dataroot is not None and "synthscenes" in checkpoint.provenance:
        print("these weights were trained on simulated drives only: real scores need weights trained on real data")
    print(_summary(args, bag, steps.seconds))
    return 0


def _summary(args: argparse.Namespace, bag: Path, seconds: float) -> str:
    out = args.out
    return f"""
done in {seconds:.0f} s; in {out}:
  sheet.png          one moment: six cameras and the bird's-eye view; ground truth in another colour
  drive.mp4          the whole drive
  detections.mcap    what the detector published (open it in Foxglove together with {bag.name}/{bag.name}.mcap)
  metrics.json       every figure above
  logs/              of detector, player and recorder
next:
  make demo DATAROOT=/path/to/nuscenes VERSION=v1.0-mini SCENE=scene-0916    the same on real data
  python -m crkd_ros.nodes.detector    the node alone; parameters in config/detector.yaml
  python training/train.py --help      train it on your own data"""


def main() -> NoReturn:
    """Entry point of the demo."""
    run(demo)


if __name__ == "__main__":
    main()
