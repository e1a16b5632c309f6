"""Pictures of a recorded drive with its detections: one sheet (PNG), a video (MP4), a page to look around in (HTML).

Six cameras with projected boxes, and a bird's-eye view with radar returns, boxes, headings and velocities. Detections
are drawn in class colours, ground truth (from the bag's /annotations, interpolated between key frames) in green.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, finite, run
from crkd_core.drawing.sheet import Caption, SheetOptions, draw_sheet
from crkd_core.drawing.style import Image
from crkd_core.drawing.video import VideoWriter
from crkd_core.runtime.poses import SECOND
from crkd_core.types import Boxes3D, Detections, SensorFrame
from crkd_ros import topics
from crkd_ros.answers import FrameReport
from rosbag_tools.bags import Bag, open_bag
from rosbag_tools.moments import Sensors, TruthTrack, sensor_frames, sensors_of
from rosbag_tools.recorded import (
    RecordedDetections,
    RecordingError,
    VehiclePoses,
    annotations_in,
    detections_in,
    vehicle_poses,
)
from rosbag_tools.viewer import viewer_frame, viewer_html

LONGEST_HOLD = 2.0
"""A gap in the detections is bridged by holding a picture, at most for this long, s."""
MIN_SCORE = 0.3
VIEWER_IMAGE_WIDTH = 560
"""Pixels; six pictures of it fill a screen."""
WAITING = ("assemble", "queue")
"""Stages that are not shown: in a replay they tell how far the player runs ahead, not how fast the detector is."""


@dataclass(frozen=True)
class Drive:
    """An open recording, ready to be drawn.

    Attributes:
        bag: cameras, radars, poses.
        sensors: of ``bag``.
        poses: of the vehicle.
        truth: annotated boxes.
        detections: stamp -> boxes in ``base_link``; empty when there is no detector.
        reports: stamp -> what the answer was made of.
        moments: stamps to draw, ascending, ns.
        middle: the moment for a single sheet: the annotated one in the middle, if there is one.
        title: name of the drive.
    """

    bag: Bag
    sensors: Sensors
    poses: VehiclePoses
    truth: TruthTrack
    detections: dict[int, Detections]
    reports: dict[int, FrameReport]
    moments: tuple[int, ...]
    middle: int
    title: str


def open_drive(bag: Bag, recorded: RecordedDetections | None) -> Drive:
    """Find out what there is to draw.

    Args:
        bag: with cameras or radars, and poses; annotations are optional.
        recorded: detections to draw; their stamps are the moments. None: the images of one camera, or the sweeps of one
            radar, give the moments.

    Raises:
        RecordingError: no sensor, no pose, or detections of another time than the bag's.
        ConversionError: a malformed message.
    """
    sensors = sensors_of(bag)
    poses = vehicle_poses(bag)
    has_truth = topics.ANNOTATIONS in bag.topics and bag.topics[topics.ANNOTATIONS].count > 0
    annotations = annotations_in(bag) if has_truth else []
    detections = {d.stamp: d for d in recorded.detections} if recorded else {}
    candidates = sorted(detections) or _sensor_stamps(bag, sensors)
    moments = tuple(stamp for stamp in candidates if poses.at(stamp) is not None)
    if not moments:
        raise RecordingError(
            f"bag {bag.path}: the vehicle's pose is not recorded at any of the {len(candidates)} moments to draw; "
            "are bag and detections of the same drive?"
        )
    # Not the first moment: the radars have no past there. In the middle everything runs.
    covered = [a.stamp for a in annotations if abs(_nearest(moments, a.stamp) - a.stamp) <= TruthTrack.NEAR]
    middle = _nearest(moments, covered[len(covered) // 2]) if covered else moments[len(moments) // 2]
    return Drive(
        bag=bag,
        sensors=sensors,
        poses=poses,
        truth=TruthTrack(annotations, poses),
        detections=detections,
        reports={report.stamp: report for report in recorded.reports} if recorded else {},
        moments=moments,
        middle=middle,
        title=annotations[0].scene_name if annotations else bag.path.stem,
    )


def with_cameras_of(drive: Drive, options: SheetOptions) -> SheetOptions:
    """The layout with the drive's own cameras, where none has a name the layout knows: two rows, by name."""
    names = sorted(camera.name for camera in drive.sensors.cameras.values())
    known = {name.lower() for name in (*options.front, *options.rear)}
    if not names or known & {name.lower() for name in names}:
        return options
    half = (len(names) + 1) // 2
    return replace(options, front=names[:half], rear=names[half:])


