"""A detector over annotated frames: nuScenes result entries, ready to be scored."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from crkd_core.data.dataset import FrameSource
from crkd_core.training.submission import ResultEntry, results_entry
from crkd_core.types import Detections, SensorFrame


def detect_samples(
    detector: Callable[[SensorFrame], Detections], frames: FrameSource, *, progress: bool = False
) -> dict[str, list[ResultEntry]]:
    """Detect on every frame.

    Args:
        detector: ``crkd_core.runtime.detector.Detector``, or anything that maps a frame to boxes in ``base_link``.
        frames: annotated frames; their tokens name the results, their annotations are not looked at.
        progress: show a progress bar.

    Returns:
        sample token -> result entries in the world frame.
    """
    results: dict[str, list[ResultEntry]] = {}
    for i in tqdm(range(len(frames)), desc="detect", disable=not progress):
        sample = frames[i]
        found = detector(sample.frame).transformed(sample.frame.T_world_from_base, "world")
        results[sample.token] = results_entry(found, sample.token)
    return results
