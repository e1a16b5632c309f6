"""The study as a page and a picture: means, spreads and differences seed by seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from crkd_core.training.metrics import Metrics
from crkd_core.training.report import markdown_table
from crkd_core.training.study import ARMS, Arm
from crkd_core.training.submission import write_json

ORDER = ("teacher", "crkd", "student", "baseline")
"""The paper's order by NDS."""
STUDY = "study.json"
"""What was called, in the folder of a study."""
_PARTS = {
    "table": "The table",
    "variant": "Other ways to distil",
    "loss": "Each loss alone",
    "correction": "Each correction undone",
}
_NO_ARMS = (
    "Two corrections are no arms: `distillation.teacher_backbone` needs ImageNet weights, and pasting objects for a "
    "student (`samples.paste`) needs those cut out of nuScenes."
)
_COLOURS = {"table": "#0072b2", "variant": "#cc79a7", "loss": "#009e73", "correction": "#d55e00"}


@dataclass(frozen=True)
class Row:
    """One arm with one seed that has ended.

    Attributes:
        facts: what ``arm.json`` holds: steps, samples, minutes, command, device and so on.
        metrics: of its checkpoint; None: not scored yet.
    """

    facts: dict[str, Any]
    metrics: Metrics | None


Rows = dict[str, dict[int, Row]]
"""Arm -> seed -> what came out."""


def read_rows(out: Path) -> Rows:
    """The arms below a folder that have ended."""
    rows: Rows = {}
    for path in sorted(out.glob("*/arm.json")):
        facts, scored = json.loads(path.read_text()), path.with_name("metrics.json")
        metrics = Metrics.from_json(scored.read_bytes()) if scored.exists() else None
        rows.setdefault(facts["arm"], {})[facts["seed"]] = Row(facts, metrics)
    return rows


def note_call(out: Path, call: str, data: Sequence[str]) -> None:
    """Notes in a folder of a study what was called, beside what was called before, and what simulated its data."""
    before = calls(out)
    made = [*(before["calls"] if before else []), call]
    write_json(out / STUDY, {"calls": list(dict.fromkeys(made)), "data": list(data)}, indent=1)


def calls(out: Path) -> dict[str, list[str]] | None:
    """What ``note_call`` has noted: ``calls`` and ``data``; None: nothing."""
    path = out / STUDY
    noted: dict[str, list[str]] | None = json.loads(path.read_text()) if path.exists() else None
    return noted


def study_page(
    arms: Sequence[Arm], rows: Rows, *, calls: Sequence[str], data: Sequence[str], simulator: str, findings: str = ""
) -> str:
    """The study as Markdown.

    Args:
        arms: all there are, run or not.
        rows: those that have ended.
        calls: that ran the study, one after the other.
        data: commands that simulated what was trained and scored on.
        simulator: hash of SynthScenes' configuration, where that is what was trained on; "" elsewhere.
        findings: file beside the page in which people have written what they found out.
    """
    method = (
        f"Made by {', then '.join(f'`{call}`' for call in calls)}. {_ran(arms, rows)} {_from(rows)} What is scored is "
        "the last checkpoint (averaged weights where the recipe has `ema_decay`), never one chosen by its score. ± is "
        "the standard deviation over seeds; differences are means over seeds of the difference to the row named, of "
        "the same seed."
    )
    parts = [
        "# CRKD's table",
        method,
        "![NDS of every arm, and differences to what it is compared with](study.png)",
        _order(rows),
    ]
    if findings:
        parts.append(f"What that comes from: [{findings}]({findings}).")
    for part, title in _PARTS.items():
        of_part = [arm for arm in arms if arm.part == part]
        if any(arm.name in rows for arm in of_part):
            parts.append(f"## {title}\n\n{_table(of_part, rows)}")
            if part == "correction":
                parts.append(_NO_ARMS)
    parts += ["## What ran", _work(arms, rows, simulator), "## Commands", _commands(rows, data)]
    return "\n\n".join(parts) + "\n"


