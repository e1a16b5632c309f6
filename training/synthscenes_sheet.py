#!/usr/bin/env python3
"""Draw one simulated place in every light and weather, front and side cameras, as one JPEG."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core import cli
from crkd_core.data.synthscenes.cameras import render
from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.data.synthscenes.config import IMAGE_WIDTHS
from crkd_core.data.synthscenes.world import Drive, make_drive

_CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT")


def _conditions(heading: float) -> list[Conditions]:
    """Day, low sun ahead, dusk, night, rain by day, rain by night, fog."""
    high, low, dusk, night = (float(h) for h in np.deg2rad([40.0, 8.0, -3.0, -25.0]))
    rain = {"cloud": 1.0, "rain": 8.0}
    return [
        Conditions("day", high, heading + 2.2),
        Conditions("day", low, heading - 0.12),
        Conditions("dusk", dusk, heading, cloud=0.3),
        Conditions("night", night, heading),
        Conditions("day", high, heading, **rain),
        Conditions("night", night, heading, **rain),
        Conditions("day", high, heading, cloud=1.0, visibility=150.0),
    ]


def _row(drive: Drive, stamp: int, width: int) -> NDArray[np.uint8]:
    """The three cameras side by side, RGB, with the conditions written on them."""
    mounts = {mount.name: mount for mount in drive.config.cameras}
    size = drive.config.image_size(width)
    row = np.concatenate([render(drive, mounts[name], stamp, size) for name in _CAMERAS], axis=1)
    place, text = (8, size.height - 10), drive.conditions.describe()
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(row, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
    return row


def main() -> int:
    """Draw the sheet."""
    parser = cli.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="JPEG file")
    parser.add_argument("--seed", type=int, default=9007, help="which drive")
    parser.add_argument("--second", type=cli.finite, default=4.0, help="when in it")
    parser.add_argument("--width", type=int, default=416, help="of each image, pixels")
    parser.add_argument("--quality", type=int, default=72, help="of the JPEG, 1 to 100")
    args = parser.parse_args()
    if args.width not in IMAGE_WIDTHS or not 1 <= args.quality <= 100:
        raise cli.UserError(
            f"expected --width of {IMAGE_WIDTHS[0]} to {IMAGE_WIDTHS[-1]} and --quality of 1 to 100, "
            f"got {args.width}, {args.quality}"
        )
    drive = make_drive(args.seed)
    stamp = drive.start_ns + round(args.second * 1e9)
    forward = drive.ego_pose(stamp)[:2, 0]
    heading = float(np.arctan2(forward[1], forward[0]))
    rows = [_row(replace(drive, conditions=c), stamp, args.width) for c in _conditions(heading)]
    done, data = cv2.imencode(".jpg", np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, args.quality])
    assert done
    try:
        args.out.write_bytes(data.tobytes())
    except OSError as error:
        raise cli.UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    print(f"{args.out}: {data.size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    cli.run(main)
