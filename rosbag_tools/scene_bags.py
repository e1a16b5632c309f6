"""Scenes of a nuScenes-format data set as bags, side by side in several processes; what is finished is skipped."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crkd_core.cli import UserError
from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes import REFERENCE_CHANNEL, NuScenesIndex, load_index
from crkd_core.types import FloatArray
from rosbag_tools.bags import check_can_write
from rosbag_tools.map_image import MapCrop, map_crops
from rosbag_tools.scene_bag import BagOptions, ConversionReport, check_space, convert_scene, is_finished
from rosbag_tools.scene_tables import map_row, rows_of

logger = logging.getLogger(__name__)

SIZE_SAMPLE = 20
"""Files of one sensor that are looked at to estimate the size of all."""


@dataclass(frozen=True)
class Task:
    """One scene to convert, for a worker process."""

    root: Path
    version: str
    cache: Path
    scene: str
    out: Path
    options: BagOptions
    overwrite: bool
    map_crop: MapCrop | None


@dataclass
class Outcome:
    """What ``convert_scenes`` did.

    Attributes:
        finished: scenes that were there already.
        reports: scenes converted.
        failed: scene -> why it could not be converted.
    """

    finished: list[str] = field(default_factory=list)
    reports: list[ConversionReport] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def convert_scenes(
    index: NuScenesIndex,
    bags: Mapping[str, Path],
    options: BagOptions | None = None,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> Outcome:
    """Convert scenes, each to a bag of its own. Scenes that are finished are skipped; one that fails ends no other.

    Args:
        index: the data set.
        bags: scene -> its bag.
        options: what the bags are to be like.
        jobs: processes.
        overwrite: replace bags that are there, finished or not.
        progress: show a bar on stderr, in files.

    Raises:
        DataError: no such scene.
        ConvertError: a bag of other options is there, or the disk is too small.
        BagError: something that is no bag is there.
    """
    options, outcome = options or BagOptions(), Outcome()
    todo: list[str] = []
    for scene, out in bags.items():
        if not overwrite and out.exists():
            if is_finished(index, scene, out, options):
                outcome.finished.append(scene)
                continue
            check_can_write(out, overwrite=True)
        todo.append(scene)
    if not todo:
        return outcome
    total, needed = _counted(index, todo, options)
    check_space(next(iter(bags.values())), needed)
    crops = scene_maps(index, todo, progress=progress) if options.with_map else {}
    with tempfile.TemporaryDirectory(prefix="nuscenes_to_rosbag-") as folder:
        cache = Path(folder) / "index.npz"
        tasks = [
            # A bag that is there and not finished is to be replaced.
            Task(index.root, index.version, cache, scene, bags[scene], options, overwrite or bags[scene].exists(), crop)
            for scene, crop in ((scene, crops.get(scene)) for scene in todo)
        ]
        with tqdm(total=total, unit="file", disable=not progress, mininterval=0.5, desc="convert") as bar:
            for task, result in _results(index, tasks, jobs, bar):
                try:
                    report = result()
                except UserError as error:
                    outcome.failed[task.scene] = str(error)
                    if progress and len(tasks) > 1:
                        bar.write(f"failed: {task.scene}: {error}", file=sys.stderr)
                    continue
                outcome.reports.append(report)
                if progress and len(tasks) > 1:
                    bar.write(report.line(), file=sys.stderr)
    return outcome


Result = Callable[[], ConversionReport]


def _results(index: NuScenesIndex, tasks: Sequence[Task], jobs: int, bar: Any) -> Iterator[tuple[Task, Result]]:
    """Each task with a function that returns its report or raises, as they end."""
    if min(jobs, len(tasks)) == 1:
        for task in tasks:
            yield task, lambda task=task: _convert(index, task, bar.update)  # type: ignore[misc]
        return
    # Processes map one index file into their memory instead of each reading the tables.
    load_index(index.root, index.version, cache=tasks[0].cache)
    context = multiprocessing.get_context("forkserver")
    count = context.Value("q", 0)
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_begin, initargs=(count,)) as pool:
        futures: dict[Future[ConversionReport], Task] = {pool.submit(_work, task): task for task in tasks}
        try:
            with _polled(count, bar):
                for future in as_completed(futures):
                    yield futures[future], future.result
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_count: Any = None
"""In a worker process: the files that all of them have written."""


def _begin(count: Any) -> None:
    global _count  # noqa: PLW0603  # a pool hands a shared counter to its processes only at their start
    _count = count


def _work(task: Task) -> ConversionReport:
    def one_more() -> None:
        with _count.get_lock():
            _count.value += 1

    return _convert(load_index(task.root, task.version, cache=task.cache), task, one_more)


def _convert(index: NuScenesIndex, task: Task, on_file: Callable[[], Any]) -> ConversionReport:
    return convert_scene(
        index, task.scene, task.out, task.options, overwrite=task.overwrite, map_crop=task.map_crop, on_file=on_file
    )


@contextmanager
def _polled(count: Any, bar: Any) -> Iterator[None]:
    """While the block runs, the bar follows the counter."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(0.2):
            bar.update(count.value - bar.n)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        bar.update(count.value - bar.n)


def scene_maps(index: NuScenesIndex, scenes: Sequence[str], *, progress: bool = False) -> dict[str, MapCrop]:
    """The map around each drive, for those that have one; each map mask is read once.

    A mask that cannot be used is a warning, and its drives have no map.
    """
    folder = index.root / index.version
    rows = {row["token"]: row for row in rows_of(folder, "scene")}
    drives: dict[Path, dict[str, FloatArray]] = {}
    for name in scenes:
        scene = index.scene(name)
        row = map_row(folder, rows[scene.token])
        path = index.root / row["filename"] if row is not None and row.get("filename") else None
        if path is not None and path.is_file():
            records = index.records(scene, REFERENCE_CHANNEL)
            drives.setdefault(path, {})[name] = np.stack([record.T_world_from_base[:2, 3] for record in records])
    crops: dict[str, MapCrop] = {}
    for path, drive in tqdm(drives.items(), desc="maps", unit="map", disable=not progress or not drives):
        crops |= _crops_or_none(path, drive)
    return crops


def _crops_or_none(path: Path, drives: Mapping[str, FloatArray]) -> dict[str, MapCrop]:
    try:
        return map_crops(path, drives)
    except DataError as error:
        logger.warning("map left out: %s", error)
        return {}


def _counted(index: NuScenesIndex, scenes: Sequence[str], options: BagOptions) -> tuple[int, int]:
    """Number of files to convert, and the size of their bags that some files of each sensor let expect."""
    total, needed = 0, 0.0
    for scene in scenes:
        drive = index.scene(scene)
        for channel in index.channels(drive):
            wanted = [r for r in index.records(drive, channel) if r.is_key_frame or not options.keyframes_only]
            paths = [record.path for record in wanted if record.present]
            sizes = [path.stat().st_size for path in paths[:: max(1, len(paths) // SIZE_SAMPLE)]]
            total += len(paths)
            needed += len(paths) * float(np.mean(sizes)) if sizes else 0.0
    return total, round(needed * 1.05)
