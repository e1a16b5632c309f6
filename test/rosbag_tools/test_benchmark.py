"""The measuring commands measure what they say, and clean up."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_drive import CAMERAS, write_checkpoint, write_drive

from crkd_core.cli import UserError
from rosbag_tools import benchmark, benchmark_detect


def test_conversion_is_measured_beside_a_plain_copy(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second from one look at the clock to the next: a copy may take no measurable time.
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=count().__next__))
    arguments = ["--dataroot", str(tiny), "--scenes", "scene-tiny", "--out", str(tmp_path / "out"), "--repeat", "1"]
    assert benchmark.benchmark(arguments) == 0
    shown = capsys.readouterr().out
    assert "1 scenes, 24 files, 0 MB; 1 runs" in shown
    rows = {line[:20].strip(): line[20:].split() for line in shown.splitlines()[3:-1]}
    assert list(rows) == ["plain copy (cp)", "mcap", "mcap, zstd", "sqlite3", "mcap, with map"]
    assert rows["plain copy (cp)"][3] == "100%"
    assert all(float(wall) == 1 for wall, *_ in rows.values())
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="exists already"):
        benchmark.benchmark([*arguments[:-3], str(tiny)])


def test_detection_is_measured_beside_the_bare_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag, checkpoint = write_drive(tmp_path / "drive", seconds=0.5), write_checkpoint(tmp_path / "micro")
    params = tmp_path / "rig.yaml"
    params.write_text(f"detector: {{ros__parameters: {{cameras: [{', '.join(CAMERAS)}], radars: [radar_front]}}}}\n")
    arguments = [str(bag), "--params", str(params), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert benchmark_detect.benchmark([*arguments, "--repeat", "1", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "micro: 6 frames, bare detector" in shown
    assert not (tmp_path / "out").exists()
