"""Evaluations as text tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from crkd_core.training.metrics import TP_ERRORS, ClassMetrics, Metrics, Summary

_ERROR_HEADS = ("ATE m", "ASE", "AOE rad", "AVE m/s", "AAE")


def metrics_table(metrics: Metrics, *, ceiling: Metrics | None = None) -> str:
    """A table for terminals: one line a class, then the two kinds of means, then hints.

    Args:
        metrics: an evaluation.
        ceiling: the evaluation of perfect network outputs on the same samples; its AP is printed beside.
    """
    distances = list(next(iter(metrics.classes.values())).ap_by_distance)
    heads = ["class", "truths", "boxes", "AP", *(f"@{d} m" for d in distances), *_ERROR_HEADS]
    rows = [_class_row(name, figures) for name, figures in metrics.classes.items()]
    if ceiling is not None:
        heads.insert(4, "ceiling")
        for row, name in zip(rows, metrics.classes, strict=True):
            row.insert(4, _number(ceiling.classes[name].ap if metrics.classes[name].truths else None))
    lines = [_table(heads, rows), ""]
    lines += [_means_table(metrics, ceiling)]
    lines += [f"hint: {hint}" for hint in metrics.hints]
    return "\n".join(lines)


def _means_table(metrics: Metrics, ceiling: Metrics | None) -> str:
    heads = ["means over", "mAP", "NDS", "mATE m", "mASE", "mAOE rad", "mAVE m/s", "mAAE"]
    rows = [_summary_row("all ten classes (official)", metrics.official)]
    number = len(metrics.present_classes)
    if metrics.present is not None:
        rows.append(_summary_row(f"the {number} with ground truth", metrics.present))
    if ceiling is not None and ceiling.present is not None:
        rows.append(_summary_row(f"ceiling of the {number}", ceiling.present))
    return _table(heads, rows)


def comparison_table(ours: Metrics, other: Metrics) -> str:
    """Two evaluations side by side, and ours less the other: means, then AP and velocity errors by class.

    Of errors (mATE and so on) a negative difference is the better one.
    """
    names = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
    pairs = {name: (getattr(ours.official, name), getattr(other.official, name)) for name in names}
    for name, figures in ours.classes.items():
        if figures.truths or other.classes[name].truths:
            pairs[f"AP {name}"] = (figures.ap, other.classes[name].ap)
    for name, figures in ours.classes.items():
        errors = figures.vel_err, other.classes[name].vel_err
        if errors != (None, None):
            pairs[f"AVE {name} m/s"] = errors
    rows = [
        [name, _number(a), _number(b), "-" if a is None or b is None else f"{a - b:+.3f}"]
        for name, (a, b) in pairs.items()
    ]
    lines = [_table(["figure", "ours", "other", "difference"], rows)]
    counts = {"samples": (ours.samples, other.samples), "boxes": (_truths(ours), _truths(other))}
    lines += [f"not the same ground truth: {a} and {b} {key}" for key, (a, b) in counts.items() if a != b]
    return "\n".join(lines)


def _truths(metrics: Metrics) -> int:
    return sum(figures.truths for figures in metrics.classes.values())


def groups_table(groups: Mapping[str, Metrics]) -> str:
    """One line a group, with the means over the classes that it has ground truth of."""
    heads = ["group", "samples", "classes", "truths", "mAP", "NDS", "mATE m", "mASE", "mAOE rad", "mAVE m/s", "mAAE"]
    return _table(heads, [_group_row(name, metrics) for name, metrics in groups.items()])


def _group_row(name: str, metrics: Metrics) -> list[str]:
    counts = [str(metrics.samples), str(len(metrics.present_classes)), str(_truths(metrics))]
    means = _summary_row(name, metrics.present)[1:] if metrics.present is not None else ["-"] * 7
    return [name, *counts, *means]


def latency_table(stages: Mapping[str, tuple[float, float, float]]) -> str:
    """Stage -> (median, 95th percentile, maximum), ms."""
    rows = [[name, *(f"{value:.1f}" for value in values)] for name, values in stages.items()]
    return _table(["latency", "median ms", "p95 ms", "max ms"], rows)


def _class_row(name: str, figures: ClassMetrics) -> list[str]:
    seen = figures.truths > 0
    return [
        name,
        str(figures.truths),
        str(figures.predictions),
        *(_number(ap if seen else None) for ap in (figures.ap, *figures.ap_by_distance.values())),
        *(_number(figures.error(error) if seen else None) for error in TP_ERRORS),
    ]


def _summary_row(name: str, figures: Summary) -> list[str]:
    return [name, *(_number(value) for value in (figures.mAP, figures.NDS, *figures.errors))]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]

    def line(cells: list[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(heads), rule, *(line(row) for row in rows)])


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A Markdown table whose first ``words`` columns are aligned left."""
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rule, *rows])
