#!/usr/bin/env python3
"""Measure what the data cost: the index of a large data set, and the loader of training samples.

    training/benchmark_data.py index --work /tmp/dummy       tables of v1.0-trainval's size, and a file for each record
    training/benchmark_data.py loader student_r50 --dataroot DATA --version v1.0-mini
    training/benchmark_data.py loader student_r50 --synthscenes 8 --image-width 1600 --epochs 6

Each step of `index` runs in a process of its own: building the index, loading it, loading it after one folder has got a
file. Peak memory is that process's, imports included. The dummy set takes 3 GB, 2.6 million inodes and some minutes to
write; it is removed unless --keep is given, and used again if it is there.

`loader` takes samples as training does. Time by part is measured without processes, in CPU time, so that other work on
the machine disturbs it less; throughput and memory with --workers processes. Memory is the proportional share (PSS) of
anonymous memory: a page that n processes share counts 1/n in each. Left out are the batches under way between the
processes, of which there are at most --workers x 4, and pages of files (libraries, the index), which the system takes
back when it needs them. An epoch's figure is the median of readings throughout it, growth the slope of a line through
the epochs after the first. Both scatter, by whole batches, with what the C library keeps of freed memory: the slope has
its standard error beside it, which more epochs, samples and processes make smaller.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import multiprocessing
import os
import pstats
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import PIL
import torch
from benchmark_machine import machine, process_memory  # type: ignore[import-not-found]

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.data.dataset import TrainingSet, collate_training
from crkd_core.data.nuscenes import load_index
from crkd_core.data.nuscenes_dummy import VERSION, write_dummy_set
from crkd_core.data.simulated import prerendered, simulated_keys
from crkd_core.data.synthscenes.config import check_image_width
from crkd_core.training.nuscenes_data import Prepared, nuscenes_frames, objects_to_paste

MB = 1e6  # bytes
INDEX_FILE = "index.npz"
TIMED_SAMPLES = 36
READINGS = 20  # of memory in an epoch
MEMORY_EPOCHS = 4
"""At least so many tell whether memory grows: the first is warm-up, a line with an error takes three points."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=ArgumentParser)
    index = commands.add_parser("index", help="build and load the index of a dummy data set")
    index.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of the dummy set")
    index.add_argument("--scenes", type=int, default=850, help="850 have trainval's size (default: %(default)s)")
    index.add_argument("--no-files", action="store_true", help="tables only: no file is there to be found")
    index.add_argument("--keep", action="store_true", help="do not remove the dummy set")
    loader = commands.add_parser("loader", help="throughput and memory of the training loader")
    loader.add_argument("recipe", help="name of a shipped recipe, or the path of a .yaml file")
    loader.add_argument("--dataroot", type=Path, help="data set in nuScenes format")
    loader.add_argument("--version", default="v1.0-trainval", help="its version folder (default: %(default)s)")
    loader.add_argument("--synthscenes", type=int, default=0, metavar="N", help="simulate N drives of four samples")
    loader.add_argument("--image-width", type=int, default=1600, help="of simulated images (default: %(default)s)")
    loader.add_argument("--resize", choices=["pil_bicubic", "reduced"], help="another way than the recipe's")
    loader.add_argument("--prepared", type=Path, metavar="DIR", help="what training/prepare.py made of --dataroot")
    loader.add_argument("--image-cache", action="store_true", help="read the smaller images of --prepared")
    loader.add_argument(
        "--samples", type=int, default=160, help="of an epoch; repeated if there are fewer (default: %(default)s)"
    )
    loader.add_argument("--epochs", type=int, default=6, help="epochs with processes (default: %(default)s)")
    loader.add_argument("--workers", type=int, default=2, help="loading processes (default: %(default)s)")
    for command in (index, loader):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--out", type=Path, metavar="FILE", help="write the figures there as JSON")
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    versions = {"numpy": np.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__}
    conditions = {**machine(), **versions, "seed": args.seed}
    print(", ".join(f"{key} {value}" for key, value in conditions.items()))
    figures = measured_index(args) if args.command == "index" else measured_loader(args)
    if args.out is not None:
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps({**conditions, **figures}, indent=1))
        except OSError as error:
            raise UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    return 0


# ------------------------------------------------------------------------------------------------------------- index


