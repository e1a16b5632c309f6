#!/usr/bin/env python3
"""Look at a teacher's LiDAR branch alone: how soon does it learn from the ages of points how fast things move?

    training/probe_lidar_age.py 1 10 30

The LiDAR branch of teacher_study, the highest answer of all its cells and two linear layers learn the velocity of the
one moving object whose surroundings they see; ages are multiplied by each `model.lidar.age_scale` named. Scored is the
mean error of the velocity of objects in other simulated drives.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from benchmark_machine import machine  # type: ignore[import-not-found]
from numpy.typing import NDArray
from torch import Tensor, nn
from train import changed

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.config import Recipe, load_recipe
from crkd_core.data.lidar import lidar_points
from crkd_core.data.simulated import prerendered, simulated_keys
from crkd_core.geometry.grid import BevGrid
from crkd_core.geometry.transforms import inverse
from crkd_core.models.lidar_encoder import LidarEncoder
from crkd_core.training.schedule import learning_rate_factor, optimizer
from crkd_core.types import AnnotatedFrame

FRAMES_PER_DRIVE = 2
BATCH = 16
REACH, BELOW = 4.0, 0.5
"""What is seen of an object's surroundings: in x and y from its centre, and below that, m."""
POINTS = 20, 600
"""Fewest and most of them."""
FURTHEST, SLOWEST = 48.0, 1.0
"""Objects whose centres lie within these x and y, m, and that are faster, m/s."""
SCORED = 400
"""Objects, at most."""


