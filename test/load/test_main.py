"""The whole load test, as short as it can be: it measures; what it measures is not judged here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("rclpy")

from load.parts import ASSEMBLER, CONVERSION, MESSAGES, PUBLISH
from load.result import Result

pytestmark = pytest.mark.ros
TEST = Path(__file__).resolve().parents[1]


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(TEST), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "load", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=150, check=False
    )


def test_frames_are_answered_and_every_part_is_measured(tmp_path: Path):
    done = load("--seconds", "8", "--compare", "0", "--out", str(tmp_path))
    assert done.returncode in (0, 1), done.stderr
    result = msgspec.json.decode((tmp_path / "result.json").read_bytes(), type=Result)
    assert 40 <= result.answers.expected <= 48
    assert result.answers.lost < 24
    assert result.answers.overhead is not None
    assert result.answers.overhead.p50 > 0
    for part in (ASSEMBLER, CONVERSION, MESSAGES, PUBLISH):
        assert result.work.parts[part] > 0.01, part
    assert result.work.calls[MESSAGES] > 0.5
    assert 100 < result.image_kilobytes < 160
    assert "last message to answer: p50" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "3"], "error: --seconds: expected 8 or more, got 3"),
        (["--soak", "--seconds", "100"], "error: --seconds: expected 150 or more, got 100"),
        (["--compare", "1"], "error: --compare: expected 8 or more, got 1"),
    ],
)
def test_a_run_that_is_too_short_is_refused(arguments: list[str], complaint: str):
    done = load(*arguments)
    assert (done.returncode, done.stderr.strip()) == (2, complaint)
