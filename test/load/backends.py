"""What the two backends cost and what they match, without a graph.

    PYTHONPATH=test python -m load.backends [--seconds 60] [--rigs 20] [--seed 0]

CPU time of one process, messages of rclpy. Rows of packages that cannot be imported are left out and named.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from fake_rig import POINTS, T0, FakeRig
from numpy.typing import NDArray

from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.runtime.assembler import FrameAssembler
from crkd_core.runtime.poses import MILLISECOND, SECOND
from crkd_core.runtime.rig import AssemblerConfig
from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE
from crkd_ros.backends import BUILTIN, Transforms
from crkd_ros.backends.distribution import image_reader, points_reader
from crkd_ros.backends.synchronizer import SynchronizedAssembler
from crkd_ros.backends.tf2_buffer import Tf2Buffer
from crkd_ros.conversions import image_message, point_cloud_message, ros_messages
from crkd_ros.specs import DEFAULT_CAMERAS, DEFAULT_RADARS, NUSCENES_OFFSETS

CONFIG = AssemblerConfig(
    cameras={name: round(NUSCENES_OFFSETS[name] * MILLISECOND) for name in DEFAULT_CAMERAS},
    radars=tuple(DEFAULT_RADARS),
    sweeps=6,
    trigger="cam_front",
    at_instant=True,
)
Stream = list[tuple[int, str]]


def module(name: str) -> Any:
    """A module, or None where there is none."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        say(f"({name}: left out: {error})")
        return None


def say(text: str) -> None:
    """One line of the report."""
    sys.stdout.write(text + "\n")


def microseconds(work: Callable[[], object], *, seconds: float = 0.4) -> float:
    """CPU time of one call, the median of five runs."""
    work()
    runs = []
    for _ in range(5):
        count, began = 0, time.process_time()
        while time.process_time() - began < seconds / 5:
            work()
            count += 1
        runs.append((time.process_time() - began) / count * 1e6)
    return statistics.median(runs)


def compare_images() -> None:
    """1600 x 900 pixels to RGB, and whether that is a view of the message."""
    bridge = module("cv_bridge")
    readers = {"builtin": BUILTIN.rgb_image_of}
    if bridge is not None:
        readers["cv_bridge"] = image_reader(bridge.CvBridge())
    pixels = np.random.default_rng(0).integers(0, 256, size=(900, 1600, 3), dtype=np.uint8)
    for encoding in ("rgb8", "bgr8", "mono8", "bayer_rggb8"):
        made = "mono8" if encoding.startswith("bayer") else encoding
        message = image_message(ros_messages(), pixels, stamp=1, frame_id="c", encoding=made)
        message.encoding = encoding
        for name, read in readers.items():
            report(f"Image {encoding}", name, partial(read, message, source="c"), message)


def compare_points() -> None:
    """A radar sweep and a LiDAR revolution."""
    package = module("sensor_msgs_py.point_cloud2")
    readers = {"builtin": BUILTIN.points_of}
    if package is not None:
        readers["sensor_msgs_py"] = points_reader(package.read_points)
    for text, dtype, count in (("125 radar returns", RADAR_DTYPE, 125), ("34000 LiDAR returns", LIDAR_DTYPE, 34000)):
        message = point_cloud_message(ros_messages(), np.zeros(count, dtype=dtype), stamp=1, frame_id="r")
        for name, read in readers.items():
            report(f"PointCloud2 {text}", name, partial(read, message, source="r"), message)


def report(what: str, name: str, read: Callable[[], NDArray[Any]], message: Any) -> None:
    """One row about a conversion."""
    shared = np.shares_memory(read(), np.frombuffer(message.data, dtype=np.uint8))
    say(f"{what:32} {name:16} {microseconds(read):9.1f} us   {'view' if shared else 'copy'}")


