#!/usr/bin/env python3
"""Prepare a nuScenes-format data set for training: what a run would otherwise work out again and again.

    training/prepare.py teacher_r50 --dataroot DATA --out PREPARED --jobs 16
    training/train.py teacher_r50 --dataroot DATA --split train --prepared PREPARED --out runs/teacher_r50

Makes in --out, as far as the recipe needs it:
  the index of the tables and of the files that are there (a second or two to load, instead of a minute to build);
  the LiDAR objects that are pasted into other scenes (recipes with samples.paste), of all samples: a run uses those of
  the samples it trains on, so none of a validation split;
  with --image-cache, all images at the largest size that training needs (train.py --image-cache). Their pixels differ
  slightly from those of the original files, by how much is measured at the end; evaluation reads the original files.

A run that was stopped goes on where it was; one that finds everything up to date says so. Damaged files that it comes
upon are named, and the exit code is then 1. It reads what it makes something of only; to read every file that training
on the recipe reads, radar files and sweeps among them, and to name all that are damaged:

    training/prepare.py teacher_r50 --dataroot DATA --out PREPARED --check --jobs 16
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.data.check import damages
from crkd_core.data.errors import DataError
from crkd_core.data.frames import NuScenesFrames, channels_read
from crkd_core.data.image_cache import ImageCache
from crkd_core.data.lidar_database import build_scenes, read_scene, scene_is_done
from crkd_core.data.nuscenes import NuScenesIndex, Scene, load_index
from crkd_core.training.nuscenes_data import Prepared, chosen_scenes, lidar_sweeps_of_objects, short_sweeps
from crkd_core.types import DETECTION_CLASSES

COMPARED_IMAGES = 24


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of a shipped recipe, or the path of a .yaml file")
    parser.add_argument("--dataroot", type=Path, required=True, help="data set in nuScenes format")
    parser.add_argument("--version", default="v1.0-trainval", help="its version folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made; versions may share it")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--split", help="files of this split only")
    choice.add_argument("--scenes", nargs="+", help="files of these scenes only")
    work = parser.add_mutually_exclusive_group()
    work.add_argument("--image-cache", action="store_true", help="make smaller images, too")
    work.add_argument("--check", action="store_true", help="make the index only; read all files, name the damaged")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what is to be done, do nothing but the index")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars (logs of unattended runs)")
    return parser.parse_args()


def main() -> int:
    """Make what is missing; say what is there."""
    args = arguments()
    if args.jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, got {args.jobs}")
    recipe = load_recipe(args.recipe)
    prepared = Prepared(args.out, args.version)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    print(f"machine: {platform.machine()}, {args.jobs} processes")
    index = indexed(args, prepared)
    scenes = chosen_scenes(index, split=args.split, scenes=args.scenes)
    frames = frames_of(index, scenes, recipe)
    print("\n".join(short_sweeps(frames)) or "earlier sweeps: all that the recipe reads are there")
    if args.check:
        return checked(args, frames)
    damaged: list[str] = []
    if recipe.samples.paste is not None:
        damaged += lidar_objects(args, prepared, index, scenes, recipe)
    if args.image_cache:
        damaged += smaller_images(args, prepared.images(index.root, recipe.image), image_files(frames))
    for reason in damaged[:20]:
        print(f"damaged: {reason}", file=sys.stderr)
    if len(damaged) > 20:
        print(f"damaged: {len(damaged) - 20} more", file=sys.stderr)
    return 1 if damaged else 0


def indexed(args: argparse.Namespace, prepared: Prepared) -> NuScenesIndex:
    """The index, from its file if that is up to date."""
    before = prepared.index.stat().st_mtime_ns if prepared.index.exists() else 0
    started = time.perf_counter()
    index = load_index(args.dataroot, args.version, cache=prepared.index)
    seconds = time.perf_counter() - started
    if not prepared.index.exists():
        raise UserError(f"{prepared.index}: cannot be written")
    print(index.report())
    if prepared.index.stat().st_mtime_ns == before:
        print(f"index: nothing to do ({described(prepared.index)}, loaded in {seconds:.1f} s)")
    else:
        why = f", because {index.rebuilt}" if index.rebuilt else ""
        print(f"index: made in {seconds:.1f} s ({described(prepared.index)}){why}")
    return index


def frames_of(index: NuScenesIndex, scenes: list[Scene], recipe: Recipe) -> NuScenesFrames:
    """What the recipe reads of these scenes, samples that are not complete among them."""
    return NuScenesFrames(
        index,
        [sample for scene in scenes for sample in scene.samples],
        channels=channels_read(index, recipe),
        radar_sweeps=recipe.radar_sweeps,
        lidar_sweeps=recipe.lidar_sweeps,
    )


def checked(args: argparse.Namespace, frames: NuScenesFrames) -> int:
    """Read all files, name the damaged ones; returns the exit code."""
    modalities, found = frames.index.modalities, frames.files()
    files = [(modalities[channel], path) for channel, paths in found.items() for path in paths]
    if args.dry_run:
        print(f"check: {len(files)} files to read")
        return 0
    started = time.perf_counter()
    reasons = tqdm(
        damages(files, jobs=min(args.jobs, len(files) or 1)),
        total=len(files),
        desc="check",
        unit="file",
        disable=args.no_progress,
    )
    total = 0
    for channel, paths in found.items():
        damaged = [reason for reason in itertools.islice(reasons, len(paths)) if reason is not None]
        tqdm.write(f"{channel}: {len(paths)} files, {len(damaged)} damaged")
        for reason in damaged:
            tqdm.write(f"damaged: {reason}", file=sys.stderr)
        if modalities[channel] == "lidar":
            tqdm.write("\n".join(suspiciously_short(channel, paths)) or f"{channel}: none is suspiciously short")
        total += len(damaged)
    print(f"check: {len(files)} files, {total} damaged, in {time.perf_counter() - started:.1f} s")
    return 1 if total else 0


def suspiciously_short(channel: str, paths: list[Path]) -> list[str]:
    """Lines on LiDAR files that may have been cut: after a whole point, nothing in a file says so."""
    sizes = np.array([path.stat().st_size if path.exists() else 0 for path in paths])
    usual = np.median(sizes) if len(sizes) else 0
    short = np.flatnonzero(sizes < usual / 2)
    lines = [
        f"suspiciously short: {paths[i]}: {sizes[i]} bytes; {channel} has {usual:.0f} as a rule" for i in short[:20]
    ]
    return lines + ([f"suspiciously short: {len(short) - 20} more"] if len(short) > 20 else [])


def lidar_objects(
    args: argparse.Namespace, prepared: Prepared, index: NuScenesIndex, scenes: list[Scene], recipe: Recipe
) -> list[str]:
    """Cut objects out of the scenes where that has not been done; returns what is wrong with damaged files."""
    folder, sweeps = prepared.lidar_objects, lidar_sweeps_of_objects(recipe)
    todo = [scene.name for scene in scenes if not scene_is_done(folder, index, scene, sweeps=sweeps)]
    if args.dry_run:
        print(f"LiDAR objects: {len(todo)} of {len(scenes)} scenes to do")
        return []
    started = time.perf_counter()
    made = build_scenes(
        index, todo, folder, sweeps=sweeps, index_file=prepared.index, jobs=min(args.jobs, len(todo) or 1)
    )
    for _ in tqdm(made, total=len(todo), desc="LiDAR objects", unit="scene", disable=args.no_progress or not todo):
        pass
    seconds = time.perf_counter() - started
    found = [content for scene in scenes if (content := read_scene(folder, scene.name)) is not None]
    labels = np.concatenate([content.objects()["label"] for content in found] or [np.zeros(0, dtype=np.int8)])
    counts = np.bincount(labels, minlength=len(DETECTION_CLASSES)).tolist()
    samples = sum(len(content.samples) for content in found)
    total = sum(len(scene.samples) for scene in scenes)
    what = f"{len(todo)} scenes in {seconds:.1f} s" if todo else "nothing to do"
    size = total_size(folder / f"{scene.name}.points" for scene in scenes)
    print(f"LiDAR objects: {what}; {len(labels)} from {samples} samples, {megabytes(size)}")
    if samples < total:
        print(f"  {total - samples} samples have no LiDAR key frame, or a damaged one")
    print("  " + ", ".join(f"{n} {name}" for name, n in zip(DETECTION_CLASSES, counts, strict=True)))
    return [reason for content in found for reason in content.damaged.values()]


def smaller_images(args: argparse.Namespace, images: ImageCache, sources: list[Path]) -> list[str]:
    """Make the images that are not there; returns what is wrong with damaged files."""
    todo = [source for source in sources if not images.is_done(source)]
    if args.dry_run:
        print(f"smaller images: {len(todo)} of {len(sources)} to do")
        return []
    started = time.perf_counter()
    progress = tqdm(
        images.add_all(todo, jobs=min(args.jobs, len(todo) or 1)),
        total=len(todo),
        desc="smaller images",
        unit="image",
        disable=args.no_progress or not todo,
    )
    damaged = [str(result) for result in progress if isinstance(result, DataError)]
    what = f"{len(todo)} in {time.perf_counter() - started:.1f} s" if todo else "nothing to do"
    done = [source for source in sources if images.is_done(source)]
    before, after = total_size(done), total_size(map(images.path, done))
    print(f"smaller images: {what}; {len(done)} of {len(sources)}, {megabytes(after)} instead of {megabytes(before)}")
    if done:
        compared = done[:: -(-len(done) // COMPARED_IMAGES)]
        means, largest = zip(*map(images.difference, compared), strict=True)
        print(
            f"  network input differs by {np.mean(means):.4f} on average and {max(largest):.2f} at most "
            f"({len(compared)} images; a level of grey is 0.017)"
        )
    return damaged


def image_files(frames: NuScenesFrames) -> list[Path]:
    """The key frames of all cameras that are there."""
    modalities = frames.index.modalities
    return [path for channel, paths in frames.files().items() if modalities[channel] == "camera" for path in paths]


def total_size(files: Iterable[Path]) -> int:
    """Bytes."""
    return sum(file.stat().st_size for file in files)


def described(file: Path) -> str:
    """Name and size."""
    return f"{file.name}, {megabytes(file.stat().st_size)}"


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    run(main)
