"""The training loop: it learns, resumes exactly, and says what is wrong."""

from __future__ import annotations

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from micro import micro_frame, micro_recipe

from crkd_core.config import DistillationConfig
from crkd_core.data.dataset import TrainingSet
from crkd_core.models.detector import FusionDetector
from crkd_core.models.pretrained import PretrainedError
from crkd_core.training.callbacks import TrainingError
from crkd_core.training.detection_training import DetectionTraining
from crkd_core.training.loop import train
from crkd_core.training.options import TrainingOptions

FRAMES = [micro_frame(seed) for seed in range(5)]
# On a CPU a resumed run is the same to the last bit; on a GPU, kernels add in any order.
NOISE = {"rtol": 1e-5, "atol": 1e-6} if torch.cuda.is_available() else {"rtol": 0.0, "atol": 0.0}


def options(out: Path, **changes: object) -> TrainingOptions:
    return replace(TrainingOptions(out=out, workers=0, progress=False, save_every=3), **changes)  # type: ignore[arg-type]


def trained(out: Path, *, steps: int = 6, **how: object) -> FusionDetector:
    recipe = micro_recipe(steps=steps)
    return train(recipe, TrainingSet(FRAMES, recipe), options(out, **how))


def test_a_run_that_was_stopped_and_resumed_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    assert_parts_equal_the_whole(tmp_path, steps=6, stop_after=3, noise=NOISE)


def test_float16_leaves_out_steps_that_overflow_and_goes_on_with_the_scale_it_has_found(tmp_path: Path) -> None:
    """Also on a CPU, where Lightning by itself would take bfloat16."""
    noise = {"rtol": 1e-2, "atol": 1e-2} if torch.cuda.is_available() else NOISE
    assert_parts_equal_the_whole(tmp_path, steps=12, stop_after=3, noise=noise, precision="16-mixed")
    trained(tmp_path / "first", steps=12, stop_after=1, precision="16-mixed")
    runs = {name: torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("first", "whole", "parts")}
    scales = {name: run["MixedPrecision"]["scale"] for name, run in runs.items()}
    assert scales["first"] == 2.0**15  # half of what it begins with
    assert scales["parts"] == scales["whole"] < 2.0**15
    before, after = (runs[name]["current_model_state"]["model.fuser.merge.0.weight"] for name in ("first", "whole"))
    assert not torch.equal(before, after)


def assert_parts_equal_the_whole(
    folder: Path, *, steps: int, stop_after: int, noise: dict[str, float], precision: str = "32-true"
) -> None:
    whole = trained(folder / "whole", steps=steps, precision=precision)
    trained(folder / "parts", steps=steps, stop_after=stop_after, precision=precision)
    parts = trained(folder / "parts", steps=steps, resume=True, precision=precision)
    for (name, a), (_, b) in zip(whole.state_dict().items(), parts.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, **noise, msg=name)


def test_the_loss_falls_on_a_handful_of_frames(tmp_path: Path) -> None:
    recipe = micro_recipe(steps=60, learning_rate=3e-3)
    samples = TrainingSet(FRAMES[:2], recipe, augment=False)
    train(recipe, samples, options(tmp_path, log_every=1))
    losses = logged(tmp_path)
    assert losses[59] < 0.5 * losses[0]


def test_the_losses_of_some_steps_are_logged_as_those_of_these_steps(tmp_path: Path) -> None:
    recipe = micro_recipe(steps=6)
    for every in (1, 3):
        train(recipe, TrainingSet(FRAMES, recipe), options(tmp_path / str(every), log_every=every))
    each, some = logged(tmp_path / "1"), logged(tmp_path / "3")
    assert (list(each), list(some)) == ([0, 1, 2, 3, 4, 5], [2, 5])
    assert some == pytest.approx({step: each[step] for step in some}, rel=1e-5)


def logged(out: Path) -> dict[int, float]:
    """Step -> loss, of a run that was not interrupted."""
    rows = csv.DictReader((out / "log" / "version_0" / "metrics.csv").open())
    return {int(row["step"]): float(row["loss"]) for row in rows}


def test_a_loss_that_is_not_finite_names_step_loss_and_samples(tmp_path: Path) -> None:
    broken = copy.deepcopy(FRAMES[0])
    broken.boxes.sizes[:, 2] = 0  # ln 0
    recipe = micro_recipe()
    with pytest.raises(TrainingError, match=r"step 0: detection/box/task0.* not finite on samples micro-0"):
        train(recipe, TrainingSet([broken], recipe, augment=False), options(tmp_path))


