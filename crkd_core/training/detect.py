"""A detector over annotated frames: nuScenes result entries, ready to be scored."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

from crkd_core.data.dataset import FrameSource
from crkd_core.training.processes import gathered, processes
from crkd_core.training.submission import ResultEntry, results_entry
from crkd_core.types import Detections, SensorFrame


def detect_samples(
    detector: Callable[[SensorFrame], Detections], frames: FrameSource, *, progress: bool = False
) -> dict[str, list[ResultEntry]]:
    """Detect on every frame; the processes of a distributed run share them.

    Args:
        detector: ``crkd_core.runtime.detector.Detector``, or anything that maps a frame to boxes in ``base_link``.
        frames: annotated frames; their tokens name the results, their annotations are not looked at.
        progress: show a progress bar.

    Returns:
        sample token -> result entries in the world frame, in the order of the frames; in every process the same.
    """
    group = processes()
    found: dict[int, tuple[str, list[ResultEntry]]] = {}
    shared = range(group.rank, len(frames), group.world_size)
    for i in tqdm(shared, desc="detect", disable=not (progress and group.first)):
        sample = frames[i]
        detections = detector(sample.frame).transformed(sample.frame.T_world_from_base, "world")
        found[i] = sample.token, results_entry(detections, sample.token)
    everything = gathered(found)
    return dict(everything[i] for i in range(len(frames)))
