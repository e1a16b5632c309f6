"""Checkpoints scored during and after training, through the detector that runs live; the best one is kept."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from crkd_core.config import Recipe
from crkd_core.data.frames import NuScenesFrames
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import read_sidecar, save_checkpoint
from crkd_core.runtime.detector import Detector
from crkd_core.training.detect import detect_samples
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import SampleTruth, load_devkit, truth_from_nuscenes
from crkd_core.training.metrics import Metrics
from crkd_core.training.processes import own_device, processes, wait_for_all
from crkd_core.training.submission import Results

logger = logging.getLogger(__name__)

BEST = "best"
"""Folder, in that of a run, of the best checkpoint by NDS."""
LATEST = "latest"
"""Folder of the checkpoint that was evaluated last on the way."""
LOG = "evaluations.csv"


class ScoredFrames:
    """Frames to detect on, with their ground truth, which is read when it is first needed.

    Attributes:
        frames: of one data set in nuScenes format.
    """

    def __init__(self, frames: NuScenesFrames) -> None:
        """See the attribute."""
        self.frames = frames

    @cached_property
    def truth(self) -> dict[str, SampleTruth]:
        """Ground truth by sample token.

        Raises:
            MissingExtraError: nuscenes-devkit is not installed.
        """
        index = self.frames.index
        return truth_from_nuscenes(load_devkit(index.root, index.version), [s.token for s in self.frames.samples])

    def detected(self, checkpoint: Path, *, progress: bool = False) -> Results:
        """What a checkpoint finds, in float32; the processes of a run share the frames, and all have the results."""
        return detect_samples(Detector(checkpoint, device=own_device()), self.frames, progress=progress)

    def metrics(self, results: Results) -> Metrics:
        """The official metric.

        Raises:
            MissingExtraError: nuscenes-devkit is not installed.
        """
        return evaluate(results, self.truth)


class BestCheckpoint:
    """Saves and scores a model at some steps of its training, and keeps the best by NDS in ``<out>/best``."""

    def __init__(
        self,
        out: Path,
        recipe: Recipe,
        scored: ScoredFrames,
        *,
        provenance: dict[str, Any],
        half: bool = False,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        """Set what is scored on what.

        Args:
            out: folder of the run.
            recipe: of the model.
            scored: what it is evaluated on.
            provenance: goes into the checkpoints, with the step.
            half: see ``save_checkpoint``.
            say: told of each evaluation.
        """
        self._out = out
        self._recipe = recipe
        self._scored = scored
        self._provenance = provenance
        self._half = half
        self._say = say

    def __call__(self, model: FusionDetector, step: int) -> None:
        """Score a model; every process of the run calls it at the same step, the first one scores and saves."""
        latest = self._out / LATEST
        if processes().first:
            self._save(latest, model, step, {})
        wait_for_all()
        results = self._scored.detected(latest)
        if processes().first:
            self.offer(model, step, self._scored.metrics(results))

    def offer(self, model: FusionDetector, step: int, metrics: Metrics) -> None:
        """Note the figures of a model, and keep it if it is the best so far."""
        figures = {"mAP": metrics.official.mAP, "NDS": metrics.official.NDS}
        best = read_sidecar(self._out / BEST).metrics["NDS"] if (self._out / BEST).exists() else -1.0
        self._note(step, figures)
        self._say(
            f"step {step}: mAP {figures['mAP']:.4f}, NDS {figures['NDS']:.4f}{', the best' * (figures['NDS'] > best)}"
        )
        if figures["NDS"] > best:
            self._save(self._out / BEST, model, step, figures)

    def _save(self, folder: Path, model: FusionDetector, step: int, metrics: dict[str, float]) -> None:
        provenance = {**self._provenance, "steps": step}
        save_checkpoint(folder, model, self._recipe, metrics=metrics, provenance=provenance, half=self._half)

    def _note(self, step: int, figures: dict[str, float]) -> None:
        """A row of the log, in place of those of this and later steps: a run that was killed comes here again."""
        path = self._out / LOG
        rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
        rows = [row for row in rows if int(row["step"]) < step]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *figures])
            writer.writeheader()
            writer.writerows([*rows, {"step": step, **figures}])
