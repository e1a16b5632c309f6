"""Runs that go on: with the samples that would have followed, and only as the run that they are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import micro_frame, micro_recipe
from ranks import read_by

from crkd_core.config import load_recipe
from crkd_core.data.dataset import TrainingSet
from crkd_core.training import loop
from crkd_core.training.callbacks import TrainingError
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions
from crkd_core.training.resume import differences, entries, steps_done, steps_to_go_on_from

FRAMES = [micro_frame(seed) for seed in range(5)]
STEPS = 6


def options(out: Path, **changes: Any) -> TrainingOptions:
    return TrainingOptions(out=out, **{"workers": 0, "progress": False, "save_every": 1, "log_every": 1, **changes})


def divided(batch_size: int, accumulate: int) -> dict[str, Any]:
    """A step of that many batches, each of so many samples."""
    return {"steps": STEPS, "batch_size": batch_size, "accumulate": accumulate}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """What a run of steps of four samples reads when nothing stops it."""
    read, steps = read_by(options(tmp_path_factory.mktemp("whole")), **divided(4, 1))
    assert (len(read), steps) == (4 * STEPS, [1, 2, 3, 4, 5, 6])
    return read


@pytest.mark.parametrize(
    ("before", "stop", "now", "in_order"),
    [((1, 4), 2, (4, 1), True), ((4, 1), 5, (1, 4), False), ((4, 1), 1, (2, 2), True), ((2, 2), 3, (4, 1), False)],
)
def test_steps_divided_into_other_batches_go_on_with_the_samples_that_follow(
    tmp_path: Path, whole: list[list[int]], before: tuple[int, int], stop: int, now: tuple[int, int], in_order: bool
) -> None:
    """After a stop in order as after a death in mid-step, whose last state was saved between two steps."""
    end: dict[str, Any] = {"stop_after": stop} if in_order else {}
    read_by(options(tmp_path, **end), die_after=None if in_order else 4 * stop + 1, **divided(*before))
    assert steps_done(tmp_path) == stop
    read, steps = read_by(options(tmp_path, resume=True), **divided(*now))
    assert read == whole[4 * stop :]
    assert steps == [stop + batch // now[1] for batch in range(1, now[1] * (STEPS - stop) + 1)]
    assert logged_steps(tmp_path / "log" / "version_1") == list(range(stop, STEPS))
    assert steps_done(tmp_path) == STEPS


def logged_steps(part: Path) -> list[int]:
    return [int(row["step"]) for row in csv.DictReader((part / "metrics.csv").open())]


def test_a_death_soon_after_a_start_goes_on_with_the_samples_that_follow(
    tmp_path: Path, whole: list[list[int]]
) -> None:
    """No state is of mid-step, not even where the run has gone on from a step that is to be saved."""
    read_by(options(tmp_path, stop_after=2), **divided(1, 4))
    read_by(options(tmp_path, resume=True, save_every=2), die_after=2, **divided(1, 4))
    read, _ = read_by(options(tmp_path, resume=True), **divided(1, 4))
    assert read == whole[8:]


def test_a_run_whose_time_is_up_in_mid_step_goes_on_with_that_step(tmp_path: Path, whole: list[list[int]]) -> None:
    read, steps = read_by(options(tmp_path, max_minutes=1e-6), **divided(1, 4))
    assert (read, steps) == (whole[:1], [0])
    read, steps = read_by(options(tmp_path, resume=True), **divided(1, 4))
    assert read == whole
    assert logged_steps(tmp_path / "log" / "version_1") == list(range(STEPS))


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"last\.ckpt not found; start without --resume"):
        started(tmp_path / "none", resume=True)


def started(out: Path, **how: Any) -> None:
    """A run of three steps of two samples, as ``how`` changes its options, or its recipe."""
    mine = {name: how.pop(name) for name in ("seed", "resume") if name in how}
    recipe = micro_recipe(**{"steps": 3, **how})
    train(recipe, TrainingSet(FRAMES, recipe), options(out, **mine))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a resume state."""
    out = tmp_path_factory.mktemp("stopped")
    started(out)
    return out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1}, r"2 samples a step before, now 1 \(train\.batch_size x .* keep their product"),
        ({"learning_rate": 0.5}, r"of a run with other values: train\.learning_rate was 0\.001, is 0\.5; of a recipe"),
        ({"weight_decay": 0.3, "steps": 4}, r"train\.steps was 3, is 4; train\.weight_decay was 0\.\d+, is 0\.3; of"),
        ({"batch_size": 1, "accumulate": 2, "ema_decay": 0.5}, r"values: train\.ema_decay was 0\.999, is 0\.5; of"),
        ({"seed": 1}, r"of a run with other values: --seed was 0, is 1; of"),
    ],
)
def test_another_run_does_not_go_on(stopped: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        started(stopped, resume=True, **changes)


@pytest.mark.parametrize("entry", ["samples_per_step", "seed", "recipe"])
def test_a_resume_state_that_does_not_say_of_which_run_it_is_is_refused(
    stopped: Path, tmp_path: Path, entry: str
) -> None:
    state = torch.load(stopped / "last.ckpt", weights_only=True)
    del state[entry]
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(TrainingError, match=rf"last\.ckpt has no entry '{entry}'.* start anew in another"):
        started(tmp_path, resume=True)


def test_of_many_changes_five_are_named(stopped: Path) -> None:
    now = entries(load_recipe("student_r50"), options(stopped)) | {"samples_per_step": 2}
    with pytest.raises(TrainingError, match=r"values: name was 'micro', is 'student_r50'; .* and \d+ more; of") as told:
        steps_to_go_on_from(stopped, now)
    assert str(told.value).count(" was ") == 5


def test_processes_that_would_not_go_on_together_are_refused(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the folder of the run has a resume state, on another machine it has none."""
    monkeypatch.setattr(loop, "gathered", lambda own: own | {1: 0})
    with pytest.raises(TrainingError, match=r"at step 3 here.* begin at steps 0, 3; all machines must share .* --out"):
        started(stopped, resume=True)


def test_values_that_differ_are_found_however_deep() -> None:
    before = {"a": 1, "b": {"c": [1], "d": {"e": None}}, "old": 2}
    now = {"a": 1, "b": {"c": [2], "d": {"e": {"f": 3}}}, "new": None}
    assert differences(before, now) == {"b.c": ([1], [2]), "b.d.e": (None, {"f": 3}), "old": (2, None)}
    assert differences(now, now) == {}