def measured_index(args: argparse.Namespace) -> dict[str, Any]:
    """Build and load the index of a dummy set, each in a process of its own."""
    if args.scenes < 1:
        raise UserError(f"--scenes: expected 1 or more, got {args.scenes}")
    root = args.work / f"{args.scenes}-scenes-seed-{args.seed}{'-no-files' if args.no_files else ''}"
    cache = args.work / INDEX_FILE
    started = time.perf_counter()
    if not root.exists():
        unfinished = root.with_name(f".{root.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            write_dummy_set(unfinished, scenes=args.scenes, seed=args.seed, files=not args.no_files)
            unfinished.rename(root)
        except OSError as error:
            raise UserError(f"--work {args.work}: cannot be written: {error.strerror}") from None
        print(f"dummy set written in {time.perf_counter() - started:.0f} s; folders settle ...")
        time.sleep(2.5)
    for file in args.work.glob("index*.npz"):
        file.unlink()
    tables = sum(file.stat().st_size for file in (root / VERSION).iterdir())
    steps = {"build": in_own_process(root, cache), "load": in_own_process(root, cache)}
    extra = root / "samples" / "CAM_FRONT" / "extra"
    extra.touch()
    steps["load, one folder changed"] = in_own_process(root, cache)
    extra.unlink()
    index = load_index(root, VERSION, cache=cache)
    sizes = {file.name: file.stat().st_size for file in sorted(args.work.glob("index*.npz"))}
    print(index.report())
    print(f"tables {tables / MB:.0f} MB; index " + ", ".join(f"{name} {n / MB:.0f} MB" for name, n in sizes.items()))
    for name, step in steps.items():
        print(f"{name:<26}{step['wall_s']:7.2f} s, CPU {step['cpu_s']:7.2f} s, peak {step['peak_mb']:6.0f} MB")
    if not args.keep:
        shutil.rmtree(root)
        for name in sizes:
            (args.work / name).unlink()
    return {"tables_mb": tables / MB, "files_mb": {name: n / MB for name, n in sizes.items()}, "steps": steps}


def in_own_process(root: Path, cache: Path) -> dict[str, float]:
    """Time and peak memory of ``load_index`` in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(loaded, (root, cache))


def loaded(root: Path, cache: Path) -> dict[str, float]:
    """Load an index and say what it cost this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    load_index(root, VERSION, cache=cache)
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": process_memory("status", "VmHWM"),
    }


# ------------------------------------------------------------------------------------------------------------ loader

# Part of the work -> the functions it is done in, as (end of the source file's path, name), and the parts inside them.
PARTS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[str, ...]]] = {
    "read files": ((("data/frames.py", "annotated_frame"),), ()),
    "decode": ((("data/images.py", "decoded"), ("data/images.py", "undistorted")), ()),
    "resize": ((("data/images.py", "_resized_part"),), ()),
    "crop, flip, rotate": ((("data/images.py", "_augmented"),), ("decode", "resize")),
    "planes": ((("data/images.py", "_planes"),), ()),
    "radar": ((("data/encode.py", "_radar"), ("data/augment.py", "augmented_radar")), ()),
    "LiDAR": ((("data/encode.py", "_lidar"),), ()),
    "boxes": ((("data/encode.py", "training_scene"),), ()),
    "stack": ((("data/encode.py", "_stacked"),), ()),
    "collate": ((("data/dataset.py", "collate_training"),), ()),
}


def measured_loader(args: argparse.Namespace) -> dict[str, Any]:
    """Time by part, throughput and memory."""
    if bool(args.dataroot) == bool(args.synthscenes):
        raise UserError("data: name either --dataroot DIR or --synthscenes N")
    if args.image_cache and not (args.dataroot and args.prepared):
        raise UserError(
            "--image-cache: name the --dataroot, and the folder that training/prepare.py made: --prepared DIR"
        )
    if min(args.epochs, args.workers, args.samples) < 1 or args.synthscenes < 0:
        raise UserError(
            "expected --epochs, --workers and --samples of 1 or more, --synthscenes of 0 or more; "
            f"got {args.epochs}, {args.workers}, {args.samples}, {args.synthscenes}"
        )
    check_image_width(args.image_width)
    recipe = load_recipe(args.recipe)
    if args.resize:
        recipe = msgspec.structs.replace(recipe, image=msgspec.structs.replace(recipe.image, resize=args.resize))
    samples = training_set(args, recipe)
    cached = ", smaller images" if args.image_cache else ""
    title = f"{recipe.name}, {recipe.image.resize}{cached}, {len(samples)} samples"
    print(title)
    parts = time_by_part(samples)
    epochs = loaded_epochs(samples, recipe, args)
    figures = {"title": title, "ms_by_part": parts, "epochs": epochs}
    if args.epochs < MEMORY_EPOCHS:
        print(f"  whether memory grows: --epochs {MEMORY_EPOCHS} or more would tell")
        return figures
    slope, error = growth([epoch["main_mb"] + epoch["workers_mb"] for epoch in epochs])
    print(f"  memory after the first epoch: {slope:+.2f} % per epoch, standard error {error:.2f} %")
    return {**figures, "memory_growth_percent": slope, "memory_growth_error_percent": error}


def training_set(args: argparse.Namespace, recipe: Recipe) -> TrainingSet:
    """The samples of a data set, or of simulated drives kept in memory."""
    if args.dataroot:
        prepared = None if args.prepared is None else Prepared(args.prepared, args.version)
        frames = nuscenes_frames(
            args.dataroot, args.version, recipe, prepared=prepared, smaller_images=args.image_cache
        )
        return TrainingSet(frames, recipe, seed=args.seed, database=objects_to_paste(frames, recipe, prepared))
    simulated = prerendered(
        simulated_keys(range(args.seed, args.seed + args.synthscenes), frames_per_drive=4),
        image_width=args.image_width,
        radar_sweeps=recipe.radar_sweeps,
        lidar_sweeps=recipe.lidar_sweeps,
        jobs=args.workers,
        progress=True,
    )
    return TrainingSet(simulated, recipe, seed=args.seed)