def _ran(arms: Sequence[Arm], rows: Rows) -> str:
    scored = {arm.name: len(_scores(rows, arm.name)) for arm in arms}
    missing = [name for name, count in scored.items() if count == 0]
    words = f"{sum(scored.values())} runs of {len(scored) - len(missing)} of the {len(scored)} arms are scored"
    return f"{words}; not: {', '.join(missing)} (see `crkd_core/training/study.py`)." if missing else f"{words}."


def _from(rows: Rows) -> str:
    pretrained = any("--pretrained" in row.facts["command"] for by_seed in rows.values() for row in by_seed.values())
    return "" if pretrained else "Every run starts from scratch: no ImageNet weights."


def _order(rows: Rows) -> str:
    means = {name: statistics.fmean(values) for name in ORDER if (values := _scores(rows, name).values())}
    if len(means) < len(ORDER):
        return "The paper's order, teacher > CRKD > student >= baseline, cannot be judged: a row is missing."
    found = sorted(means, key=lambda name: -means[name])
    holds = "holds" if tuple(found) == ORDER else "does not hold"
    figures = " > ".join(f"{name} {means[name]:.3f}" for name in found)
    return f"The paper's order by NDS, teacher > CRKD > student >= baseline, {holds} here: {figures}."


def _table(arms: Sequence[Arm], rows: Rows) -> str:
    heads = ["arm", "what", "n", "mAP", "NDS", "mATE m", "mASE", "mAOE rad", "mAVE m/s", "mAAE"]
    heads += ["compared with", "mAP, difference", "NDS, difference"]
    lines = []
    for arm in arms:
        found = [row.metrics.official for row in rows.get(arm.name, {}).values() if row.metrics is not None]
        cells = [arm.name, arm.words, str(len(found))]
        if not found:
            lines.append(
                [*cells, "not scored" if arm.name in rows else "not run", *(len(heads) - len(cells) - 1) * [""]]
            )
            continue
        cells += [_spread([f.mAP for f in found]), _spread([f.NDS for f in found])]
        for name in ("mATE", "mASE", "mAOE", "mAVE", "mAAE"):
            known = [value for f in found if (value := getattr(f, name)) is not None]
            cells.append(f"{statistics.fmean(known):.3f}" if known else "-")
        lines.append([*cells, arm.reference, *(_difference(arm, rows, figure) for figure in ("mAP", "NDS"))])
    return markdown_table(heads, lines, words=2)


def _difference(arm: Arm, rows: Rows, figure: str) -> str:
    both = list(_differences(arm, rows, figure).values())
    return _spread(both, sign="+") if both else ""


def _differences(arm: Arm, rows: Rows, figure: str) -> dict[int, float]:
    """Seed -> a figure less that of the arm it is compared with, where both are scored."""
    own, other = _scores(rows, arm.name, figure), _scores(rows, arm.reference, figure)
    return {seed: value - other[seed] for seed, value in own.items() if seed in other}


def _scores(rows: Rows, arm: str, figure: str = "NDS") -> dict[int, float]:
    """Seed -> a figure of the runs that are scored."""
    found = rows.get(arm, {})
    return {seed: getattr(row.metrics.official, figure) for seed, row in found.items() if row.metrics is not None}


