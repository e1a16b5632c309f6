"""Arms of a study scored after they have ended, on this machine or after another one has trained them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from crkd_core.cli import UserError
from crkd_core.config import Recipe
from crkd_core.runtime.checkpoint import read_sidecar
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import load_devkit, truth_from_nuscenes
from crkd_core.training.nuscenes_data import nuscenes_frames
from crkd_core.training.scoring import ScoredFrames
from crkd_core.training.submission import Results, read_submission, write_results

RESULTS, METRICS = "results.json", "metrics.json"


def unscored(out: Path) -> list[Path]:
    """Folders of the arms that have ended and have no metrics."""
    return [path.parent for path in sorted(out.glob("*/arm.json")) if not path.with_name(METRICS).exists()]


def score_arms(
    folders: Sequence[Path], root: Path, version: str, *, split: str | None, say: Callable[[str], None]
) -> list[str]:
    """Write the metrics of arms, and first what they detect where they have no results.

    Args:
        folders: of the arms, each with a checkpoint ``model`` or with results.
        root: data set to score on.
        version: its version folder.
        split: of it; None: all of it. Arms with results are scored on the samples that these hold.
        say: told of each arm.

    Returns:
        Names of the arms that could not be scored; ``say`` was told why.

    Raises:
        MissingExtraError: nuscenes-devkit is not installed.
    """
    if not folders:
        return []
    devkit, failed = load_devkit(root, version), []
    for folder in folders:
        try:
            results = _results(folder, root, version, split)
            metrics = evaluate(results, truth_from_nuscenes(devkit, list(results)))
        except UserError as error:
            failed.append(folder.name)
            say(f"{folder.name}: not scored: {error}")
            continue
        metrics.save(folder / METRICS)
        say(f"{folder.name}: mAP {metrics.official.mAP:.4f}, NDS {metrics.official.NDS:.4f}")
    return failed


def _results(folder: Path, root: Path, version: str, split: str | None) -> Results:
    """What an arm has left, or what its checkpoint detects now."""
    if (folder / RESULTS).exists():
        return read_submission(folder / RESULTS)[1]
    recipe: Recipe = read_sidecar(folder / "model").recipe
    results = ScoredFrames(nuscenes_frames(root, version, recipe, split=split)).detected(
        folder / "model", progress=True
    )
    write_results(folder / RESULTS, results, recipe)
    return results
