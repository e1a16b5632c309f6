import subprocess
import sys
from pathlib import Path

import cv2
import pytest

_SCRIPT = Path(__file__).parents[2] / "training" / "synthscenes_sheet.py"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(_SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_sheet_shows_seven_conditions_from_three_cameras(tmp_path: Path):
    out = tmp_path / "sheet.jpg"
    done = _run("--out", str(out), "--width", "64")
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(out)).shape == (7 * 36, 3 * 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--width", "3"], "--width of 64 to 4096 and"), (["--out", "no/such.jpg"], "cannot be written")],
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path, arguments: list[str], message: str):
    done = _run("--out", str(tmp_path / "sheet.jpg"), "--width", "64", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
