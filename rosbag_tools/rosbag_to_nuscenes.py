"""Recorded drives as a data set in nuScenes format: tables and files for training and for annotation tools.

Any bag with images and camera_info, radar points, transforms and poses will do; a LiDAR is welcome. A bag made by
nuscenes_to_rosbag gives its annotations back, tokens and all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import numpy as np

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.data.new_folder import new_folder
from crkd_core.geometry.transforms import transform, yaw_rotation
from rosbag_tools.bag_drive import ToNuScenesError, WayBack, Written, write_drive, write_file
from rosbag_tools.bag_tables import tables_of
from rosbag_tools.bags import open_bag


def rosbag_to_nuscenes(
    bags: Sequence[Path], root: Path, way: WayBack | None = None, *, version: str = "v1.0-mini", progress: bool = False
) -> list[Written]:
    """Write bags as a data set in nuScenes format, one scene each; it appears at ``root`` when it is complete.

    Args:
        bags: at least one.
        root: the new data set; must not exist.
        way: how; a name only for a single bag.
        version: folder of the tables.
        progress: show a bar for each bag.

    Raises:
        DataError: ``root`` exists or cannot be written.
        ToNuScenesError: a bag that lacks something.
        RecordingError, BagError, ConversionError: a bag that lacks something, or is damaged.
    """
    way = way or WayBack()
    if way.name is not None and len(bags) > 1:
        raise ToNuScenesError(f"--name: one name for {len(bags)} bags; leave it out, scenes are then named like bags")
    with new_folder(root) as partial:
        drives, written = [], []
        for path in bags:
            with open_bag(path) as bag:
                drive, one = write_drive(bag, partial, way, progress=progress)
            drives.append(drive)
            written.append(one)
        for table, rows in tables_of(drives).items():
            write_file(partial / version / f"{table}.json", msgspec.json.encode(rows))
        splits = {"recorded": [one.name for one in written]}
        write_file(partial / version / "splits.json", msgspec.json.encode(splits))
    return written


# ------------------------------------------------------------------------------------------------------ command line


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="rosbag_to_nuscenes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="folder, .mcap or .db3; one scene each")
    parser.add_argument("--out", type=Path, required=True, metavar="ROOT", help="data root to write; must not exist")
    parser.add_argument("--version", default="v1.0-mini", help="folder of the tables (default: %(default)s)")
    parser.add_argument("--name", help="name of the scene of a single bag (default: as the bag says, or is named)")
    keys = parser.add_argument_group("key frames")
    keys.add_argument(
        "--reference",
        metavar="SENSOR",
        help="sensor whose measurements make key frames, such as cam_front (default: the bag's annotations; without "
        "any, its LiDAR; without one, its front or first camera)",
    )
    keys.add_argument("--rate", type=finite, default=2.0, help="of key frames made by a sensor, Hz (default: 2)")
    rig = parser.add_argument_group("vehicle")
    rig.add_argument(
        "--bev",
        type=finite,
        nargs=4,
        metavar=("X", "Y", "Z", "YAW"),
        help="where the BEV frame is in base_link, m and degrees, for a bag without LiDAR and without frame lidar_top",
    )
    rig.add_argument(
        "--channel", action="append", default=[], metavar="NAME=CHANNEL", help="name of a sensor in the tables"
    )
    rig.add_argument("--vehicle", default="", help="name for the log table")
    rig.add_argument("--location", default="", help="name for the log table")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    return parser.parse_args(argv)


def convert(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _arguments(argv)
    if args.rate <= 0:
        raise UserError(f"--rate: expected above 0, got {args.rate:g}")
    channels = {}
    for text in args.channel:
        name, equals, channel = text.partition("=")
        if not equals or not name or not channel:
            raise UserError(f"--channel: expected NAME=CHANNEL, got '{text}'")
        channels[name] = channel
    T_base_from_bev = None
    if args.bev is not None:
        T_base_from_bev = transform(yaw_rotation(np.deg2rad(args.bev[3])), args.bev[:3])
    way = WayBack(args.name, args.reference, args.rate, T_base_from_bev, channels, args.vehicle, args.location)
    for one in rosbag_to_nuscenes(args.bags, args.out, way, version=args.version, progress=not args.no_progress):
        print(one.text())
    print(f"{args.out}: version {args.version}, split 'recorded'")
    return 0


def main() -> NoReturn:
    """Entry point of ``rosbag_to_nuscenes``."""
    run(convert)


if __name__ == "__main__":
    main()
