"""The detector: frames in, boxes in base_link out; what it cannot do is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro import micro_frame, micro_recipe

from crkd_core.config import RecipeError, recipe_from_dict, recipe_to_dict
from crkd_core.data.encode import encode
from crkd_core.data.errors import DataError
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from crkd_core.runtime.detector import (
    Detector,
    DetectorStatus,
    DeviceError,
    check_kernels,
    say_what_is_missing,
    with_threshold,
)
from crkd_core.types import Boxes3D, Detections, SensorFrame


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    recipe = micro_recipe()
    model = FusionDetector(recipe)
    for parameter in model.head.parameters():  # scores around one half: some boxes for every frame
        torch.nn.init.normal_(parameter, std=0.1)
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "micro", model, recipe)


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> Detector:
    return Detector(checkpoint, device="cpu")


@pytest.fixture
def frame() -> SensorFrame:
    return micro_frame(3).frame


def test_boxes_are_the_decoded_ones_in_base_link_at_the_reference_stamp(
    checkpoint: Path, detector: Detector, frame: SensorFrame
) -> None:
    found = detector(frame)
    assert len(found) > 0
    assert (found.frame_id, found.stamp) == ("base_link", frame.stamp)
    from crkd_core.runtime.checkpoint import load_checkpoint

    model, _ = load_checkpoint(checkpoint)
    with torch.no_grad():
        decoded = model.decode(model(encode(frame, detector.recipe)))[0]
    expected = Boxes3D.from_mmdet3d(decoded.boxes.numpy()).transformed(frame.T_base_from_bev)
    order, reference = np.argsort(-found.scores), np.argsort(-decoded.scores.numpy())
    np.testing.assert_allclose(found.scores[order], decoded.scores.numpy()[reference], atol=1e-4)
    np.testing.assert_allclose(found.boxes.centers[order][:5], expected.centers[reference][:5], atol=1e-2)


def test_equal_frames_give_equal_detections(detector: Detector, frame: SensorFrame) -> None:
    first, second = detector(frame), detector(frame)
    np.testing.assert_array_equal(first.boxes.centers, second.boxes.centers)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_a_frame_without_radars_or_with_one_camera_is_still_answered(detector: Detector, frame: SensorFrame) -> None:
    front = {"CAM_FRONT": frame.cameras["CAM_FRONT"]}
    for reduced in (replace(frame, radars={}), replace(frame, cameras=front), replace(frame, cameras={})):
        assert detector(reduced).stamp == frame.stamp


def test_every_stage_is_timed(detector: Detector, frame: SensorFrame) -> None:
    detector(frame)
    stages = detector.last_timings
    assert set(stages) == {"preprocess", "network", "output", "total"}
    assert stages["total"] == pytest.approx(stages["preprocess"] + stages["network"] + stages["output"])


def test_another_threshold_than_the_recipes_drops_more_or_less(
    checkpoint: Path, detector: Detector, frame: SensorFrame, tmp_path: Path
) -> None:
    scores = np.sort(detector(frame).scores)
    low, middle = detector.recipe.model.head.score_threshold, float(scores[len(scores) // 2 - 1 :][:2].mean())
    found = Detector(checkpoint, device="cpu", score_threshold=middle)(frame)
    np.testing.assert_array_equal(np.sort(found.scores), scores[scores > middle])
    model, _ = load_checkpoint(checkpoint)
    strict = save_checkpoint(tmp_path / "strict", model, with_threshold(detector.recipe, middle))
    found = Detector(strict, device="cpu", score_threshold=low)(frame)
    np.testing.assert_array_equal(np.sort(found.scores), scores)
    with pytest.raises(RecipeError, match="score_threshold"):
        Detector(checkpoint, device="cpu", score_threshold=1.5)


def test_a_corrupt_image_names_its_camera(detector: Detector, frame: SensorFrame) -> None:
    cameras = {**frame.cameras, "CAM_FRONT": replace(frame.cameras["CAM_FRONT"], image=b"\xff\xd8 no picture")}
    with pytest.raises(DataError, match="CAM_FRONT"):
        detector(replace(frame, cameras=cameras))


@pytest.mark.parametrize(
    ("device", "precision"), [("tpu", "fp32"), ("cpu", "fp16"), ("cpu", "int3"), ("cuda:77", "fp32")]
)
def test_a_device_or_precision_that_is_not_to_be_had_is_refused(checkpoint: Path, device: str, precision: str) -> None:
    with pytest.raises(DeviceError):
        Detector(checkpoint, device=device, precision=precision)  # type: ignore[arg-type]


def test_the_checkpoint_of_another_recipe_is_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="expected 'student_r50', got 'micro'"):
        Detector(checkpoint, recipe="student_r50")


def test_a_cpu_runs_eagerly_and_nothing_is_missing(checkpoint: Path) -> None:
    found = Detector(checkpoint, device="cpu", strict=True).status
    assert found == DetectorStatus(device="cpu", precision="fp32", backend="eager", missing=())


def test_a_frame_may_be_submitted_before_the_last_one_is_collected(detector: Detector, frame: SensorFrame) -> None:
    other = micro_frame(4).frame
    first, second = detector.submit(frame), detector.submit(other)
    for submitted, given in ((first, frame), (second, other)):
        found, expected = detector.collect(submitted), detector(given)
        assert found.stamp == given.stamp
        np.testing.assert_array_equal(found.boxes.centers, expected.boxes.centers)


def test_what_is_missing_is_said_once_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    status = DetectorStatus("cuda:0", "fp16", "eager", missing=("no graphs here",))
    say_what_is_missing(status, strict=False)
    assert caplog.text.count("no graphs here") == 1
    with pytest.raises(DeviceError, match=r"cuda:0: .*no graphs here"):
        say_what_is_missing(status, strict=True)
    say_what_is_missing(replace(status, backend="graphs", missing=()), strict=True)


def test_a_gpu_needs_triton_and_a_cpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DeviceError, match="pip install triton"):
        check_kernels(torch.device("cuda:0"))
    check_kernels(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_graphs_give_the_boxes_of_the_cpu(checkpoint: Path, detector: Detector, precision: Any) -> None:
    graphs = Detector(checkpoint, device="cuda", precision=precision, strict=True)
    assert graphs.status.backend == "graphs"
    for seed in (3, 4, 3):
        frame = micro_frame(seed).frame
        front = {"CAM_FRONT": frame.cameras["CAM_FRONT"]}
        for given in (frame, replace(frame, cameras=front), replace(frame, radars={})):
            found, again, expected = graphs(given), graphs(given), detector(given)
            np.testing.assert_array_equal(found.boxes.centers, again.boxes.centers)
            np.testing.assert_array_equal(found.scores, again.scores)
            strong = expected.scores > np.sort(expected.scores)[-20]
            assert matched(expected.filtered(strong), found, metres=0.01 if precision == "fp32" else 0.2) > 0.9


@pytest.mark.gpu
def test_a_frame_that_needs_more_room_has_the_graphs_captured_anew(checkpoint: Path, detector: Detector) -> None:
    graphs = Detector(checkpoint, device="cuda", strict=True)
    frame = micro_frame(3).frame
    ((name, sweeps),) = frame.radars.items()
    crowded = replace(frame, radars={name: [replace(sweeps[0], points=np.tile(sweeps[0].points, 300))]})
    found, expected = graphs(crowded), detector(crowded)
    strong = expected.scores > np.sort(expected.scores)[-20]
    assert matched(expected.filtered(strong), found, metres=0.01) > 0.9


def matched(expected: Detections, found: Detections, *, metres: float) -> float:
    """The share of boxes that have one of the same class so near."""
    offset = np.linalg.norm(expected.boxes.centers[:, None] - found.boxes.centers[None], axis=2)
    near = (offset <= metres) & (expected.labels[:, None] == found.labels[None])
    return float(near.any(1).mean())


@pytest.mark.gpu
def test_frames_that_overlap_on_the_gpu_do_not_disturb_each_other(checkpoint: Path) -> None:
    graphs = Detector(checkpoint, device="cuda", strict=True)
    frames = [micro_frame(seed).frame for seed in range(6)]
    name = next(iter(frames[3].radars))  # in the middle, one for which the graphs are captured anew
    sweeps = frames[3].radars[name]
    frames[3] = replace(frames[3], radars={name: [replace(sweeps[0], points=np.tile(sweeps[0].points, 300))]})
    expected = [graphs(frame) for frame in frames]
    graphs = Detector(checkpoint, device="cuda", strict=True)
    found, under_way = [], graphs.submit(frames[0])
    for frame in frames[1:]:
        following = graphs.submit(frame)
        found.append(graphs.collect(under_way))
        under_way = following
    found.append(graphs.collect(under_way))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.boxes.centers, other.boxes.centers)
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.gpu
@pytest.mark.parametrize("without", ["camera", "radar"])
def test_a_recipe_without_a_branch_runs_as_graphs(tmp_path: Path, without: str) -> None:
    values = recipe_to_dict(micro_recipe())
    values["model"] |= {without: None, "fuser": {"type": "conv", "channels": 16}}
    recipe = recipe_from_dict(values, source="test")
    torch.manual_seed(1)
    model = FusionDetector(recipe)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_checkpoint(tmp_path / "weights", model, recipe)
    frame = micro_frame(3).frame
    expected = Detector(tmp_path / "weights", device="cpu")(frame)
    found = Detector(tmp_path / "weights", device="cuda", strict=True)(frame)
    # Without cameras, all cells without a radar return score the same: which of them count is arbitrary.
    _, which, times = np.unique(expected.scores, return_inverse=True, return_counts=True)
    single = times[which] == 1
    assert single.sum() > 20
    assert matched(expected.filtered(single), found, metres=0.01) > 0.8
