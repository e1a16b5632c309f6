"""The probes: that what they look at is what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from micro import micro_crkd, micro_teacher
from scripts import FOLDER, script

from crkd_core.cli import UserError
from crkd_core.config import load_recipe, recipe_to_dict
from crkd_core.data.dataset import TrainingSet, collate_training
from crkd_core.data.packed import PackedFrames, pack_simulated
from crkd_core.data.simulated import simulated_keys
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import save_checkpoint
from crkd_core.training.detection_training import DetectionTraining, summed
from crkd_core.training.options import TrainingOptions

ACTIVATION, AGE, PULLS = "probe_radar_activation.py", "probe_lidar_age.py", "probe_distillation.py"
GENERALISATION = "probe_generalisation.py"
WEIGHTS = FOLDER.parent / "weights" / "student_tiny"


def tables(text: str) -> list[list[dict[str, str]]]:
    """The rows of each table, cells by the names of their columns."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[dict(zip(head, row, strict=True)) for row in rows] for head, _, *rows in filter(None, found)]


def test_the_area_is_the_share_of_pairs_in_order():
    torch.manual_seed(0)
    answer, seen = torch.randn(50), torch.rand(50) < 0.3
    pairs = answer[seen][:, None] > answer[~seen][None]
    assert script(ACTIVATION).roc_area(answer, seen) == pytest.approx(float(pairs.float().mean()))


def test_the_released_loss_puts_the_activation_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    words = [WEIGHTS, "--balance", "released", "--drives", "2", "--steps", "20", "--every", "10"]
    monkeypatch.setattr(sys, "argv", [ACTIVATION, *map(str, words)])
    assert script(ACTIVATION).main() == 0
    [[first, _, last]] = tables(capsys.readouterr().out)
    assert (first["step"], last["step"]) == ("0", "20")
    assert float(last["cells with activation"]) < 0.6 * float(first["cells with activation"])
    assert float(last["mean at objects"]) < 0.3 * float(first["mean at objects"])


def test_a_detector_without_radars_has_nothing_to_look_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    recipe = load_recipe("camera_tiny")
    save_checkpoint(tmp_path / "model", FusionDetector(recipe), recipe)
    monkeypatch.setattr(sys, "argv", [ACTIVATION, str(tmp_path / "model")])
    with pytest.raises(UserError, match="expected a detector with radars; 'camera_tiny' has none"):
        script(ACTIVATION).main()


def test_ages_and_velocities_of_the_objects_belong_together():
    """Points moved on by their age times the velocity come closer to the newest ones than moved the other way."""
    pytest.importorskip("spconv")
    found = script(AGE).moving_objects(range(3, 4), jobs=1)
    assert len(found) > 5
    closer = []
    for one in found:
        assert np.hypot(*one.velocity) > 1.0
        assert 20 <= len(one.points) <= 600
        places, age = one.points[:, :2], one.points[:, 4:5]
        assert set(np.round(age[:, 0] / 0.15, 1)) <= {0.0, 1.0, 2.0, 3.0}
        newest, older = places[age[:, 0] == 0], age[:, 0] > 0
        way = age[older] * one.velocity
        closer.append(nearest(places[older] + way, newest) < nearest(places[older] - way, newest))
    assert np.mean(closer) > 0.7  # there are other things, too, in an object's surroundings


def nearest(points: np.ndarray, others: np.ndarray) -> float:
    """Mean distance from each point to the nearest of the others."""
    return float(np.linalg.norm(points[:, None] - others[None], axis=2).min(1).mean())


def test_an_object_is_turned_with_its_velocity():
    module, rng = script(AGE), np.random.default_rng(0)
    velocity = np.array([3.0, -1.0], np.float32)
    places = np.array([[10.0, 5.0]], np.float32) + np.array([[0.0], [1.0]], np.float32) * velocity
    points = np.hstack([places, np.zeros((2, 3), np.float32)])
    for _ in range(5):
        turned = module.turned(module.Moving(points, velocity), rng)
        np.testing.assert_allclose(turned.points[1, :2] - turned.points[0, :2], turned.velocity, atol=1e-5)
        assert np.hypot(*turned.velocity) == pytest.approx(np.hypot(*velocity))


def test_every_age_scale_gets_a_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("spconv")
    monkeypatch.setattr(sys, "argv", [AGE, "1", "30", "--drives", "1", "--steps", "2"])
    assert script(AGE).main() == 0
    said = capsys.readouterr().out
    [rows] = tables(said)
    assert [row["age_scale"] for row in rows] == ["1", "30"]
    assert "an answer of zero errs by" in said


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Words that name a student's recipe, its teacher, both untrained, and simulated frames for both."""
    keys = simulated_keys(range(2), frames_per_drive=2)
    pack_simulated(tmp_path / "frames", keys, image_width=128, radar_sweeps=6, lidar_sweeps=range(3), jobs=1)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "teacher", FusionDetector(micro_teacher()), micro_teacher())
    recipe = tmp_path / "crkd.yaml"
    recipe.write_text(yaml.safe_dump(recipe_to_dict(micro_crkd())))
    return [str(recipe), "--teacher", str(tmp_path / "teacher"), "--frames", str(tmp_path / "frames")]


