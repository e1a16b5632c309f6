#!/usr/bin/env python3
"""Measure how long a detector takes on a GPU, from camera frames in host memory to boxes in host memory.

    training/benchmark_latency.py student_r50 --out out/latency
    training/benchmark_latency.py student_tiny --checkpoint weights/student_tiny --out out/latency

Six 1600 x 900 frames of noise and five radars of six sweeps; without --checkpoint random weights, which take as long as
trained ones. In the same run the same weights compute as the released CRKD code does (benchmark_reference.py), in
float32 and under autocast. Latencies are those of one frame after the other; the frames lie in page-locked memory, in
ordinary memory, or belong to a vehicle that moves, for which the geometry of every frame is computed anew. Prints a
table; writes latency.json and latency.png into --out. JPEG files are decoded on the CPU, six beside each other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_frames import FRAMES, noise  # type: ignore[import-not-found]
from benchmark_machine import machine  # type: ignore[import-not-found]
from benchmark_reference import ReferenceDetector  # type: ignore[import-not-found]
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import load_recipe
from crkd_core.data.encode import collate, encode
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import load_checkpoint, save_checkpoint
from crkd_core.runtime.detector import Detector
from crkd_core.runtime.pipeline import Pipeline, captured
from crkd_core.types import Detections, SensorFrame

LEAST_RUNS = 5


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name or .yaml file of a camera + radar student")
    parser.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="trained weights (default: random ones)")
    parser.add_argument("--precision", choices=("fp16", "bf16", "fp32"), default="fp16", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=300, help="frames per figure (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and frames (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write latency.json and latency.png there")
    parser.add_argument(
        "--cold-start", action="store_true", help="also time a new process, with empty caches and again"
    )
    parser.add_argument("--first-box", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    if args.runs < LEAST_RUNS:
        raise UserError(f"--runs: expected {LEAST_RUNS} or more, got {args.runs}: the slow ones run a fifth as often")
    if not torch.cuda.is_available():
        raise UserError("no CUDA device: this measures a GPU")
    if args.first_box is not None:
        return first_box(args)
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.checkpoint or random_checkpoint(args.recipe, args.seed, Path(scratch) / "weights")
        found: dict[str, Any] = {"machine": machine(), "recipe": args.recipe, "precision": args.precision}
        found |= {"weights": str(args.checkpoint or f"random, seed {args.seed}"), "runs": args.runs}
        torch.cuda.reset_peak_memory_stats()
        detector = Detector(folder, device="cuda", precision=args.precision, strict=True)
        pipeline = detector._backend  # noqa: SLF001  # its graphs are timed one by one
        assert isinstance(pipeline, Pipeline)
        found["latency_ms"] = latencies(detector, args)
        found["memory_mb"] = {"reserved_peak": torch.cuda.max_memory_reserved() / 2**20, "device": used_mb()}
        found["stages_ms"] = stages(pipeline)
        found["pipelined_fps"] = pipelined(detector, noise(args.seed, pinned=True), args.runs)
        found["agreement"] = agreement(folder, detector, args)
        found["roofline"] = roofline(detector, found["stages_ms"])
        found["throughput"] = throughput(detector, args)
        found["reference_ms"] = reference(folder, args)
        if args.cold_start:
            found["cold_start_s"] = cold_starts(folder, args)
    print(json.dumps(found, indent=1))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "latency.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, args.out / "latency.png")
        print(f"written: {args.out}/latency.json, {args.out}/latency.png")
    return 0


def random_checkpoint(recipe_name: str, seed: int, folder: Path) -> Path:
    """Random weights whose maps have the spread of trained ones: batch norm has seen one batch of noise."""
    torch.manual_seed(seed)
    recipe = load_recipe(recipe_name)
    model = FusionDetector(recipe).cuda().train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
            module.momentum = 1.0
    with torch.no_grad():
        output = model(collate([encode(frame, recipe) for frame in noise(seed, pinned=False)[:2]]).to("cuda"))
        for task, maps in zip(model.head.tasks, output.tasks, strict=True):
            # So that about forty cells of each task count as objects.
            strongest = maps.heatmap.flatten().topk(80).values[-1]
            task["heatmap"][1].bias += torch.logit(torch.tensor(0.1)).item() - strongest  # type: ignore[index]
    return save_checkpoint(folder, model.eval(), recipe, provenance={"seed": seed})


def wall(step: Callable[[SensorFrame], object], given: list[SensorFrame], runs: int) -> dict[str, float]:
    """Median and 99th percentile of a step on one frame after the other, ms."""
    times = []
    for i in range(runs + 20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step(given[i % len(given)])
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return {"p50": float(np.median(times[20:])), "p99": float(np.percentile(times[20:], 99))}


def on_gpu(step: Callable[[], object], runs: int = 100) -> float:
    """Median duration of what a step does on the GPU, ms."""
    for _ in range(5):
        step()
    times = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(np.median(times))


def latencies(detector: Detector, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """From frames in host memory to boxes in host memory."""
    found = {
        "page-locked": wall(detector, noise(args.seed, pinned=True), args.runs),
        "ordinary memory": wall(detector, noise(args.seed, pinned=False), args.runs),
        "moving, page-locked": wall(detector, noise(args.seed, pinned=True, moving=True), args.runs),
        "JPEG": wall(detector, noise(args.seed, pinned=False, encoded=True), args.runs // 3),
    }
    given = noise(args.seed, pinned=True)[0]
    first, second = detector(given), detector(given)
    assert np.array_equal(first.boxes.centers, second.boxes.centers), "equal frames gave different boxes"
    found["boxes"] = {"count": len(first)}
    return found


def stages(pipeline: Pipeline) -> dict[str, float]:
    """Each part by itself on the GPU; images, radar and geometry run beside each other in a frame."""
    found = {name: on_gpu(step) for name, step in pipeline.parts().items()}
    head = pipeline.network.head
    with torch.inference_mode():
        shared, heat = pipeline.head_maps()
        _, _, row, column = head.peaks(heat)
        codes = head.codes(shared, row, column)
        details: dict[str, Callable[[], object]] = {
            "of images: preparation": pipeline.prepared_images,
            "of boxes: codes at the peaks": lambda: head.codes(shared, row, column),
            "of boxes: peaks, decoding, suppression": lambda: head.results(
                *head.peaks(heat)[:2], head.boxes(codes, row, column)
            ),
        }
        for name, step in details.items():
            graph, _ = captured(step, torch.cuda.Stream(), torch.cuda.graph_pool_handle())
            found[name] = on_gpu(graph.replay)
    return found


def pipelined(detector: Detector, given: list[SensorFrame], runs: int) -> float:
    """Frames per second, one submitted while the one before is computed."""
    start = time.perf_counter()
    under_way = detector.submit(given[0])
    for i in range(1, runs):
        following = detector.submit(given[i % len(given)])
        detector.collect(under_way)
        under_way = following
    detector.collect(under_way)
    return runs / (time.perf_counter() - start)


def agreement(folder: Path, detector: Detector, args: argparse.Namespace) -> dict[str, float]:
    """How far the precision moves boxes of more than 0.1, against float32."""
    exact = Detector(folder, device="cuda", precision="fp32", strict=True)
    matched = total = 0
    worst = []
    for frame in noise(args.seed, pinned=False):
        found, expected = detector(frame), exact(frame)
        strong = expected.filtered(expected.scores > 0.1)
        total += len(strong)
        offsets = nearest(strong, found)
        matched += int((offsets <= 0.05).sum())
        worst += offsets[np.isfinite(offsets)].tolist()
    errors = head_errors(exact, detector, args)
    return {
        "boxes": total,
        "matched_within_5_cm": matched / max(total, 1),
        "p99_offset_m": float(np.percentile(worst, 99)) if worst else 0.0,
        **errors,
    }


def nearest(expected: Detections, found: Detections) -> np.ndarray[Any, Any]:
    """(N,) m from each box to the nearest found one of its class."""
    offset = np.linalg.norm(expected.boxes.centers[:, None] - found.boxes.centers[None], axis=2)
    offset[expected.labels[:, None] != found.labels[None]] = np.inf
    return np.asarray(offset.min(axis=1, initial=np.inf))


def head_errors(exact: Detector, detector: Detector, args: argparse.Namespace) -> dict[str, float]:
    """||a - b|| / ||b|| of what enters the decoding."""
    maps = []
    for one in (exact, detector):
        one(noise(args.seed, pinned=False)[0])
        assert isinstance(one._backend, Pipeline)  # noqa: SLF001
        maps.append([m.float() for m in one._backend.head_maps()])  # noqa: SLF001
    names = ("head_shared_map", "head_heatmaps")
    pairs = zip(names, *maps, strict=True)
    return {f"{name}_relative_error": float((b - a).norm() / a.norm()) for name, a, b in pairs}


def roofline(detector: Detector, parts: dict[str, float]) -> dict[str, float]:
    """Operations of the network against what this GPU's matrix units and memory do."""
    with torch.device("meta"):
        model = FusionDetector(detector.recipe).eval()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[detector.status.precision]
    inputs = encode(noise(0, pinned=False)[0], detector.recipe).to("meta")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    weights = sum(p.numel() for p in model.parameters()) * dtype.itemsize
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    matmul = 2 * 8192**3 / on_gpu(lambda: a @ b, 20) * 1e3
    source, target = (torch.randint(0, 255, (2**32,), dtype=torch.uint8, device="cuda") for _ in range(2))
    copy = 2 * 2**32 / on_gpu(lambda: target.copy_(source), 10) * 1e3
    operations, spent = counter.get_total_flops(), parts["images"] + parts["boxes"]
    return {
        "gflop_of_whole_maps": operations / 1e9,
        "weights_mb": weights / 1e6,
        "measured_matmul_tflops": matmul / 1e12,
        "measured_copy_gb_s": copy / 1e9,
        "floor_ms": 1e3 * max(operations / matmul, weights / copy),
        "part_of_matmul_peak": operations / (spent * 1e-3) / matmul,
    }


