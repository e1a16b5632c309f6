"""An evaluation as one HTML file that needs nothing else: figures, per-class bars, histograms of errors, pictures."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from crkd_core.drawing.style import CLASS_COLORS, Image
from crkd_core.training.curves import ClassCurves
from crkd_core.training.metrics import TP_ERRORS, Metrics, Summary

ERROR_HEADS = ("ATE m", "ASE", "AOE rad", "AVE m/s", "AAE")
JPEG_QUALITY = 82
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1280px; margin: 24px auto;
  padding: 0 20px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 8px; } .dim { color: #666; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } th { font-weight: 600; color: #444; }
td.bar { width: 220px; text-align: left; } .bar span { display: inline-block; height: 12px; vertical-align: middle; }
.cards { display: flex; gap: 28px; flex-wrap: wrap; margin: 18px 0; } .card b { display: block; font-size: 30px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 20px; }
figure { margin: 0 0 22px; } figcaption { color: #444; margin-bottom: 4px; } img { width: 100%; border-radius: 4px; }
svg text { font: 11px system-ui, sans-serif; fill: #555; } li { margin: 3px 0; }
"""


@dataclass(frozen=True)
class Histogram:
    """Values to be counted in equal steps; those beyond the end are counted in the last one.

    Attributes:
        title: what it is, with its unit.
        values: (N,).
        end: of the last step.
        steps: their number.
    """

    title: str
    values: NDArray[np.float64]
    end: float
    steps: int = 20


_HISTOGRAMS = {
    "distance": ("distance of the centres, m", 2.0),
    "scale": ("scale error, 1 - IoU", 1.0),
    "heading": ("heading error, rad", 3.15),
    "velocity": ("velocity error, m/s", 5.0),
}


def error_histograms(errors: Mapping[str, Sequence[float]]) -> list[Histogram]:
    """Histograms of ``diagnosis.match_errors``."""
    return [Histogram(title, np.array(errors.get(name, ())), end) for name, (title, end) in _HISTOGRAMS.items()]


def report_html(
    title: str,
    facts: Sequence[str],
    metrics: Metrics,
    *,
    groups: Mapping[str, Metrics],
    latency_ms: Mapping[str, tuple[float, float, float]],
    histograms: Sequence[Histogram],
    pictures: Iterable[tuple[str, Image]],
    curves: Mapping[str, ClassCurves] | None = None,
) -> str:
    """The page.

    Args:
        title: what was evaluated.
        facts: sentences below it.
        metrics: of all key frames.
        groups: name -> of a part of them.
        latency_ms: stage -> median, 95th percentile and maximum.
        histograms: of errors.
        pictures: caption and RGB picture.
        curves: of precision over recall, by class.
    """
    parts = [f"<h1>{escape(title)}</h1>", *(f'<div class="dim">{escape(fact)}</div>' for fact in facts)]
    parts.append(_cards(metrics))
    parts += [f"<li>{escape(hint)}</li>" for hint in metrics.hints]
    parts += ["<h2>Classes</h2>", _classes(metrics)]
    parts.append('<p class="dim">Errors are means over matches within 2 m; 1 where recall stays below 10 %.</p>')
    if curves:
        shown_curves = [_curves(name, curve) for name, curve in curves.items() if metrics.classes[name].truths]
        parts += ["<h2>Precision over recall</h2>", '<div class="plots">', *shown_curves, "</div>"]
    if groups:
        parts += ["<h2>Groups</h2>", _groups(groups)]
    filled = [histogram for histogram in histograms if len(histogram.values)]
    if filled:
        parts += ["<h2>Errors of matched boxes</h2>", '<div class="plots">', *map(_histogram, filled), "</div>"]
    if latency_ms:
        parts += ["<h2>Latency</h2>", _latency(latency_ms)]
    shown = [_picture(caption, picture) for caption, picture in pictures]
    if shown:
        parts += ["<h2>Key frames</h2>", *shown]
    body = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html>\n<html><head>{head}</head><body>\n{body}\n</body></html>\n"


