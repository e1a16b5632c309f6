"""What an evaluation yields: the official figures, and the means over the classes that have ground truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from crkd_core.cli import UserError

TP_ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
"""The five true-positive errors of the metric: m, 1 - IoU, rad, m/s, 1 - accuracy."""
MEAN_AP_WEIGHT = 5
"""NDS weighs mAP as much as the five true-positive scores together."""


class ClassMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One class. An error is None where the metric does not define it (velocity, attribute and heading of a cone, ...).

    As in the metric, errors are 1 where recall stays below 10 %, and are taken over matches within 2 m.
    """

    truths: int
    """Boxes of ground truth that count (in class range, with at least one point, outside bicycle racks)."""
    predictions: int
    """Predicted boxes that count (in class range, outside bicycle racks)."""
    ap: float
    """Mean over the matching distances."""
    ap_by_distance: dict[str, float]
    """Matching distance in m ("0.5", "1.0", "2.0", "4.0") -> average precision."""
    trans_err: float | None
    scale_err: float | None
    orient_err: float | None
    vel_err: float | None
    attr_err: float | None

    def error(self, name: str) -> float | None:
        """The true-positive error of that name, one of ``TP_ERRORS``."""
        value: float | None = getattr(self, name)
        return value


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The headline figures; an error is None where no class defines it."""

    mAP: float  # noqa: N815
    NDS: float
    mATE: float | None  # noqa: N815
    mASE: float | None  # noqa: N815
    mAOE: float | None  # noqa: N815
    mAVE: float | None  # noqa: N815
    mAAE: float | None  # noqa: N815

    @property
    def errors(self) -> tuple[float | None, ...]:
        """The five mean errors in the order of ``TP_ERRORS``."""
        return self.mATE, self.mASE, self.mAOE, self.mAVE, self.mAAE


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one evaluation; ``to_json`` and ``from_json`` keep every digit."""

    samples: int
    official: Summary
    """Means over all ten classes, as the benchmark has them: a class without ground truth has AP 0 and errors 1."""
    present: Summary | None
    """The same means over only the classes with ground truth in these samples; None when there is no ground truth."""
    present_classes: tuple[str, ...]
    classes: dict[str, ClassMetrics]
    hints: tuple[str, ...] = ()
    """Likely mistakes of convention, in words; see ``diagnosis``."""

    def to_json(self) -> bytes:
        """Indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, content: bytes | str) -> Metrics:
        """Read what ``to_json`` wrote.

        Raises:
            msgspec.MsgspecError: not JSON, or not an evaluation.
        """
        return msgspec.json.decode(content, type=cls)

    def save(self, path: Path) -> None:
        """Write ``to_json`` to a file."""
        path.write_bytes(self.to_json())


def read_metrics(path: Path) -> Metrics:
    """The evaluation in a metrics.json of training/train.py or training/evaluate.py, which holds more beside it.

    Raises:
        UserError: no such file, or no evaluation in it.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict)
        return msgspec.convert(content.get("metrics", content), Metrics)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise UserError(f"{path}: expected a metrics.json of training/evaluate.py or train.py: {error}") from None


def summary(classes: Iterable[ClassMetrics]) -> Summary:
    """Means over some classes by the metric's formulas; NDS weighs only errors that one of the classes defines.

    Raises:
        ValueError: no class.
    """
    chosen = list(classes)
    if not chosen:
        raise ValueError("summary: expected at least one class, got none")
    mean_ap = _mean(c.ap for c in chosen)
    assert mean_ap is not None
    errors = [_mean(e for c in chosen if (e := c.error(name)) is not None) for name in TP_ERRORS]
    scores = [max(0.0, 1.0 - error) for error in errors if error is not None]
    nds = (MEAN_AP_WEIGHT * mean_ap + sum(scores)) / (MEAN_AP_WEIGHT + len(scores))
    ate, ase, aoe, ave, aae = errors
    return Summary(mAP=mean_ap, NDS=nds, mATE=ate, mASE=ase, mAOE=aoe, mAVE=ave, mAAE=aae)


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN: an undefined figure is None."""
    return value if math.isfinite(value) else None


def present_summary(classes: Mapping[str, ClassMetrics]) -> tuple[Summary | None, tuple[str, ...]]:
    """The means over the classes that have ground truth, and their names."""
    names = tuple(name for name, figures in classes.items() if figures.truths)
    return (summary(classes[name] for name in names) if names else None), names


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return math.fsum(found) / len(found) if found else None