def time_by_part(samples: TrainingSet) -> dict[str, float]:
    """CPU milliseconds of one sample, all of it and by part, in this process."""
    torch.set_num_threads(1)  # as in a loading process
    cv2.setNumThreads(1)
    batch = samples.recipe.train.batch_size
    positions = [(epoch, i) for epoch in range(-(-TIMED_SAMPLES // len(samples))) for i in range(len(samples))]
    positions = positions[: max(1, TIMED_SAMPLES // batch) * batch]

    def load() -> float:
        start = time.process_time()
        for first in range(0, len(positions), batch):
            collate_training([samples[position] for position in positions[first : first + batch]])
        return time.process_time() - start

    load()
    total = min(load() for _ in range(3))
    profile = cProfile.Profile(time.process_time, builtins=False)
    profiled = profile.runcall(load)
    # The profile itself takes time: its parts are scaled to the time without it.
    scale = 1000 * total / profiled / len(positions)
    entries = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]

    def spent(file: str, function: str) -> float:
        """CPU time in one function and what it calls."""
        return float(sum(entry[3] for (path, _, name), entry in entries if path.endswith(file) and name == function))

    inclusive = {part: scale * sum(spent(*one) for one in functions) for part, (functions, _) in PARTS.items()}
    parts: dict[str, float] = {}
    for part, (_, inside) in PARTS.items():
        parts[part] = inclusive[part] - sum(parts[other] for other in inside)
    whole = 1000 * total / len(positions)
    parts = {"all": whole, **parts, "rest": whole - sum(parts.values())}
    for part, ms in parts.items():
        print(f"  {part:<20}{ms:8.2f} ms CPU a sample")
    print(f"  one process: {1000 / whole:.1f} samples/s/core")
    return parts


def loaded_epochs(samples: TrainingSet, recipe: Recipe, args: argparse.Namespace) -> list[dict[str, float]]:
    """Throughput and memory of the training loader, epoch by epoch of --samples samples."""
    # Not for the processes of `index`.
    from crkd_core.training.loading import READ_AHEAD, training_loader
    from crkd_core.training.options import TrainingOptions

    batch = recipe.train.batch_size
    steps, ahead = args.samples // batch, READ_AHEAD * args.workers
    if steps <= ahead:
        raise UserError(f"--samples: expected more than the {ahead * batch} read ahead, got {args.samples}")
    # The loader has something to read ahead at the end of the last epoch, too.
    train = msgspec.structs.replace(recipe.train, steps=args.epochs * steps + 2 * ahead)
    options = TrainingOptions(out=Path(), seed=args.seed, workers=args.workers)
    loader = training_loader(samples, msgspec.structs.replace(recipe, train=train), options, start_step=0)
    batches = iter(loader)
    used = settled_cpu()
    epochs = []
    for epoch in range(args.epochs):
        readings = []
        for step in range(steps):
            if step == ahead:
                started = time.perf_counter()
            next(batches)
            if step % max(1, steps // READINGS) == 0:  # the processes load on meanwhile
                readings.append(memory())
        wall = time.perf_counter() - started
        before, used = used, settled_cpu()
        main, workers = np.median(readings, axis=0).tolist()
        figures = {
            "samples_per_s": (steps - ahead) * batch / wall,
            "samples_per_s_core": steps * batch / (used - before),
            "main_mb": main,
            "workers_mb": workers,
            "readings": len(readings),
        }
        epochs.append(figures)
        print(
            f"  epoch {epoch}: {figures['samples_per_s']:.1f} samples/s, {figures['samples_per_s_core']:.1f} per core; "
            f"memory main {main:.0f} MB, {args.workers} workers {workers:.0f} MB (median of {len(readings)})",
            flush=True,
        )
    return epochs


def growth(epochs: Sequence[float]) -> tuple[float, float]:
    """By how much memory grows from epoch to epoch, and the standard error of that, % of its mean.

    Args:
        epochs: memory of each; the first, in which caches and buffers fill, is left out of the line. At least 4.
    """
    rest = np.array(epochs[1:])
    (slope, _), covariance = np.polyfit(np.arange(len(rest)), rest, 1, cov=True)
    return float(100 * slope / rest.mean()), float(100 * np.sqrt(covariance[0, 0]) / rest.mean())


def memory() -> tuple[float, float]:
    """Memory of this process and of the loading processes, MB."""
    children = [child.pid for child in multiprocessing.active_children() if child.pid]
    main, *rest = (process_memory("smaps_rollup", "Pss_Anon", pid) for pid in (os.getpid(), *children))
    return main, sum(rest)


def settled_cpu() -> float:
    """Wait until as much is read ahead as may be; CPU seconds of the loading processes so far."""
    used, before = workers_cpu(), -1.0
    while used - before > 0.02:
        time.sleep(0.5)
        before, used = used, workers_cpu()
    return used


def workers_cpu() -> float:
    """CPU seconds of this process's children so far."""
    ticks = 0
    for child in multiprocessing.active_children():
        # After the name, which may hold blanks, in brackets: user and system time are the 12th and 13th field.
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(main)