def _spread(values: Sequence[float], *, sign: str = "") -> str:
    mean = f"{statistics.fmean(values):{sign}.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _work(arms: Sequence[Arm], rows: Rows, simulator: str) -> str:
    heads = ["arm", "recipe", "seeds", "steps", "samples", "minutes"]
    lines = []
    for arm in arms:
        found = [row.facts for row in rows.get(arm.name, {}).values()]
        if found:
            seeds = ", ".join(str(facts["seed"]) for facts in found)
            minutes = ", ".join(f"{facts['minutes']:.1f}" for facts in found)
            lines.append(
                [arm.name, found[0]["recipe"], seeds, str(found[0]["steps"]), str(found[0]["samples"]), minutes]
            )
    everything = [row.facts for by_seed in rows.values() for row in by_seed.values()]
    keys = ("device", "precision", "torch", "commit", "synthscenes")
    facts = {key: sorted({str(row[key]) for row in everything if key in row}) for key in keys}
    words = "; ".join(f"{key} {', '.join(values)}" for key, values in facts.items() if values)
    teachers = " Arms that learn from a teacher do so from that of seed 0." if "teacher" in rows else ""
    scratch = ", ".join(f"`{arm.name}`" for arm in arms if arm.from_scratch and arm.name in rows)
    notes = (
        f"{words}. Steps, samples and minutes are of the arm itself, minutes of a resumed one since then. All arms but "
        f"{scratch} start from the student of their seed.{teachers}"
    )
    if simulator:
        notes += f" The simulator's configuration is `{simulator}` now. No arm read its test drives in training."
    return f"{markdown_table(heads, lines, words=2)}\n\n{notes}"


def _commands(rows: Rows, data: Sequence[str]) -> str:
    lines = [*data] + [row.facts["command"] for arm in ARMS for row in rows.get(arm.name, {}).values()]
    return "```\n" + "\n".join(lines) + "\n```"


def study_picture(arms: Sequence[Arm], rows: Rows, path: Path) -> None:
    """``study_figure`` as a PNG file of less than 150 kB."""
    study_figure(arms, rows).savefig(path, dpi=100, metadata={"Software": None})


def study_figure(arms: Sequence[Arm], rows: Rows) -> Figure:
    """NDS of every arm that is scored, and its differences to the arm it is compared with.

    The differences are those of equal seeds: students of different seeds differ by more than what is made of one.
    """
    scored = [arm for arm in reversed(arms) if _scores(rows, arm.name)]
    figure = Figure(figsize=(11, 1.7 + 0.34 * max(1, len(scored))))
    whole, apart = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    for place, arm in enumerate(scored):
        colour, own = _COLOURS[arm.part], _scores(rows, arm.name)
        for seed, value in own.items():
            whole.plot(value, place, _mark(seed), color=colour, alpha=0.8)
        whole.plot(statistics.fmean(own.values()), place, "|", color=colour, markersize=18, markeredgewidth=2)
        for name, fill, offset in (("NDS", colour, 0.15), ("mAP", "white", -0.15)):
            for seed, value in _differences(arm, rows, name).items():
                apart.plot(value, place + offset, _mark(seed), color=colour, markerfacecolor=fill)
    apart.axvline(0, color="#999999", linewidth=0.8, zorder=0)
    whole.set_yticks(range(len(scored)), [arm.name for arm in scored])
    whole.set_ylim(-0.6, max(1, len(scored)) - 0.4)
    whole.set_xlabel("NDS; line: mean")
    apart.set_xlabel("difference, same seed")
    compared = apart.secondary_yaxis("right")
    compared.set_yticks(range(len(scored)), [f"to {arm.reference}" if arm.reference else "" for arm in scored])
    compared.spines[:].set_visible(False)
    compared.tick_params(length=0)
    apart.tick_params(axis="y", length=0)
    for axes in (whole, apart):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    seeds = sorted({seed for arm in scored for seed in _scores(rows, arm.name)})
    marks = {f"seed {seed}": (_mark(seed), "grey") for seed in seeds} | {
        "filled: NDS": ("o", "grey"),
        "hollow: mAP": ("o", "white"),
    }
    for words, (mark, fill) in marks.items():
        apart.plot([], [], mark, color="grey", markerfacecolor=fill, label=words)
    figure.legend(loc="upper center", ncols=len(marks), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    return figure


def _mark(seed: int) -> str:
    """Of a seed, the same in every row."""
    return "os^Dv"[seed % 5]
