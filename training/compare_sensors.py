#!/usr/bin/env python3
r"""Compare runs that differ in their sensors: the official metric by condition and range, as a page and a picture.

    training/make_synthscenes.py --out evaluation --seeds $(seq 9000 9039) --lidar-sweeps
    training/train.py camera_tiny --synthscenes 4000 --out runs/camera \
        --evaluate-root evaluation --version v1.0-mini --evaluate-scenes
    training/compare_sensors.py camera=runs/camera radar=runs/radar ... --dataroot evaluation --version v1.0-mini

A run is the folder that training/train.py wrote, with results.json and model/model.json. All runs must hold results of
the same samples; they are scored on these. Writes sensors.md and sensors.png into --out.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from crkd_core.cli import ArgumentParser, UserError, run
from crkd_core.runtime.checkpoint import Checkpoint, read_sidecar
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth, load_devkit, truth_from_nuscenes
from crkd_core.training.groups import BANDS, CONDITIONS, PLAIN_DAY, conditions_of, evaluate_groups
from crkd_core.training.metrics import Metrics
from crkd_core.training.report import markdown_table
from crkd_core.training.submission import Results, read_submission

ALL = "all"
FIGURES = ("mAP", "NDS")
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito: told apart by everyone


class Arm(NamedTuple):
    """One run.

    Attributes:
        name: what the page calls it.
        checkpoint: recipe and provenance.
        meta: the sensors it read.
        results: sample token -> result entries.
    """

    name: str
    checkpoint: Checkpoint
    meta: dict[str, bool]
    results: Results


Scores = dict[str, dict[str, Metrics]]
"""Arm -> group, or ``ALL`` -> its evaluation."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", metavar="NAME=RUN", help="name and folder of each run, in their order")
    parser.add_argument("--dataroot", type=Path, required=True, help="data set in nuScenes format that was detected on")
    parser.add_argument("--version", default="v1.0-trainval", help="its version folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    return parser.parse_args()


def main() -> int:
    """Score every arm, write the page and the picture."""
    args = arguments()
    arms = [read_arm(text) for text in args.arms]
    tokens = list(arms[0].results)
    for arm in arms[1:]:
        if arm.results.keys() != arms[0].results.keys():
            raise UserError(f"{arm.name}: its results are of other samples than those of {arms[0].name}")
    truth = truth_from_nuscenes(load_devkit(args.dataroot, args.version), tokens, progress=not args.no_progress)
    scores = {arm.name: scored(arm, truth) for arm in tqdm(arms, desc="score", disable=args.no_progress)}
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "sensors.md").write_text(page(arms, scores, truth))
        draw(scores, args.out / "sensors.png")
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot be written: {error.strerror}") from None
    print(f"written: {args.out / 'sensors.md'}, {args.out / 'sensors.png'}")
    return 0


def read_arm(text: str) -> Arm:
    """The run that an argument NAME=RUN names.

    Raises:
        UserError: it is none, or its results or checkpoint are not there.
    """
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UserError(f"{text}: expected NAME=RUN, such as radar=runs/radar")
    meta, results = read_submission(Path(folder) / "results.json")
    return Arm(name, read_sidecar(Path(folder) / "model"), meta, results)


def scored(arm: Arm, truth: dict[str, SampleTruth]) -> dict[str, Metrics]:
    """The whole, then the groups."""
    return {ALL: evaluate(arm.results, truth), **evaluate_groups(arm.results, truth, ["condition", "range"])}


def page(arms: list[Arm], scores: Scores, truth: dict[str, SampleTruth]) -> str:
    """The comparison as Markdown."""
    drives = len({sample.scene for sample in truth.values()})
    return f"""# What each sensor contributes

The same small detector with different sensors, trained on the same simulated drives (how: see the end), scored with the
official nuScenes metric on {len(truth)} key frames of {drives} other drives. SynthScenes is a simulator: the figures
show what its sensors can tell under its conditions, not what real ones do.

![mAP and NDS by condition and range](sensors.png)

## All key frames

{overview(arms, scores)}

## By condition and range

Means over the classes that the group has ground truth of. A drive may have several conditions; those of few drives are
uncertain. Ranges are distances of an object's centre from the vehicle, which ground truth and detections are restricted
to alike: a detection on the wrong side of a border counts as missed and as wrong.

{by_group(scores, truth)}

## By class

Average precision.

{by_class(scores)}

## How it was made

{provenance(arms)}

Scored on {platform.system()} {platform.machine()} by `training/compare_sensors.py`.
"""


