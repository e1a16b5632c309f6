from __future__ import annotations

from pathlib import Path

import pytest

from rosbag_tools import nuscenes_to_rosbag
from rosbag_tools.bags import BagError
from rosbag_tools.nuscenes_to_rosbag import convert


def test_command_line(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--dataroot", str(tiny), "--scene", "scene-tiny", "--out", str(tmp_path / "bag")]
    assert convert([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "bag").exists()
    assert "2 annotated key frames" in capsys.readouterr().out
    assert convert(arguments) == 0
    assert "key frames: 2 of 2" in capsys.readouterr().out
    with pytest.raises(BagError, match="exists already"):
        convert(arguments)
    assert convert([*arguments, "--overwrite", "--keyframes-only"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--dataroot": "/nowhere"}, "data root /nowhere: no such folder"),
        ({"--dataroot": "/dev/null"}, "data root /dev/null: not a folder"),
        ({"--version": "v9"}, "no version 'v9'; found v1.0-mini"),
        ({"--scene": "scene-9999"}, "no scene 'scene-9999'; expected one of scene-tiny"),
        ({"--out": "{tmp}"}, "exists already"),
    ],
)
def test_user_mistakes_are_one_line_and_code_2(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    arguments = {"--dataroot": str(tiny), "--version": "v1.0-mini", "--scene": "scene-tiny", "--out": "{tmp}/bag"}
    arguments.update(change)
    words = [word.format(tmp=tmp_path) for pair in arguments.items() for word in pair]
    monkeypatch.setattr("sys.argv", ["nuscenes_to_rosbag", *words])
    with pytest.raises(SystemExit) as stopped:
        nuscenes_to_rosbag.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
