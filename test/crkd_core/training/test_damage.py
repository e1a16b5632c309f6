"""Runs on samples that cannot be read, and runs whose loading processes die."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from micro import micro_frame, micro_recipe

from crkd_core.config import Recipe
from crkd_core.data.dataset import TrainingSet
from crkd_core.data.errors import DataError
from crkd_core.training.callbacks import TrainingError
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions
from crkd_core.types import AnnotatedFrame

FRAMES = [micro_frame(seed) for seed in range(5)]


class Damaged(Sequence[AnnotatedFrame]):
    """Five frames of which one cannot be read, or kills the process that reads it."""

    def __init__(self, *, deadly: bool = False) -> None:
        self._deadly = deadly

    def __len__(self) -> int:
        return len(FRAMES)

    def __getitem__(self, index: int) -> AnnotatedFrame:  # type: ignore[override]
        if index == 3 and self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 3:
            raise DataError("radar.pcd: truncated")
        return FRAMES[index]


def recipe_that_skips(max_bad: float) -> Recipe:
    recipe = micro_recipe(steps=5)
    samples = msgspec.structs.replace(recipe.samples, on_error="skip", max_bad=max_bad)
    return msgspec.structs.replace(recipe, samples=samples)


def options(out: Path, workers: int = 0) -> TrainingOptions:
    return TrainingOptions(out=out, workers=workers, progress=False, log_every=1)


def test_a_damaged_file_ends_the_run_by_default(tmp_path: Path) -> None:
    recipe = micro_recipe(steps=5)
    with pytest.raises(DataError, match=r"sample 3: radar\.pcd: truncated"):
        train(recipe, TrainingSet(Damaged(), recipe), options(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_samples_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int) -> None:
    recipe = recipe_that_skips(max_bad=0.2)
    with caplog.at_level(logging.WARNING, logger="crkd_core"):
        train(recipe, TrainingSet(Damaged(), recipe), options(tmp_path, workers))
    told = [record.getMessage() for record in caplog.records if record.name.startswith("crkd_core")]
    assert told == [
        "skipped: sample 3: radar.pcd: truncated",
        "1 of 5 samples found damaged; others took their places",
    ]
    rows = (tmp_path / "log" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("damaged_samples")
    assert float([row.split(",")[column] for row in rows if row][-1]) == 1


def test_too_many_damaged_samples_end_the_run(tmp_path: Path) -> None:
    recipe = recipe_that_skips(max_bad=0.19)
    with pytest.raises(DataError, match=r"1 of 5 samples found damaged, more than samples.max_bad \(0.19\) allows"):
        train(recipe, TrainingSet(Damaged(), recipe), options(tmp_path))


def test_a_process_that_dies_is_told_with_what_it_was_about_to_read(tmp_path: Path) -> None:
    recipe = micro_recipe(steps=5)
    with pytest.raises(TrainingError, match=r"a data loading process died .*samples number .*3.*--resume goes on"):
        train(recipe, TrainingSet(Damaged(deadly=True), recipe), options(tmp_path, workers=1))