def overview(arms: list[Arm], scores: Scores) -> str:
    """One row an arm."""
    rows = []
    for arm in arms:
        sensors = " + ".join(flag.removeprefix("use_") for flag, used in arm.meta.items() if used)
        figures = scores[arm.name][ALL].official
        numbers = [text_of(value) for value in (figures.mAP, figures.NDS, *figures.errors)]
        rows.append([arm.name, f"`{arm.checkpoint.recipe.name}`", sensors, *numbers])
    heads = ["run", "recipe", "sensors", "mAP", "NDS", "mATE m", "mASE", "mAOE rad", "mAVE m/s", "mAAE"]
    return markdown_table(heads, rows, words=3)


def by_group(scores: Scores, truth: dict[str, SampleTruth]) -> str:
    """One row a group: its size, then mAP / NDS of each arm."""
    rows = []
    first = next(iter(scores.values()))
    for group, metrics in first.items():
        objects = sum(figures.truths for figures in metrics.classes.values())
        cells = [" / ".join(text_of(value_of(own[group], name)) for name in FIGURES) for own in scores.values()]
        rows.append([group, str(drives_of(group, truth)), str(objects), *cells])
    return markdown_table(["mAP / NDS", "drives", "objects", *scores], rows)


def drives_of(group: str, truth: dict[str, SampleTruth]) -> int:
    """How many drives are in a group; ranges are of all."""
    conditions = {s.scene: conditions_of(s.description) for s in truth.values()}
    if group not in (PLAIN_DAY, *CONDITIONS):
        return len(conditions)
    return sum(group in found for found in conditions.values())


def by_class(scores: Scores) -> str:
    """One row a class."""
    first = next(iter(scores.values()))[ALL]
    rows = [
        [name, str(figures.truths), *(text_of(own[ALL].classes[name].ap) for own in scores.values())]
        for name, figures in first.classes.items()
    ]
    return markdown_table(["class", "objects", *scores], rows)


def provenance(arms: list[Arm]) -> str:
    """How each checkpoint was trained."""
    keys = ("steps", "seed", "precision", "device", "torch", "commit", "synthscenes", "minutes")
    lines = []
    for arm in arms:
        known = arm.checkpoint.provenance
        facts = ", ".join(f"{key} {known[key]}" for key in keys if key in known)
        lines.append(f"- {arm.name}: `{known.get('command', 'command not stored')}` ({facts})")
    return "\n".join(lines)


def draw(scores: Scores, path: Path) -> None:
    """Bars of mAP (top) and NDS (bottom) by condition (left) and range (right)."""
    groups = list(next(iter(scores.values())))
    halves = {"condition of the drive": groups[: -len(BANDS)], "distance of the object": groups[-len(BANDS) :]}
    figure = Figure(figsize=(11, 6))
    widths = [len(half) for half in halves.values()]
    axes = figure.subplots(2, 2, sharey="row", sharex="col", width_ratios=widths)
    for name, row in zip(FIGURES, axes, strict=True):
        row[0].set_ylabel(name)
        for axis, half in zip(row, halves.values(), strict=True):
            draw_bars(axis, {arm: [value_of(own[group], name) or 0.0 for group in half] for arm, own in scores.items()})
            axis.set_xticks(range(len(half)), half)
    for axis, title in zip(axes[0], halves, strict=True):
        axis.set_title(title)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=len(scores), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=100, metadata={"Software": None})


def draw_bars(axis: Axes, heights: dict[str, list[float]]) -> None:
    """Groups of bars side by side, one of each group an arm."""
    width = 0.8 / len(heights)
    for k, (arm, values) in enumerate(heights.items()):
        places = [i + (k - (len(heights) - 1) / 2) * width for i in range(len(values))]
        axis.bar(places, values, width, label=arm, color=COLOURS[k % len(COLOURS)])
    axis.set_ylim(0, 1)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def value_of(metrics: Metrics, figure: str) -> float | None:
    """One of ``FIGURES`` over the classes that have ground truth; None where no class has."""
    if metrics.present is None:
        return None
    return {"mAP": metrics.present.mAP, "NDS": metrics.present.NDS}[figure]


def text_of(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    run(main)
