"""Precision over recall, as the metric interpolates it, and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ClassCurves:
    """The curves of one class.

    Attributes:
        precision: matching distance in m ("0.5", ...) -> precision at recall 0, 0.01, ... as far as it is reached.
    """

    precision: Mapping[str, tuple[float, ...]]


def curves_picture(curves: Mapping[str, ClassCurves], path: Path, *, title: str) -> None:
    """Draw a panel for each class into a PNG file.

    Args:
        curves: class -> its curves; those of classes without ground truth are better left out.
        path: file to write.
        title: above all.
    """
    import matplotlib as mpl  # comes with nuscenes-devkit, which curves come from
    from matplotlib.figure import Figure

    rows = -(-max(1, len(curves)) // 5)
    figure = Figure(figsize=(13, 0.6 + 2.5 * rows))
    axes = list(figure.subplots(rows, 5, sharex=True, sharey=True, squeeze=False).flat)
    colours = mpl.colormaps["viridis"]
    for axis, (name, own) in zip(axes, curves.items(), strict=False):
        for i, (distance, precision) in enumerate(own.precision.items()):
            recall = [k / 100 for k in range(len(precision))]
            axis.plot(recall, precision, color=colours(0.85 - 0.28 * i), label=f"within {distance} m")
        axis.set_title(name, fontsize=10)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    if curves:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    figure.supylabel("precision", fontsize=10)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=90, metadata={"Software": None})
