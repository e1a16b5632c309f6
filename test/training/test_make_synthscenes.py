import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).parents[2] / "training" / "make_synthscenes.py"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_writes_the_drives_asked_for_and_says_where(tmp_path: Path):
    out = tmp_path / "set"
    done = _run("--out", str(out), "--seeds", "9000", "--duration", "0.5", "--image-width", "64", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "scene-9000 (v1.0-mini, split 'synth_val')" in done.stdout
    assert (out / "v1.0-mini" / "sample_annotation.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "-1"], "duration: expected"),
        (["--seeds", "-5"], "seed: expected"),
        (["--seeds", "1", "1"], "scene names: expected 2 different ones"),
        (["--image-width", "10"], "--image-width: expected at least 64"),
        (["--out", "."], "exists already"),
        (["--version", "../elsewhere"], "version: expected the name of a folder"),
        (["--duration", "long"], "argument --duration: expected a number"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path, arguments: Any, message: str):
    done = _run("--out", str(tmp_path / "set"), "--jobs", "1", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
