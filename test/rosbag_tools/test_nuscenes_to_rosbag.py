from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crkd_core.cli import UserError
from crkd_ros import topics
from rosbag_tools import nuscenes_to_rosbag
from rosbag_tools.bags import BagError, open_bag
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


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_every_storage_holds_the_same(tiny: Path, tmp_path: Path, storage: str, compression: str) -> None:
    def messages(*options: str) -> list[tuple[str, int, bytes]]:
        out = tmp_path / f"bag{len(options)}"
        assert convert(["--dataroot", str(tiny), "--scene", "scene-tiny", "--out", str(out), *options]) == 0
        with open_bag(out) as bag:
            assert bag.topics[topics.TF_STATIC].latched
            return [(topic, stamp, bytes(data)) for topic, stamp, data in bag.raw_messages()]

    assert sorted(messages()) == sorted(messages("--storage", storage, "--compression", compression))


def test_chunks_are_indexed_and_compressed(tiny: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader")
    arguments = ["--dataroot", str(tiny), "--scene", "scene-tiny", "--compression", "zstd"]
    assert convert([*arguments, "--out", str(tmp_path / "bag.mcap")]) == 0
    with (tmp_path / "bag.mcap").open("rb") as file:
        summary = reader.make_reader(file).get_summary()
    assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}
    assert all(chunk.message_index_offsets for chunk in summary.chunk_indexes)
    assert summary.statistics.message_count == sum(summary.statistics.channel_message_counts.values()) == 88


def test_topics_get_the_names_that_are_asked_for(tiny: Path, tmp_path: Path) -> None:
    arguments = ["--dataroot", str(tiny), "--scene", "scene-tiny", "--out", str(tmp_path / "bag")]
    assert convert([*arguments, "--names", "foxglove", "--rename", "/odom:=/vehicle/odom"]) == 0
    with open_bag(tmp_path / "bag") as bag:
        found = set(bag.topics)
    assert {"/cam_front/image_rect_compressed", "/radar_front", "/lidar_top", "/markers/annotations"} <= found
    assert "/vehicle/odom" in found
    assert not {"/cam_front/image_raw/compressed", "/radar_front/points", "/odom"} & found
    for wrong, complaint in (("/odom", "expected /from:=/to"), ("/nothing:=/x", "cannot be renamed")):
        with pytest.raises(UserError, match=complaint):
            convert([*arguments, "--overwrite", "--rename", wrong])


def test_missing_files_are_listed(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = sorted((tiny / "sweeps" / "RADAR_FRONT").iterdir())[:2]
    for path in gone:
        path.unlink()
    arguments = ["--dataroot", str(tiny), "--all", "--out-dir", str(tmp_path / "out"), "--dry-run"]
    assert convert([*arguments, "--missing", str(tmp_path / "missing.txt")]) == 0
    assert "RADAR_FRONT                 4        2" in capsys.readouterr().out
    assert (tmp_path / "missing.txt").read_text().split() == [str(path.relative_to(tiny)) for path in gone]
    assert not (tmp_path / "out").exists()


def test_only_version_is_the_default_and_of_two_one_must_be_named(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "v1.0-mini", tiny / "v1.0-other")
    with pytest.raises(UserError, match=r"holds 2 versions; choose one by --version: v1\.0-mini, v1\.0-other"):
        convert(["--dataroot", str(tiny), "--scene", "scene-tiny", "--out", str(tmp_path / "bag")])


def test_single_files_need_the_name_of_their_storage(tiny: Path, tmp_path: Path) -> None:
    arguments = ["--dataroot", str(tiny), "--scene", "scene-tiny", "--storage", "sqlite3", "--out"]
    assert convert([*arguments, str(tmp_path / "bag.db3")]) == 0
    with open_bag(tmp_path / "bag.db3") as bag:
        assert bag.topics["/radar_front/points"].count == 6
    with pytest.raises(BagError, match=r"a name ending in \.db3, for storage sqlite3"):
        convert([*arguments, str(tmp_path / "bag.mcap")])
    with pytest.raises(BagError, match=r"a compressed sqlite3 bag needs its metadata\.yaml"):
        convert([*arguments, str(tmp_path / "other.db3"), "--compression", "zstd"])