def sheets(drive: Drive, moments: Sequence[int], options: SheetOptions) -> Iterator[tuple[int, Image]]:
    """Draw moments of a drive.

    Args:
        drive: what to draw.
        moments: stamps among ``drive.moments``, ascending.
        options: layout.

    Yields:
        Stamp and picture of each moment.
    """
    for stamp, frame in sensor_frames(drive.bag, drive.sensors, drive.poses, moments):
        if frame is not None:
            yield stamp, _sheet(drive, stamp, frame, options)


def write_sheet(path: Path, drive: Drive, *, at: int, options: SheetOptions) -> None:
    """Write one moment as PNG.

    Args:
        path: of the file.
        drive: what to draw.
        at: stamp among ``drive.moments``.
        options: layout.

    Raises:
        UserError: the file cannot be written.
    """
    _, picture = next(sheets(drive, [at], options))
    encoded, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert encoded, "cv2 encodes every RGB picture"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.tobytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def write_video(path: Path, drive: Drive, *, fps: float | None, options: SheetOptions, progress: bool = False) -> float:
    """Write all moments as a video in real time, and return its rate (pictures per second).

    Args:
        path: ``.mp4`` file.
        drive: what to draw.
        fps: pictures per second; None: the usual rate of the moments.
        options: layout.
        progress: show a progress bar.

    Raises:
        VideoError: PyAV is missing, or the file cannot be written.
    """
    steps = np.diff(drive.moments) / SECOND
    rate = fps or (round(1 / float(np.median(steps)), 2) if len(steps) else 1.0)
    shown: Image | None = None
    start, written = drive.moments[0], 0
    with VideoWriter(path, fps=rate) as video:
        bar = tqdm(total=len(drive.moments), desc="video", unit="frame", disable=not progress)
        for stamp, picture in sheets(drive, drive.moments, options):
            # Where a moment is missing the last picture stays, so that the video keeps the time of the drive.
            due = round((stamp - start) / SECOND * rate)
            if shown is not None:
                for _ in range(min(due - written, round(LONGEST_HOLD * rate))):
                    video.write(shown)
            written = max(due, written) + 1
            video.write(picture)
            shown = picture
            bar.update()
        bar.close()
    return rate


def write_viewer(path: Path, drive: Drive, *, rate: float, options: SheetOptions, progress: bool = False) -> int:
    """Write the drive as one HTML file to look around in, and return its number of moments.

    Args:
        path: ``.html`` file.
        drive: what to show.
        rate: moments per second, at most.
        options: threshold, radius and the order of the cameras.
        progress: show a progress bar.

    Raises:
        UserError: the file cannot be written.
        DataError: an image that cannot be decoded.
    """
    moments = thinned(drive.moments, rate)
    start = drive.moments[0]
    bar = tqdm(total=len(moments), desc="viewer", unit="frame", disable=not progress)
    frames = []
    for stamp, frame in sensor_frames(drive.bag, drive.sensors, drive.poses, moments):
        bar.update()
        if frame is None:
            continue
        report = drive.reports.get(stamp)
        frames.append(
            viewer_frame(
                frame,
                drive.detections.get(stamp, _nothing(stamp)),
                drive.truth.at(stamp, frame.T_world_from_base),
                seconds=(stamp - start) / SECOND,
                note="" if report is None else report.state,
                image_width=VIEWER_IMAGE_WIDTH,
            )
        )
    bar.close()
    order = [name.lower() for name in (*options.front, *options.rear)]
    names = {name.lower(): name for name in (camera.name for camera in drive.sensors.cameras.values())}
    cameras = [names[name] for name in order if name in names]
    page = viewer_html(drive.title, frames, cameras, min_score=options.min_score, radius=options.radius)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return len(frames)


def thinned(moments: Sequence[int], rate: float) -> list[int]:
    """Of ascending stamps (ns) those that lie at least ``1 / rate`` seconds apart, give or take a tenth of it."""
    chosen: list[int] = []
    for stamp in moments:
        if not chosen or stamp - chosen[-1] >= 0.9 * SECOND / rate:
            chosen.append(stamp)
    return chosen


def _sheet(drive: Drive, stamp: int, frame: SensorFrame, options: SheetOptions) -> Image:
    found = drive.detections.get(stamp, _nothing(stamp))
    truth = drive.truth.at(stamp, frame.T_world_from_base)
    seconds = (stamp - drive.moments[0]) / SECOND
    lines = []
    if drive.detections:
        count = int((found.scores >= options.min_score).sum())
        lines.append(f"{count} detections with a score of {options.min_score:.2f} or more")
    lines.append("no ground truth at this moment" if truth is None else f"{len(truth)} annotated boxes")
    report = drive.reports.get(stamp)
    footer = ""
    if report is not None and report.state != "NOMINAL":
        lines.append(f"{report.state}: {report.reasons[0] if report.reasons else ''}")
    if report is not None and report.timings_ms:
        work = {stage: value for stage, value in report.timings_ms.items() if stage not in WAITING}
        footer = "   ".join(f"{stage} {value:.0f} ms" for stage, value in work.items())
    caption = Caption(f"{drive.title}    t = {seconds:.2f} s", lines, footer)
    return draw_sheet(frame, found, truth, caption, options)


