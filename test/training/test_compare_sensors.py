"""The comparison of sensors, from the runs' folders to the page and the picture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import pytest
from micro import micro_recipe
from scripts import script

from crkd_core.cli import UserError
from crkd_core.data.synthscenes import DriveKey, SynthConfig
from crkd_core.data.synthscenes.writer import write_nuscenes
from crkd_core.models.detector import FusionDetector
from crkd_core.runtime.checkpoint import save_checkpoint
from crkd_core.training.ground_truth import load_devkit, tokens_of_split, truth_from_nuscenes
from crkd_core.training.submission import results_entry, write_submission

pytest.importorskip("nuscenes")
VERSION = "v1.0-mini"


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated drives of one key frame each."""
    root = tmp_path_factory.mktemp("data") / "drives"
    config = msgspec.structs.replace(SynthConfig(), image_width=96, supersampling=1, lidar_columns=90)
    write_nuscenes(root, [DriveKey(seed, config, duration_s=0.5) for seed in (9000, 9001)], progress=False)
    return root


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, dataroot: Path) -> Path:
    """Folders of a run that found everything, of one that found cars only, and of one on another sample."""
    folder = tmp_path_factory.mktemp("runs")
    devkit = load_devkit(dataroot, VERSION)
    truth = truth_from_nuscenes(devkit, tokens_of_split(devkit, "synth_val"))
    whole = {token: results_entry(sample.detections(), token) for token, sample in truth.items()}
    cars = {token: [e for e in found if e["detection_name"] == "car"] for token, found in whole.items()}
    other = {"other": whole[next(iter(whole))]}
    model = FusionDetector(micro_recipe())
    for name, results, radar in (("whole", whole, True), ("cars", cars, False), ("other", other, True)):
        flags = {"use_camera": True, "use_radar": radar, "use_lidar": False}
        write_submission(folder / name / "results.json", results, tokens=list(results), **flags)
        provenance = {"command": f"train {name}", "seed": 7, "synthscenes": "abc"}
        save_checkpoint(folder / name / "model", model, micro_recipe(), provenance=provenance)
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, dataroot: Path) -> Callable[..., int]:
    """Runs the script's ``main`` with a command line."""
    compare = script("compare_sensors.py")

    def run(*args: str) -> int:
        line = ["compare_sensors.py", *args, "--dataroot", str(dataroot), "--version", VERSION, "--no-progress"]
        monkeypatch.setattr(sys, "argv", line)
        code: int = compare.main()
        return code

    return run


def cells(page: str, first: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_page_holds_every_run_by_group_and_class(call: Callable[..., int], runs: Path, tmp_path: Path):
    assert call(f"A={runs / 'whole'}", f"B={runs / 'cars'}", "--out", str(tmp_path)) == 0
    page = (tmp_path / "sensors.md").read_text()
    assert cells(page, "A")[1:3] == ["`micro`", "camera + radar"]
    assert cells(page, "B")[2] == "camera"
    assert cells(page, "car")[2:] == ["1.000", "1.000"]
    assert cells(page, "pedestrian")[2:] == ["1.000", "0.000"]
    assert cells(page, "all")[1] == "2"
    for group in ("all", "0-20 m"):
        (map_a, nds_a), (map_b, nds_b) = (map(float, cell.split(" / ")) for cell in cells(page, group)[3:])
        assert map_a == 1.0
        assert map_b < map_a
        assert nds_b < nds_a
    objects = [int(cells(page, group)[2]) for group in ("all", "0-20 m", "20-35 m", "35-50 m")]
    assert objects[0] == sum(objects[1:])
    assert "- A: `train whole` (seed 7, synthscenes abc)" in page
    picture = cv2.imread(str(tmp_path / "sensors.png"))
    assert picture is not None
    assert (tmp_path / "sensors.png").stat().st_size < 150_000


def test_runs_that_cannot_be_compared_are_refused(call: Callable[..., int], runs: Path, tmp_path: Path):
    out = ["--out", str(tmp_path / "page")]
    with pytest.raises(UserError, match=r"B: its results are of other samples than those of A"):
        call(f"A={runs / 'whole'}", f"B={runs / 'other'}", *out)
    with pytest.raises(UserError, match=r"runs/whole: expected NAME=RUN"):
        call("runs/whole", *out)
    with pytest.raises(UserError, match=r"results.json: no such result file"):
        call(f"A={tmp_path}", *out)
    assert not (tmp_path / "page").exists()
