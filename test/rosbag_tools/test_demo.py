from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from crkd_core.config import Recipe, load_recipe, recipe_from_dict, recipe_to_dict
from crkd_core.data.nuscenes import load_index
from crkd_core.data.synthscenes import SynthConfig
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import save_checkpoint
from crkd_ros import topics
from rosbag_tools import demo as module
from rosbag_tools.bags import open_bag
from rosbag_tools.demo import DemoError, Source, chosen_scene, detect_live, input_bag, simulated_drive
from rosbag_tools.recorded import detections_in

SMALL = SynthConfig(image_width=160, supersampling=1, lidar_columns=90)


def micro_recipe() -> Recipe:
    """student_tiny's architecture at a size that answers in a few tens of milliseconds."""
    values = recipe_to_dict(load_recipe("student_tiny"))
    values["name"] = "micro"
    values["image"] |= {"size": [64, 160], "resized_width": 160, "train_resized_width": [150, 170]}
    values["bev"]["cell"] = 2.7
    values["model"]["camera"] |= {"backbone_width": 8, "neck_channels": 8, "channels": 8}
    values["model"]["radar"]["channels"] = [8, 8, 8, 8]
    values["model"]["fuser"]["channels"] = 8
    values["model"]["decoder"] |= {"channels": [8, 8, 8], "blocks": [1, 1, 1], "out_channels": 8}
    values["model"]["head"] |= {"channels": 8, "score_threshold": 0.2}
    return recipe_from_dict(values, source="test")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    recipe = micro_recipe()
    return save_checkpoint(tmp_path / "checkpoint", FusionDetector(recipe), recipe)


def test_drive_is_simulated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = simulated_drive(tmp_path, seed=5, seconds=2, config=SMALL)
    table = tmp_path / "synthscenes" / "v1.0-mini" / "scene.json"
    written = table.stat().st_mtime_ns
    assert simulated_drive(tmp_path, seed=5, seconds=2, config=SMALL) == first
    assert table.stat().st_mtime_ns == written
    assert "from the last time" in capsys.readouterr().out
    assert [scene.name for scene in load_index(first.dataroot, first.version).scenes] == [first.scene]
    second = simulated_drive(tmp_path, seed=6, seconds=2, config=SMALL)
    assert second.scene != first.scene
    assert table.stat().st_mtime_ns != written


def test_somebody_elses_folder_is_not_replaced_by_a_drive(tmp_path: Path) -> None:
    (tmp_path / "synthscenes").mkdir()
    (tmp_path / "synthscenes" / "thesis.tex").touch()
    with pytest.raises(DemoError, match="is not a simulated drive"):
        simulated_drive(tmp_path, seed=5, seconds=2, config=SMALL)
    assert (tmp_path / "synthscenes" / "thesis.tex").exists()


def test_bag_is_converted_again_only_when_the_data_changed(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source(tiny, "v1.0-mini", "scene-tiny")
    bag = input_bag(tmp_path, source)
    assert "from the last time" not in capsys.readouterr().out
    assert input_bag(tmp_path, source) == bag
    assert "from the last time" in capsys.readouterr().out
    next(tiny.glob("sweeps/RADAR_FRONT/*")).unlink()
    input_bag(tmp_path, source)
    with open_bag(bag) as opened:
        assert opened.topics["/radar_front/points"].count == 5


def test_without_a_name_the_most_complete_scene_is_taken(tiny: Path) -> None:
    assert chosen_scene(load_index(tiny, "v1.0-mini")) == "scene-tiny"
    for path in tiny.glob("samples/CAM_FRONT/*"):
        path.unlink()
    with pytest.raises(DemoError, match="no key frame has all its files"):
        chosen_scene(load_index(tiny, "v1.0-mini"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "{tmp}/nothing"], "{tmp}/nothing"),
        (["--checkpoint", "{tmp}/checkpoint", "--recipe", "student_r50"], "expected recipe 'student_r50', got 'micro'"),
        (["--scene", "scene-0916"], "--dataroot, which is missing"),
        (["--seconds", "0.5"], "expected at least 2, got 0.5"),
        (["--checkpoint", "{tmp}/checkpoint", "--dataroot", "/nowhere"], "data root /nowhere: no such folder"),
    ],
)
def test_user_mistakes_are_one_line_and_code_2(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    arguments = ["--out", f"{tmp_path}/out", *(word.format(tmp=checkpoint.parent) for word in words)]
    monkeypatch.setattr("sys.argv", ["demo", *arguments])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message.format(tmp=checkpoint.parent) in error
    assert error.count("\n") == 1


@pytest.mark.ros
def test_readiness_is_announced_as_expected() -> None:
    from rosbag_tools.record_bag import READY

    assert READY == module.RECORDER_READY


@pytest.mark.ros
def test_every_trigger_image_of_a_replay_is_answered(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source = simulated_drive(tmp_path, seed=5, seconds=2, config=SMALL)
    bag = input_bag(tmp_path, source)
    args = argparse.Namespace(out=tmp_path, checkpoint=checkpoint, recipe="micro", device="cpu", real_time=False)
    detect_live(source, bag, tmp_path / "detections.mcap", args)
    with open_bag(bag) as opened:
        triggers = [message.stamp for message in opened.messages(["/cam_front/image_raw/compressed"])]
        key_frames = [message.stamp for message in opened.messages([topics.GROUND_TRUTH])]
    with open_bag(tmp_path / "detections.mcap") as opened:
        found = detections_in(opened)
        assert opened.topics["/detections/labels"].latched
    assert len(found.stamps) == len(triggers)
    assert set(key_frames) <= set(found.stamps)  # the camera fires 15 ms before the instant a frame refers to
    assert found.with_velocities == len(triggers)
    assert {detections.frame_id for detections in found.detections} == {"base_link"}


@pytest.mark.ros
def test_a_failing_detector_ends_the_demo_with_its_reason(
    checkpoint: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    source = Source(tiny, "v1.0-mini", "scene-tiny")
    bag = input_bag(tmp_path, source)
    args = argparse.Namespace(out=tmp_path, checkpoint=checkpoint, recipe="student_r50", device="cpu", real_time=False)
    with pytest.raises(module.UserError, match=r"(?s)detector stopped with exit code 2; .*student_r50"):
        detect_live(source, bag, tmp_path / "detections.mcap", args)
    assert not (tmp_path / "detections.mcap").exists()
