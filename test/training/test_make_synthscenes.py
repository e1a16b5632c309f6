import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).parents[2] / "training" / "make_synthscenes.py"


_SMALL = ("--duration", "0.5", "--image-width", "64", "--jobs", "1")


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_SCRIPT), *arguments]
    variables = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=variables)


def _scenes(root: Path) -> list[dict[str, Any]]:
    return list(json.loads((root / "v1.0-mini" / "scene.json").read_text()))


def test_it_writes_the_drives_asked_for_and_says_where(tmp_path: Path):
    out = tmp_path / "set"
    done = _run("--out", str(out), "--seeds", "9000", *_SMALL)
    assert done.returncode == 0, done.stderr
    assert "scene-9000 (synth_val): " in done.stdout
    assert "1 scenes, 1 key frames (v1.0-mini, configuration " in done.stdout
    assert (out / "v1.0-mini" / "sample_annotation.json").is_file()


def test_conditions_and_rig_can_be_fixed(tmp_path: Path):
    rig = _SCRIPT.parents[1] / "config" / "rigs" / "shuttle.yaml"
    out = tmp_path / "set"
    done = _run("--out", str(out), "--light", "night", "--rain", "8", "--rig", str(rig), "--keyframes-only", *_SMALL)
    assert done.returncode == 0, done.stderr
    assert _scenes(out)[0]["description"].startswith("Night, rain 8 mm/h")
    assert sorted(p.name for p in (out / "samples").iterdir()) == [
        "CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "LIDAR_TOP", "RADAR_BACK", "RADAR_FRONT",
    ]  # fmt: skip


def test_each_process_of_a_launcher_writes_its_own_part(tmp_path: Path):
    out = tmp_path / "set"
    seeds = ("--out", str(out), "--seeds", "20:23", "--keyframes-only", *_SMALL)
    first = _run(*seeds, RANK="0", WORLD_SIZE="2")
    second = _run(*seeds, "--shard", "1/2")
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    names = [[s["name"] for s in _scenes(out / f"shard-{k}-of-2")] for k in (0, 1)]
    assert names == [["scene-0020", "scene-0022"], ["scene-0021"]]


def test_measuring_prints_speed():
    done = _run("--measure", "1", "--image-width", "64", "--seeds", "9000")
    assert done.returncode == 0, done.stderr
    assert "without LiDAR: " in done.stdout
    assert "with LiDAR: " in done.stdout
    assert "key frames/s/core" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "-1"], "duration: expected"),
        (["--seeds", "-5"], "seed: expected"),
        (["--seeds", "1", "1"], "scene names: expected 2 different ones"),
        (["--image-width", "10"], "--image-width: expected 64 to 4096 pixels, got 10"),
        (["--image-width", "100000"], "--image-width: expected 64 to 4096 pixels, got 100000"),
        (["--out", "."], "exists already"),
        (["--version", "../elsewhere"], "version: expected the name of a folder"),
        (["--duration", "long"], "argument --duration: expected a number"),
        (["--seeds", "1:x"], "--seeds: expected numbers or ranges"),
        (["--seeds", "4:4"], "--seeds: expected at least one"),
        (["--rain", "-1"], "--rain: expected 0 to 150, got -1"),
        (["--shard", "2/2"], "expected I/N with 0 <= I < N"),
        (["--rig", "none.yaml"], "none.yaml: cannot be read"),
        (["--measure", "3"], "name either --out DIR"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path, arguments: Any, message: str):
    done = _run("--out", str(tmp_path / "set"), "--jobs", "1", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