@pytest.mark.parametrize("teaches", [True, False])
def test_only_a_teacher_that_is_asked_takes_room_on_the_device(tmp_path: Path, teaches: bool) -> None:
    moved: list[tuple[torch.device, torch.dtype]] = []
    distiller = SimpleNamespace(
        onto=lambda *where: moved.append(where), teaches=teaches, adapters=lambda: None, config=DistillationConfig()
    )
    module = DetectionTraining(micro_recipe(), options(tmp_path), distiller=distiller)  # type: ignore[arg-type]
    module.on_fit_start()
    assert moved == ([(torch.device("cpu"), torch.float32)] if teaches else [])


def test_an_empty_training_set_is_refused(tmp_path: Path) -> None:
    recipe = micro_recipe()
    with pytest.raises(TrainingError, match="no sample"):
        train(recipe, TrainingSet([], recipe), options(tmp_path))


def test_training_starts_from_pretrained_weights(tmp_path: Path) -> None:
    recipe = micro_recipe(steps=1, learning_rate=1e-12)
    source = FusionDetector(recipe).camera.backbone.state_dict()
    torch.save(source, tmp_path / "backbone.pth")
    model = train(recipe, TrainingSet(FRAMES, recipe), options(tmp_path, pretrained=tmp_path / "backbone.pth"))
    found = model.camera.backbone.state_dict()
    weights = [key for key in source if key.endswith("weight")]
    assert weights
    assert all(torch.allclose(found[key], source[key], atol=1e-6) for key in weights)


def test_pretrained_weights_that_do_not_fit_stop_the_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "backbone.pth")
    recipe = micro_recipe()
    with pytest.raises(PretrainedError, match="does not fit a ResNet: "):
        train(recipe, TrainingSet(FRAMES, recipe), options(tmp_path, pretrained=tmp_path / "backbone.pth"))


def test_evaluations_on_the_way_see_the_averaged_weights_and_leave_no_trace(tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def evaluate(model: FusionDetector, step: int) -> None:
        torch.rand(3)
        seen[step] = {name: value.clone() for name, value in model.state_dict().items()}

    recipe = micro_recipe(steps=5, ema_decay=0.5)
    plain = train(recipe, TrainingSet(FRAMES, recipe), options(tmp_path / "plain"))
    how = options(tmp_path / "evaluated", evaluate_every=2)
    model = train(recipe, TrainingSet(FRAMES, recipe), how, evaluate=evaluate)
    assert list(seen) == [2, 4]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=0, atol=0, msg=name)
    raw = torch.load(tmp_path / "evaluated" / "last.ckpt", weights_only=True)["current_model_state"]
    weight = next(name for name, _ in model.named_parameters())
    # The average changed last after step 1, so that it is the same at steps 2 and 4 and when training ends.
    torch.testing.assert_close(seen[2][weight], seen[4][weight], rtol=0, atol=0)
    torch.testing.assert_close(seen[4][weight], plain.state_dict()[weight], rtol=0, atol=0)
    assert (seen[4][weight] - raw[f"model.{weight}"]).abs().max() > 1e-4


def test_a_resume_state_holds_the_average_of_its_own_step(tmp_path: Path) -> None:
    """Step 11 changes the average; a run killed right after it must not lose that."""
    recipe = micro_recipe(steps=13, batch_size=1, ema_decay=0.5)
    samples = TrainingSet(FRAMES[:2], recipe, augment=False)
    (tmp_path / "killed").mkdir()

    def keep(_model: FusionDetector, step: int) -> None:
        if step == 12:
            shutil.copy(tmp_path / "whole" / "last.ckpt", tmp_path / "killed" / "last.ckpt")

    how = options(tmp_path / "whole", save_every=11, evaluate_every=1)
    whole = train(recipe, samples, how, evaluate=keep)
    resumed = train(recipe, samples, options(tmp_path / "killed", resume=True))
    for (name, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, **NOISE, msg=name)


@pytest.mark.timeout(120)
def test_loading_processes_begin_after_opencv_has_had_threads(tmp_path: Path) -> None:
    """A fork has none of the threads that OpenCV remembers; ending them in it hangs or crashes."""
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.resize(np.zeros((900, 1600, 3), np.uint8), (800, 450), interpolation=cv2.INTER_AREA)
        for attempt in range(3):
            recipe = micro_recipe(steps=1)
            (tmp_path / str(attempt)).mkdir()
            train(recipe, TrainingSet(FRAMES, recipe), options(tmp_path / str(attempt), workers=2))
    finally:
        cv2.setNumThreads(threads)
