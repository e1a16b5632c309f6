"""Several scenes, several processes, and everything that can end a conversion half way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_scenes import another_scene

from crkd_core.data.nuscenes import load_index
from rosbag_tools import mcap_storage, scene_bags
from rosbag_tools.bags import BagError, new_bag, open_bag
from rosbag_tools.nuscenes_to_rosbag import convert, shard_of
from rosbag_tools.scene_bag import BagOptions, ConvertError, convert_scene
from rosbag_tools.scene_bags import convert_scenes

VERSION = "v1.0-mini"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def messages(bag: Path) -> list[tuple[str, int, bytes]]:
    with open_bag(bag) as opened:
        return [(topic, stamp, bytes(data)) for topic, stamp, data in opened.raw_messages()]


@pytest.fixture
def two(tiny: Path) -> Path:
    """The tiny data set with a second scene."""
    another_scene(tiny, "scene-other")
    return tiny


def test_processes_write_what_one_process_writes(two: Path, tmp_path: Path) -> None:
    index = load_index(two, VERSION)
    for folder, jobs in (("one", 1), ("many", 2)):
        bags = {scene.name: tmp_path / folder / scene.name for scene in index.scenes}
        outcome = convert_scenes(index, bags, jobs=jobs)
        assert sorted(report.scene for report in outcome.reports) == ["scene-other", "scene-tiny"]
        assert not outcome.failed
    for scene in index.scenes:
        assert messages(tmp_path / "one" / scene.name) == messages(tmp_path / "many" / scene.name)


def test_finished_scenes_are_skipped_and_the_others_completed(
    two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataroot", str(two), "--all", "--out-dir", str(tmp_path / "out"), "--no-progress"]
    assert convert(arguments) == 0
    assert "2 scenes converted, 0 were finished, 0 failed" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out" / "scene-other")
    before = (tmp_path / "out" / "scene-tiny" / "metadata.yaml").stat().st_mtime_ns
    assert convert(arguments) == 0
    assert "1 scenes converted, 1 were finished, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "out" / "scene-tiny" / "metadata.yaml").stat().st_mtime_ns == before
    assert names(tmp_path / "out") == ["scene-other", "scene-tiny"]


def test_bag_of_other_options_is_no_finished_one(two: Path, tmp_path: Path) -> None:
    index, bags = load_index(two, VERSION), {"scene-tiny": tmp_path / "out" / "scene-tiny"}
    convert_scenes(index, bags, BagOptions(keyframes_only=True))
    with pytest.raises(ConvertError, match=r"keyframes_only: True, now False.*--overwrite"):
        convert_scenes(index, bags)
    assert len(convert_scenes(index, bags, overwrite=True).reports) == 1


def test_bag_that_somebody_else_made_is_not_replaced(two: Path, tmp_path: Path) -> None:
    index, out = load_index(two, VERSION), tmp_path / "out" / "scene-tiny"
    with new_bag(out) as bag:
        bag.add_topic("/x", "std_msgs/msg/String")
    with pytest.raises(ConvertError, match="was not made by this version of nuscenes_to_rosbag; give --overwrite"):
        convert_scenes(index, {"scene-tiny": out})
    with open_bag(out) as found:
        assert list(found.topics) == ["/x"]


def test_truncated_source_is_left_out_and_completed_by_a_rerun(two: Path, tmp_path: Path) -> None:
    bags = {"scene-tiny": tmp_path / "out" / "scene-tiny"}
    radar = next((two / "sweeps" / "RADAR_FRONT").iterdir())
    whole = radar.read_bytes()
    radar.write_bytes(whole[:-30])
    [report] = convert_scenes(load_index(two, VERSION), bags).reports
    assert report.channels["RADAR_FRONT"].damaged == 1
    radar.write_bytes(whole)
    [report] = convert_scenes(load_index(two, VERSION), bags).reports
    assert (report.channels["RADAR_FRONT"].damaged, report.channels["RADAR_FRONT"].written) == (0, 6)
    assert convert_scenes(load_index(two, VERSION), bags).finished == ["scene-tiny"]


def test_files_that_came_later_are_a_reason_to_convert_again(two: Path, tmp_path: Path) -> None:
    bags = {"scene-tiny": tmp_path / "out" / "scene-tiny"}
    radar = next((two / "sweeps" / "RADAR_FRONT").iterdir())
    content = radar.read_bytes()
    radar.unlink()
    convert_scenes(load_index(two, VERSION), bags)
    assert convert_scenes(load_index(two, VERSION), bags).finished == ["scene-tiny"]
    radar.write_bytes(content)
    assert len(convert_scenes(load_index(two, VERSION), bags).reports) == 1


def test_one_scene_that_fails_ends_no_other(two: Path, tmp_path: Path) -> None:
    for path in two.glob("s*/*/*__185*"):  # the other scene's time
        path.unlink()
    index = load_index(two, VERSION)
    bags = {scene.name: tmp_path / scene.name for scene in index.scenes}
    outcome = convert_scenes(index, bags, jobs=2)
    if not outcome.failed:
        pytest.fail(f"expected the scene without files to fail; converted {names(tmp_path)}")
    assert [report.scene for report in outcome.reports] == ["scene-tiny"]
    assert "none of the 24 sensor files" in outcome.failed["scene-other"]


SLOW = """
import sys, time
from pathlib import Path
from crkd_core.data.nuscenes import load_index
from rosbag_tools import bags
from rosbag_tools.scene_bag import convert_scene
real = bags.BagWriter.write_raw
def slow(self, *arguments):
    print("writing", flush=True)
    time.sleep(0.05)
    return real(self, *arguments)
