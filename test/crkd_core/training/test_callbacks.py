"""What happens between the steps of a training."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from micro import micro_frame, micro_recipe

from crkd_core.data.dataset import TrainingSet
from crkd_core.data.sampling import Shuffled
from crkd_core.models.detector import FusionDetector
from crkd_core.training.callbacks import ResumeState, StopOnSignal, TrainingError, decay_after, update_average
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions
from crkd_core.training.resume import steps_done

FRAMES = [micro_frame(seed) for seed in range(5)]
BAD = 2
"""Step in which something is not finite."""


def run(
    out: Path,
    *,
    frames: list[Any] = FRAMES,
    steps: int = 4,
    accumulate: int = 1,
    callbacks: tuple[Callback, ...] = (),
    evaluate: Callable[[FusionDetector, int], None] | None = None,
    **how: Any,
) -> FusionDetector:
    """Steps of batches of one sample; ``how`` changes the options."""
    recipe = micro_recipe(steps=steps, batch_size=1, accumulate=accumulate)
    options = TrainingOptions(out=out, **{"workers": 0, "progress": False, "save_every": 1, **how})
    return train(recipe, TrainingSet(frames, recipe, augment=False), options, evaluate=evaluate, callbacks=callbacks)


def broken() -> list[Any]:
    """Frames of which that of step ``BAD`` has a loss that is not finite."""
    frames = copy.deepcopy(FRAMES)
    frames[Shuffled(len(FRAMES), seed=0).indices(0)[BAD]].boxes.sizes[:, 2] = 0  # ln 0
    return frames


class At(Callback):
    """Does something when a batch begins, or when its gradient is there."""

    def __init__(
        self, batch: int, *, begin: Callable[[], None] | None = None, gradient: Callable[[Any], None] | None = None
    ) -> None:
        self._batch, self._begin, self._gradient = batch, begin, gradient
        self._now = -1

    def on_train_batch_start(self, _trainer: Any, _module: Any, _batch: Any, batch_index: int) -> None:
        self._now = batch_index
        if batch_index == self._batch and self._begin is not None:
            self._begin()

    def on_after_backward(self, _trainer: Any, module: lightning.LightningModule) -> None:
        if self._now == self._batch and self._gradient is not None:
            self._gradient(module)


def spoil(module: lightning.LightningModule) -> None:
    """A gradient that overflows where the loss does not."""
    next(p.grad for p in module.parameters() if p.grad is not None).fill_(torch.inf)


# ------------------------------------------------------------------------------------------------------- not finite


def test_a_loss_that_is_not_finite_right_before_a_save_is_not_saved_and_the_run_goes_on_from_before(tmp_path: Path):
    with pytest.raises(TrainingError, match=rf"step {BAD}: detection/box/task0.* not finite on samples micro-"):
        run(tmp_path, frames=broken())
    assert steps_done(tmp_path) == BAD
    run(tmp_path, resume=True)  # with the frame as it should be
    assert steps_done(tmp_path) == 4


def test_a_loss_that_is_not_finite_in_the_last_step_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"step {BAD}: detection/box/task0"):
        run(tmp_path, frames=broken(), steps=BAD + 1, save_every=100)
    assert not (tmp_path / "last.ckpt").exists()


def test_what_is_not_finite_is_not_evaluated(tmp_path: Path) -> None:
    seen: list[int] = []
    with pytest.raises(TrainingError, match=rf"step {BAD}: detection/box/task0"):
        run(tmp_path, frames=broken(), evaluate=lambda _model, step: seen.append(step), evaluate_every=1)
    assert seen == [1, 2]


def test_weights_that_are_not_finite_are_not_saved_though_all_losses_are(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=rf"after {BAD + 1} steps: \d+ of \d+ weights not finite"):
        run(tmp_path, callbacks=(At(BAD, gradient=spoil),))
    assert steps_done(tmp_path) == BAD


# ------------------------------------------------------------------------------------------------------ told to stop


def tell(*numbers: signal.Signals) -> Callable[[], None]:
    """Sends signals to this process."""

    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize(
    ("signals", "code"),
    [((signal.SIGTERM, signal.SIGTERM), 143), ((signal.SIGINT,), 130)],
    ids=["SIGTERM twice", "SIGINT"],
)
def test_a_run_that_is_told_to_stop_ends_its_step_saves_exits_with_the_signals_code_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, signals: tuple[signal.Signals, ...], code: int
) -> None:
    """The signals come in the first of the two batches of the third step."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "parts", accumulate=2, save_every=100, callbacks=(At(4, begin=tell(*signals)),))
    assert ended.value.code == code
    assert steps_done(tmp_path / "parts") == 3
    assert f"{signals[0].name}: stopped after 3 steps; --resume goes on from there" in caplog.messages
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    parts, whole = run(tmp_path / "parts", accumulate=2, resume=True), run(tmp_path / "whole", accumulate=2)
    if not torch.cuda.is_available():  # where kernels add in any order
        for (name, a), b in zip(parts.state_dict().items(), whole.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_an_evaluation_does_not_keep_a_run_from_stopping_and_is_made_up_for(tmp_path: Path) -> None:
    """Told to stop in the second step, after which and after the fourth there is one."""
    seen: dict[int, torch.Tensor] = {}

    def evaluate(model: FusionDetector, step: int) -> None:
        assert step not in seen
        seen[step] = next(model.parameters()).clone()

    def evaluated(out: Path, **how: Any) -> list[int]:
        seen.clear()
        run(out, evaluate=evaluate, evaluate_every=2, **how)
        return list(seen)

    assert evaluated(tmp_path / "whole") == [2, 4]
    weights = seen[2]
    with pytest.raises(SystemExit):
        evaluated(tmp_path / "parts", callbacks=(At(1, begin=tell(signal.SIGTERM)),))
    assert not seen
    assert evaluated(tmp_path / "parts", resume=True) == [2, 4]
    torch.testing.assert_close(seen[2], weights, rtol=1e-5, atol=1e-6)


def test_who_presses_control_c_twice_does_not_wait_for_the_step(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, accumulate=2, callbacks=(At(4, begin=tell(signal.SIGINT, signal.SIGINT)),))
    assert ended.value.code == 130
    assert steps_done(tmp_path) == 2


def test_a_run_that_is_told_to_stop_before_its_first_step_does_not_train() -> None:
    with pytest.raises(SystemExit) as ended:
        StopOnSignal().on_train_start(SimpleNamespace(received_sigterm=True), SimpleNamespace())  # type: ignore[arg-type]
    assert ended.value.code == 143


def test_a_short_run_is_not_averaged_with_what_it_began_with() -> None:
    """70 updates, one every ten steps, with the decay of ten steps of 0.998; a constant decay would leave a quarter."""
    decay = 0.998**10
    average, counter = torch.ones(3), torch.tensor(0)
    for update in range(1, 71):
        update_average([average], [torch.zeros(3)], torch.tensor(update), decay=decay)
        update_average([counter], [torch.tensor(update)], torch.tensor(update), decay=decay)
    assert decay**70 > 0.24
    assert average.max() < 1e-6
    assert counter == 70


def test_the_decay_of_an_average_grows_to_the_one_asked_for() -> None:
    decays = [decay_after(updates, 0.98) for updates in (0, 10, 100, 440, 441, 10_000)]
    assert decays == [0.1, 0.55, pytest.approx(101 / 110), pytest.approx(0.98), 0.98, 0.98]
    assert decay_after(1, 0.05) == 0.05


@pytest.mark.parametrize("first", [True, False])
def test_no_process_goes_on_before_the_resume_state_is_in_its_place(tmp_path: Path, first: bool):
    """Only the first process moves it there, and all read it afterwards."""
    there: list[bool] = []
    trainer: Any = SimpleNamespace(
        save_checkpoint=lambda path, **_: path.write_text("state"),
        is_global_zero=first,
        strategy=SimpleNamespace(barrier=lambda _name: there.append((tmp_path / "last.ckpt").exists())),
    )
    ResumeState(tmp_path / "last.ckpt", every=1).on_train_end(trainer, None)  # type: ignore[arg-type]
    assert there == [first]