def compare_transforms() -> None:
    """map -> odom -> base_link at 100 Hz: one transform in, one pose out."""
    tf2, rotations = module("tf2_ros"), module("tf_transformations")
    trees: dict[str, Transforms] = {"builtin": BUILTIN.transforms()}
    if tf2 is not None and rotations is not None:
        trees["tf2_ros"] = Tf2Buffer(tf2, rotations)
    for name, tree in trees.items():
        steps = iter(range(10**9))

        def insert(tree: Transforms = tree, steps: Iterator[int] = steps) -> None:
            i = next(steps)
            tree.insert("map", "base_link", T0 + i * 10 * MILLISECOND, transform(yaw_rotation(1e-3 * i), [i, 0, 0]))

        say(f"{'transform in':32} {name:16} {microseconds(insert):9.1f} us")
        newest = next(steps) - 1
        back = iter(range(10**9))

        def lookup(tree: Transforms = tree, newest: int = newest, back: Iterator[int] = back) -> None:
            stamp = T0 + (newest - next(back) % 200) * 10 * MILLISECOND - 3 * MILLISECOND
            assert tree.lookup("map", "base_link", stamp) is not None

        say(f"{'pose out':32} {name:16} {microseconds(lookup):9.1f} us")


def stream(seconds: float, rng: random.Random) -> Stream:
    """Six cameras at 12 Hz with nuScenes' phases, five radars at 13 Hz with any phase; 2 ms of jitter."""
    found: Stream = []
    for name, offset in CONFIG.cameras.items():
        found += [(T0 + SECOND + offset + round(i * SECOND / 12), name) for i in range(round(seconds * 12))]
    for name in CONFIG.radars:
        phase = rng.uniform(0, SECOND / 13)
        found += [(T0 + SECOND + round(phase + i * SECOND / 13), name) for i in range(round(seconds * 13))]
    return sorted((stamp + round(rng.uniform(0, 2 * MILLISECOND)), name) for stamp, name in found)


def frames_of(a: FrameAssembler, messages: Stream) -> tuple[int, int, float]:
    """Frames with measurements, those of them that are NOMINAL, and CPU time a message, us."""
    count = nominal = 0
    began = time.process_time()
    for stamp, name in messages:
        camera = name in CONFIG.cameras
        found = a.camera(name, stamp, b"", stamp) if camera else a.radar(name, stamp, POINTS, stamp)
        for frame in found + a.poll(stamp):
            count += frame.frame is not None
            nominal += not frame.reasons
    return count, nominal, (time.process_time() - began) / len(messages) * 1e6


def compare_matching(seconds: float, rigs: int, seed: int) -> None:
    """Rates of frames over rigs whose radars have different phases; and with one radar that dies half-way."""
    filters = module("message_filters")
    makers: dict[str, Callable[[], FrameAssembler]] = {"builtin": lambda: FrameAssembler(CONFIG, FakeRig())}
    if filters is not None:
        for slop in (50, 70, 100):
            makers[f"slop {slop} ms"] = partial(
                SynchronizedAssembler,
                CONFIG,
                FakeRig(),
                filters=filters,
                slop=slop * MILLISECOND,
                on_jump=lambda _stamp: None,
            )
    for name, make in makers.items():
        rates, shares, costs, after = [], [], [], []
        for rig in range(rigs):
            messages = stream(seconds, random.Random(seed + rig))
            count, nominal, cost = frames_of(make(), messages)
            rates.append(count / seconds)
            shares.append(nominal / max(count, 1))
            costs.append(cost)
            half = T0 + SECOND + round(seconds / 2 * SECOND)
            dying = make()
            frames_of(dying, [row for row in messages if row[0] < half])
            rest = [row for row in messages if row[0] >= half and row[1] != "radar_front"]
            after.append(frames_of(dying, rest)[0] / (seconds / 2))
        middle, share, cost = (statistics.median(values) for values in (rates, shares, costs))
        say(
            f"{'matching':12} {name:12} {middle:5.1f} frames/s ({min(rates):.1f} .. {max(rates):.1f}), "
            f"NOMINAL {100 * share:.0f} %, {cost:.0f} us a message; "
            f"after a radar died {statistics.median(after):.1f} frames/s"
        )


def main() -> None:
    """Compare everything that can be imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each stream")
    parser.add_argument("--rigs", type=int, default=20, help="streams with different phases of radars")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    say(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, seed {args.seed}, CPU time")
    compare_images()
    compare_points()
    compare_transforms()
    compare_matching(args.seconds, args.rigs, args.seed)


if __name__ == "__main__":
    main()