@dataclass(frozen=True)
class Moving:
    """A moving object: points around it as the network reads them, (P, 5) float32, and its velocity (2,), BEV frame."""

    points: NDArray[np.float32]
    velocity: NDArray[np.float32]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("age_scale", type=float, nargs="+", help="units of age in a second; 1: as released")
    parser.add_argument("--steps", type=int, default=2000, help=f"of {BATCH} objects (default: %(default)s)")
    parser.add_argument(
        "--drives", type=int, default=150, help="to learn from; as many are scored (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="simulating processes (default: %(default)s)")
    return parser.parse_args()


def main() -> int:
    """Simulate once, then train and score with each scale."""
    args = arguments()
    for name in ("steps", "drives", "jobs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}: expected 1 or more, got {getattr(args, name)}")
    schedule = [f"train.steps={args.steps}", f"train.warmup_steps={min(100, args.steps // 2)}"]
    recipes = [
        changed(load_recipe("teacher_study"), [f"model.lidar.age_scale={scale}", *schedule]) for scale in args.age_scale
    ]
    print(json.dumps({"machine": machine(), "precision": "fp32", "seed": args.seed}))
    learned = moving_objects(range(args.drives), args.jobs)
    others = moving_objects(range(args.drives, 2 * args.drives), args.jobs)
    scored = others[:: max(1, len(others) // SCORED)][:SCORED]
    if not learned or not scored:
        raise UserError(f"--drives {args.drives}: no moving object in them; name more")
    still = float(np.mean([np.hypot(*one.velocity) for one in scored]))
    print(f"\n{len(learned)} objects learned from, {len(scored)} scored; an answer of zero errs by {still:.2f} m/s\n")
    print("| age_scale | error, m/s | mean error of the 100 steps before step |\n| ---: | ---: | --- |")
    for recipe in recipes:
        print(trained(recipe, learned, scored, args).row(), flush=True)
    return 0


def moving_objects(drives: range, jobs: int) -> list[Moving]:
    """All moving objects that have enough points."""
    lidar = load_recipe("teacher_study").model.lidar
    assert lidar is not None
    sweeps = range(0, lidar.sweeps * lidar.sweep_step + 1, lidar.sweep_step)
    keys = simulated_keys(drives, frames_per_drive=FRAMES_PER_DRIVE)
    frames = prerendered(keys, image_width=0, radar_sweeps=0, lidar_sweeps=sweeps, cameras=False, jobs=jobs)
    rng = np.random.default_rng(drives.start)
    return [one for frame in frames for one in moving_in(frame, rng)]


def moving_in(seen: AnnotatedFrame, rng: np.random.Generator) -> list[Moving]:
    """Those of a key frame."""
    points = lidar_points(seen.frame, sweeps=len(seen.frame.lidar) - 1)
    boxes = seen.boxes.transformed(inverse(seen.frame.T_base_from_bev))
    found = []
    for center, velocity in zip(boxes.centers, boxes.velocities, strict=True):
        # A velocity that is not known (NaN) is not faster.
        if np.abs(center[:2]).max() > FURTHEST or not np.hypot(*velocity) > SLOWEST:
            continue
        around = (np.abs(points[:, :2] - center[:2]).max(1) < REACH) & (points[:, 2] > center[2] - BELOW)
        index = np.flatnonzero(around)
        if len(index) >= POINTS[0]:
            chosen = np.sort(rng.choice(index, min(len(index), POINTS[1]), replace=False))
            found.append(Moving(points[chosen], velocity.astype(np.float32)))
    return found


class Speedometer(nn.Module):
    """The velocity of the object in a cloud."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        assert recipe.model.lidar is not None
        self.lidar = LidarEncoder(recipe.model.lidar, BevGrid.from_config(recipe.bev))
        width = self.lidar.out_channels
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, clouds: Sequence[NDArray[np.float32]]) -> Tensor:
        """(B, 2), m/s."""
        points = torch.from_numpy(np.concatenate(clouds))
        sample = torch.arange(len(clouds)).repeat_interleave(torch.tensor([len(cloud) for cloud in clouds]))
        return self.head(self.lidar(points, sample, len(clouds)).amax((2, 3)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Result:
    """Mean errors of the velocity, m/s: of the objects that are scored, and in training."""

    age_scale: float
    error: float
    on_the_way: dict[int, float]

    def row(self) -> str:
        """Of a table."""
        steps = ", ".join(f"{step}: {error:.1f}" for step, error in self.on_the_way.items())
        return f"| {self.age_scale:g} | {self.error:.2f} | {steps} |"


def trained(recipe: Recipe, learned: list[Moving], scored: list[Moving], args: argparse.Namespace) -> Result:
    """Train and score one network."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    network = Speedometer(recipe)
    adamw = optimizer(network, recipe.train, samples=BATCH)
    rate = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: learning_rate_factor(step, recipe.train))
    errors: list[float] = []
    for _ in range(args.steps):
        chosen = [turned(learned[i], rng) for i in rng.integers(len(learned), size=BATCH)]
        difference = network([one.points for one in chosen]) - velocities(chosen)
        adamw.zero_grad()
        (0.25 * difference.abs().sum(1).mean()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.train.gradient_clip)
        adamw.step()
        rate.step()
        errors.append(float(difference.detach().norm(dim=1).mean()))
    network.eval()
    with torch.no_grad():
        parts = [scored[i : i + BATCH] for i in range(0, len(scored), BATCH)]
        missed = torch.cat([network([one.points for one in part]) - velocities(part) for part in parts]).norm(dim=1)
    ends = range(min(600, args.steps), args.steps + 1, 600)
    assert recipe.model.lidar is not None
    on_the_way = {end: float(np.mean(errors[max(0, end - 100) : end])) for end in ends}
    return Result(recipe.model.lidar.age_scale, float(missed.mean()), on_the_way)


def turned(one: Moving, rng: np.random.Generator) -> Moving:
    """The object turned about the vehicle by up to 45 degrees and mirrored, as teacher_study's samples are."""
    angle = rng.uniform(-np.pi / 4, np.pi / 4)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, sine], [-sine, cosine]], np.float32) * rng.choice([-1.0, 1.0], 2).astype(np.float32)
    points = one.points.copy()
    points[:, :2] = points[:, :2] @ turn
    return Moving(points, one.velocity @ turn)


def velocities(objects: Sequence[Moving]) -> Tensor:
    """(B, 2), m/s."""
    return torch.from_numpy(np.stack([one.velocity for one in objects]))


if __name__ == "__main__":
    run(main)