def _nothing(stamp: int) -> Detections:
    return Detections(Boxes3D.empty(), np.zeros(0), np.zeros(0, dtype=np.int64), topics.BASE_FRAME, stamp)


def _sensor_stamps(bag: Bag, sensors: Sensors) -> list[int]:
    candidates = sensors.cameras or sensors.radars
    topic = max(candidates, key=lambda t: bag.topics[t].count)
    return sorted(recorded.stamp for recorded in bag.messages([topic]))


def _nearest(moments: Sequence[int], stamp: int) -> int:
    after = bisect_left(moments, stamp)
    return min(moments[max(0, after - 1) : after + 1], key=lambda m: abs(m - stamp))


# ------------------------------------------------------------------------------------------------------- command line


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="render_bag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path, metavar="BAG", help="bag with cameras, radars, poses and annotations")
    parser.add_argument("--detections", type=Path, metavar="BAG", help="bag with the detector's answers")
    parser.add_argument("--topic", default=topics.DETECTIONS, help="topic of the detections (default: %(default)s)")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="write one moment to this file")
    parser.add_argument("--video", type=Path, metavar="MP4", help="write the whole drive to this file (H.264)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the drive to this file, to look around in with any browser"
    )
    parser.add_argument(
        "--html-rate", type=finite, default=4.0, metavar="HZ", help="moments per second in it (default: %(default)s)"
    )
    parser.add_argument("--at", type=finite, metavar="SECONDS", help="moment of the sheet (default: the middle one)")
    parser.add_argument("--min-score", type=finite, default=MIN_SCORE, help="weakest box drawn (default: %(default)s)")
    parser.add_argument("--width", type=int, default=1920, help="of sheet and video, pixels (default: %(default)s)")
    parser.add_argument("--radius", type=finite, default=55.0, help="of the bird's-eye view, m (default: %(default)s)")
    parser.add_argument("--fps", type=finite, help="rate of the video (default: that of the detections)")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def _check(args: argparse.Namespace) -> None:
    if args.sheet is None and args.video is None and args.html is None:
        raise UserError("nothing to do: name --sheet PNG, --video MP4, --html FILE, or several of them")
    if args.html_rate <= 0:
        raise UserError(f"--html-rate: expected above 0, got {args.html_rate:g}")
    if not 640 <= args.width <= 7680 or not 5 <= args.radius <= 1000 or (args.fps is not None and args.fps <= 0):
        raise UserError("expected --width of at least 640 and at most 7680, --radius of 5 to 1000, --fps above 0")
    if args.sheet is not None and args.sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {args.sheet}: expected a name ending in .png")
    if args.video is not None and args.video.suffix.lower() != ".mp4":
        raise UserError(f"--video {args.video}: expected a name ending in .mp4")


def render(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = _arguments(argv)
    _check(args)
    options = SheetOptions(width=args.width // 2 * 2, radius=args.radius, min_score=args.min_score)
    with ExitStack() as stack:
        recorded = None
        if args.detections is not None:
            recorded = detections_in(stack.enter_context(open_bag(args.detections)), topic=args.topic)
        drive = open_drive(stack.enter_context(open_bag(args.input)), recorded)
        options = with_cameras_of(drive, options)
        for problem in drive.sensors.problems:
            print(problem)
        if args.sheet is not None:
            start = drive.moments[0]
            at = drive.middle if args.at is None else _nearest(drive.moments, start + round(args.at * SECOND))
            write_sheet(args.sheet, drive, at=at, options=options)
            print(f"sheet: {args.sheet} (at {(at - start) / SECOND:.2f} s)")
        if args.video is not None:
            rate = write_video(args.video, drive, fps=args.fps, options=options, progress=not args.no_progress)
            print(f"video: {args.video} ({len(drive.moments)} moments, {rate:g} pictures/s)")
        if args.html is not None:
            count = write_viewer(args.html, drive, rate=args.html_rate, options=options, progress=not args.no_progress)
            print(f"viewer: {args.html} ({count} moments, {args.html.stat().st_size / 1e6:.1f} MB)")
    return 0


def main() -> NoReturn:
    """Entry point of ``render_bag``."""
    run(render)


if __name__ == "__main__":
    main()