def throughput(detector: Detector, args: argparse.Namespace) -> dict[str, float]:
    """Frames per second of the network alone, from network input on the GPU, by batch size."""
    pipeline = detector._backend  # noqa: SLF001
    assert isinstance(pipeline, Pipeline)
    network, recipe = pipeline.network, detector.recipe
    encoded = [encode(frame, recipe) for frame in noise(args.seed, pinned=False)]
    found = {}
    for batch in (1, 2, 4, 8):
        inputs = collate([encoded[i % FRAMES] for i in range(batch)]).to("cuda")
        images = inputs.images.to(network.dtype).contiguous(memory_format=torch.channels_last)
        inputs = replace(inputs, images=images)
        with torch.inference_mode():
            pool = torch.cuda.graph_pool_handle()
            graph, _ = captured(lambda x=inputs: network(x), torch.cuda.Stream(), pool)  # type: ignore[misc]
        found[str(batch)] = 1e3 * batch / on_gpu(graph.replay, 50)
    return found


def reference(folder: Path, args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """The same weights and frames, computed as the released code does."""
    given, found = noise(args.seed, pinned=False), {}
    for name, autocast in (("float32", False), ("autocast", True)):
        slow = ReferenceDetector(load_checkpoint(folder)[0].cuda(), autocast=autocast)
        inputs = slow.preprocess(given[0])
        found[name] = {
            "all": wall(lambda frame, s=slow: s.network(s.preprocess(frame)), given, args.runs // 5),  # type: ignore[misc]
            "network": wall(lambda _, s=slow, x=inputs: s.network(x), given, args.runs // 5),  # type: ignore[misc]
            "network without decoding": wall(lambda _, s=slow, x=inputs: s.maps(x), given, args.runs // 5),  # type: ignore[misc]
        }
    return found


def used_mb() -> float:
    """Memory of the device that is taken, by this process and its driver."""
    free, total = torch.cuda.mem_get_info()
    return float(total - free) / 2**20


def first_box(args: argparse.Namespace) -> int:
    """What a new process does until its first boxes."""
    given = noise(args.seed, pinned=False)[0]
    start = time.perf_counter()
    Detector(args.first_box, device="cuda", precision=args.precision, strict=True)(given)
    print(time.perf_counter() - start)
    return 0


def cold_starts(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Seconds from loading to the first boxes in a new process, without and with compiled kernels on the disk."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TRITON_CACHE_DIR": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
        for name in ("empty_cache", "filled_cache"):
            command = [sys.executable, __file__, args.recipe, "--first-box", str(folder), "--precision", args.precision]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found[name] = float(done.stdout.split()[-1])
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """Bars: the reference and the detector."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bars = {f"released code's way, {name}": figures["all"] for name, figures in found["reference_ms"].items()}
    bars |= {f"crkd_ros, {name}": v for name, v in found["latency_ms"].items() if "p50" in v}
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    names = list(bars)[::-1]
    drawn = axes.barh(
        names, [bars[name]["p50"] for name in names], color=["C0" if "crkd" in n else "C7" for n in names]
    )
    axes.bar_label(drawn, labels=[f"{bars[n]['p50']:.1f} (p99 {bars[n]['p99']:.1f})" for n in names], padding=3)
    axes.margins(x=0.25)
    axes.set_xlabel("ms from six camera frames in host memory to boxes, median (99th percentile)")
    axes.set_title(f"{found['recipe']}, {found['precision']}, {found['machine']['gpu']}")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    run(main)