def test_each_loss_pulls_where_it_reaches(
    pair: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("spconv")
    monkeypatch.setattr(sys, "argv", [PULLS, *pair, "--at", "0", "1", "--batches", "2", "--workers", "0"])
    assert script(PULLS).main() == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("step ")] == [
        f"step {step}: norm of the gradient (cosine with that of detection)" for step in (0, 1)
    ]
    for rows in tables(said):
        by_loss = {row["loss"]: row for row in rows}
        own, radar, relation = (by_loss[name] for name in ("detection", "distillation/radar", "distillation/relation"))
        assert all(own[part].endswith("(+1.00)") for part in ("camera", "radar", "fuser", "decoder", "head"))
        assert [radar[part] for part in ("camera", "fuser", "decoder", "head")] == ["0"] * 4
        assert float(radar["radar"].split()[0]) > 0
        assert (relation["decoder"], relation["head"]) == ("0", "0")
        parts = [row["value"] for name, row in by_loss.items() if name.startswith("detection/")]
        assert float(own["value"]) == pytest.approx(sum(map(float, parts)), abs=0.002)


def test_losses_on_seen_and_unseen_frames_are_those_of_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    torch.manual_seed(0)
    recipe = micro_crkd()
    model = FusionDetector(recipe).eval()
    save_checkpoint(tmp_path / "model", model, recipe)
    for name, seeds in (("seen", range(3)), ("unseen", range(9000, 9003))):
        packed_without_lidar(tmp_path / name, seeds)
    words = [tmp_path / "model", "--seen", tmp_path / "seen", "--unseen", tmp_path / "unseen", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", [GENERALISATION, *map(str, words)])
    assert script(GENERALISATION).main() == 0
    [[row]] = tables(capsys.readouterr().out)
    module = DetectionTraining(recipe, TrainingOptions(out=tmp_path)).eval()
    module.model.load_state_dict(model.state_dict())
    for name in ("seen", "unseen"):
        samples = TrainingSet(PackedFrames(tmp_path / name), recipe, augment=False)
        with torch.no_grad():
            two, one = (
                summed(module.losses(collate_training([samples[0, i] for i in part]))) for part in ([0, 1], [2])
            )
        for kind in ("heatmap", "box"):
            expected = (2 * two[f"detection/{kind}"] + one[f"detection/{kind}"]) / 3
            assert float(row[f"{kind}, {name}"]) == pytest.approx(expected, rel=1e-3)
    for kind in ("heatmap", "box"):
        gap = float(row[f"{kind}, unseen"]) - float(row[f"{kind}, seen"])
        assert float(row[f"{kind}, gap"]) == pytest.approx(gap, abs=2e-3)


def packed_without_lidar(folder: Path, seeds: range) -> None:
    keys = simulated_keys(seeds, frames_per_drive=1)
    pack_simulated(folder, keys, image_width=128, radar_sweeps=6, lidar_sweeps=range(0), jobs=1)


def test_what_losses_cannot_be_compared_on_is_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("spconv")
    for name, recipe in (("student", micro_crkd()), ("teacher", micro_teacher())):
        save_checkpoint(tmp_path / name, FusionDetector(recipe), recipe)
    packed_without_lidar(tmp_path / "seen", range(1))
    packed_without_lidar(tmp_path / "unseen", range(1, 2))

    def refused(*words: str) -> str:
        folders = [str(tmp_path / word) if not word.startswith("--") else word for word in words]
        monkeypatch.setattr(sys, "argv", [GENERALISATION, *folders])
        with pytest.raises(UserError) as raised:
            script(GENERALISATION).main()
        assert capsys.readouterr().out == ""
        return str(raised.value)

    assert "got 1 that are in both" in refused("student", "--seen", "seen", "--unseen", "seen")
    assert "lidar_sweeps: expected" in refused("student", "teacher", "--seen", "seen", "--unseen", "unseen")
    assert "nowhere" in refused("student", "nowhere", "--seen", "seen", "--unseen", "unseen")
    assert "no packed frames" in refused("student", "--seen", "seen", "--unseen", "nowhere")


@pytest.mark.parametrize(("probe", "words"), [(ACTIVATION, [str(WEIGHTS)]), (AGE, ["1"])])
def test_counts_below_one_are_refused(monkeypatch: pytest.MonkeyPatch, probe: str, words: list[str]):
    monkeypatch.setattr(sys, "argv", [probe, *words, "--drives", "0"])
    with pytest.raises(UserError, match="--drives: expected 1 or more, got 0"):
        script(probe).main()