bags.BagWriter.write_raw = slow
convert_scene(load_index(sys.argv[1], "v1.0-mini"), "scene-tiny", Path(sys.argv[2]))
"""


def test_killed_conversion_leaves_no_bag_and_a_rerun_completes_it(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "scene-tiny"
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tiny), str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == b"writing\n"
    with pytest.raises(BagError, match="another process is writing it"):
        convert_scene(load_index(tiny, VERSION), "scene-tiny", out)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert names(tmp_path / "out") == [".scene-tiny.partial"]
    report = convert_scene(load_index(tiny, VERSION), "scene-tiny", out)
    assert names(tmp_path / "out") == ["scene-tiny"]
    assert len(messages(out)) == report.messages


LIMITED = """
import resource, sys
from rosbag_tools.nuscenes_to_rosbag import main
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
main()
"""


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_file_that_cannot_grow_is_one_line_and_leaves_nothing(tiny: Path, tmp_path: Path, storage: str) -> None:
    arguments = ["--dataroot", str(tiny), "--scene", "scene-tiny", "--storage", storage, "--no-progress"]
    command = [sys.executable, "-c", LIMITED, *arguments, "--out", str(tmp_path / "out" / "bag")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "cannot be written" in ended.stderr
    assert names(tmp_path / "out") == []


def test_full_disk_is_one_error_and_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mcap_storage.os, "writev", full)
    with pytest.raises(BagError, match="No space left on device; nothing of it is kept"):
        convert_scene(load_index(tiny, VERSION), "scene-tiny", tmp_path / "out" / "bag")
    assert names(tmp_path / "out") == []


def test_disk_that_fills_up_within_a_chunk_is_noticed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The system then writes a part and says so only by its size; nothing of it may be lost.
    whole = convert_scene(load_index(tiny, VERSION), "scene-tiny", tmp_path / "whole")
    real = os.writev
    monkeypatch.setattr(mcap_storage.os, "writev", lambda file, parts: real(file, [b"".join(parts)[:1000]]))
    convert_scene(load_index(tiny, VERSION), "scene-tiny", tmp_path / "parts")
    assert messages(tmp_path / "parts") == messages(tmp_path / "whole")
    assert len(messages(tmp_path / "whole")) == whole.messages


def test_target_that_cannot_be_written_is_told(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match=r"file.*: (Not a directory|File exists)"):
        convert_scene(load_index(tiny, VERSION), "scene-tiny", tmp_path / "file" / "bag")


def test_disk_too_small_for_all_scenes_is_noticed_before_the_first(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(scene_bags, "check_space", _refusing(60_000))
    index = load_index(two, VERSION)
    with pytest.raises(ConvertError, match="too small"):
        convert_scenes(index, {scene.name: tmp_path / "out" / scene.name for scene in index.scenes})
    assert not (tmp_path / "out").exists()
    assert usage.free > 0


def _refusing(limit: int) -> Any:
    def check(_: Path, needed: int) -> None:
        assert needed > limit, "both scenes' files count"
        raise ConvertError("too small")

    return check


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, (0, 1)),
        ("2/5", {"RANK": "0", "WORLD_SIZE": "3"}, (2, 5)),
        (None, {"RANK": "1", "WORLD_SIZE": "3"}, (1, 3)),
        (None, {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (3, 4)),
    ],
)
def test_shard_comes_from_the_command_line_or_the_launcher(
    text: str | None, environment: dict[str, str], expected: tuple[int, int]
) -> None:
    assert shard_of(text, environment) == expected


@pytest.mark.parametrize("text", ["5/5", "1", "a/b", "-1/2"])
def test_shard_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="--shard: expected i/n"):
        shard_of(text, {})


def test_shards_share_the_scenes(two: Path, tmp_path: Path) -> None:
    for i in range(2):
        arguments = ["--dataroot", str(two), "--all", "--out-dir", str(tmp_path / str(i)), "--no-progress"]
        assert convert([*arguments, "--shard", f"{i}/2"]) == 0
    assert names(tmp_path / "0") + names(tmp_path / "1") == ["scene-tiny", "scene-other"]


def test_own_split_names_the_scenes(two: Path, tmp_path: Path) -> None:
    (two / VERSION / "splits.json").write_text(json.dumps({"mine": ["scene-other"]}))
    arguments = ["--dataroot", str(two), "--split", "mine", "--out-dir", str(tmp_path / "out"), "--no-progress"]
    assert convert(arguments) == 0
    assert names(tmp_path / "out") == ["scene-other"]


def test_memory_does_not_grow_with_the_files(tiny: Path, tmp_path: Path) -> None:
    lidar = [path for path in tiny.glob("s*/LIDAR_TOP/*") if path.is_file()]
    for path in lidar:
        path.write_bytes(bytes(20 * 200_000))  # 12 files of 4 MB
    code = (
        "import resource, sys; from pathlib import Path; from crkd_core.data.nuscenes import load_index\n"
        "from rosbag_tools.scene_bag import convert_scene\n"
        "index = load_index(sys.argv[1], 'v1.0-mini')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "convert_scene(index, 'scene-tiny', Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tiny), str(tmp_path / "bag")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 40_000, "kB, for 48 MB of points"


def test_progress_shows_files_and_time_left(two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = load_index(two, VERSION)
    bags = {scene.name: tmp_path / scene.name for scene in index.scenes}
    started = time.monotonic()
    convert_scenes(index, bags, progress=True)
    shown = capsys.readouterr().err
    assert "48/48" in shown
    assert "scene-tiny -> " in shown
    assert time.monotonic() - started < 60