def _cards(metrics: Metrics) -> str:
    chosen = [("all ten classes (official)", metrics.official)]
    if metrics.present is not None and len(metrics.present_classes) < len(metrics.classes):
        chosen.insert(0, (f"the {len(metrics.present_classes)} classes with ground truth", metrics.present))
    cards = []
    for words, figures in chosen:
        for name, value in (("mAP", figures.mAP), ("NDS", figures.NDS)):
            cards.append(f'<div class="card"><b>{value:.3f}</b>{name}<div class="dim">{escape(words)}</div></div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _classes(metrics: Metrics) -> str:
    distances = list(next(iter(metrics.classes.values())).ap_by_distance)
    heads = ["class", "truths", "boxes", "AP", "", *(f"@{distance} m" for distance in distances), *ERROR_HEADS]
    rows = []
    for name, figures in metrics.classes.items():
        seen = figures.truths > 0
        aps = [_number(ap if seen else None) for ap in (figures.ap, *figures.ap_by_distance.values())]
        errors = [_number(figures.error(error) if seen else None) for error in TP_ERRORS]
        color = "rgb({}, {}, {})".format(*CLASS_COLORS[name])
        width = 220 * figures.ap if seen else 0
        bar = f'<span style="width: {width:.0f}px; background: {color}"></span>'
        rows.append([escape(name), str(figures.truths), str(figures.predictions), aps[0], bar, *aps[1:], *errors])
    rows.append(_means("mean, official", metrics.official, len(distances)))
    if metrics.present is not None and len(metrics.present_classes) < len(metrics.classes):
        rows.append(_means("mean, with truth", metrics.present, len(distances)))
    return _table(heads, rows, bar=4)


def _means(name: str, figures: Summary, distances: int) -> list[str]:
    return [name, "", "", _number(figures.mAP), "", *[""] * distances, *map(_number, figures.errors)]


def _groups(groups: Mapping[str, Metrics]) -> str:
    rows = []
    for name, metrics in groups.items():
        figures = metrics.present or metrics.official
        truths = sum(c.truths for c in metrics.classes.values())
        values = [_number(value) for value in (figures.mAP, figures.NDS, *figures.errors)]
        rows.append([escape(name), str(metrics.samples), str(truths), *values])
    return _table(["group", "key frames", "truths", "mAP", "NDS", *ERROR_HEADS], rows)


def _latency(stages: Mapping[str, tuple[float, float, float]]) -> str:
    rows = [[escape(name), *(f"{value:.1f}" for value in values)] for name, values in stages.items()]
    return _table(["stage", "median ms", "p95 ms", "max ms"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, bar: int | None = None) -> str:
    def cell(i: int, content: str) -> str:
        return f'<td class="bar">{content}</td>' if i == bar else f"<td>{content}</td>"

    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(cell(i, c) for i, c in enumerate(row))}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _histogram(histogram: Histogram) -> str:
    values = np.minimum(histogram.values, histogram.end * (1 - 1e-9))
    counts, _ = np.histogram(values, bins=histogram.steps, range=(0.0, histogram.end))
    width, height, most = 280 / histogram.steps, 110, max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{height - height * n / most:.1f}" width="{width - 1:.1f}" '
        f'height="{height * n / most:.1f}" fill="#4878b0"><title>{n}</title></rect>'
        for i, n in enumerate(counts.tolist())
    )
    median = float(np.median(histogram.values))
    at = 280 * min(median / histogram.end, 1.0)
    marks = "".join(
        f'<text x="{x}" y="126" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in ((0, "start", "0"), (280, "end", f"{histogram.end:g} and more"))
    )
    line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}" stroke="#c03030" stroke-dasharray="3 3"/>'
    caption = f"{escape(histogram.title)}: {len(histogram.values)} matches, median {median:.2f}"
    svg = f'<svg viewBox="0 0 280 130" width="100%">{bars}{line}{marks}</svg>'
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"


def _curves(name: str, curves: ClassCurves) -> str:
    """One line a matching distance, from strict (light) to loose (dark)."""
    lines = []
    for i, (distance, precision) in enumerate(curves.precision.items()):
        points = " ".join(f"{2.8 * k:.1f},{110 - 110 * p:.1f}" for k, p in enumerate(precision))
        opacity = 0.35 + 0.65 * i / max(1, len(curves.precision) - 1)
        color = "rgb({}, {}, {})".format(*CLASS_COLORS[name])
        style = f'fill="none" stroke="{color}" stroke-width="2" stroke-opacity="{opacity:.2f}"'
        lines.append(f'<polyline points="{points}" {style}><title>within {distance} m</title></polyline>')
    frame = '<path d="M0,0 V110 H280" fill="none" stroke="#bbb"/>'
    marks = "".join(
        f'<text x="{x}" y="126" text-anchor="{anchor}">{text}</text>'
        for x, anchor, text in ((0, "start", "recall 0"), (280, "end", "1"))
    )
    svg = f'<svg viewBox="0 0 280 130" width="100%">{frame}{"".join(lines)}{marks}</svg>'
    first, *_, last = curves.precision
    words = f"{escape(name)}, within {first} m (light) to {last} m (dark)"
    return f"<figure><figcaption>{words}</figcaption>{svg}</figure>"


def _picture(caption: str, picture: Image) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg(picture)).decode()}"
    return f'<figure><figcaption>{escape(caption)}</figcaption><img alt="" src="{source}"></figure>'


def jpeg(picture: Image, *, quality: int = JPEG_QUALITY) -> bytes:
    """An RGB picture as JPEG."""
    done, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "cv2 encodes every RGB picture"
    return content.tobytes()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
