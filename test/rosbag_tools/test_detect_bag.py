"""Detection over a bag: complete, deterministic, and one clear line for every mistake."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_drive import CAMERAS, START, write_checkpoint, write_drive

from crkd_core.config import load_recipe
from crkd_core.data.encode import encode
from crkd_core.data.frames import annotated_frame
from crkd_core.data.nuscenes import load_index
from crkd_core.types import SensorFrame
from crkd_ros import topics
from crkd_ros.answers import make_detector, report_of
from crkd_ros.conversions import detections_of
from crkd_ros.parameters import load_parameters
from rosbag_tools.bag_detection import KEY_FRAME_REFERENCE, answers, assembled_frames, detect_bag
from rosbag_tools.bags import open_bag
from rosbag_tools.detect_bag import main
from rosbag_tools.recorded import detections_in
from rosbag_tools.scene_bag import convert_scene

FRONT_LEFT = topics.image_topic("cam_front_left")
RADAR = topics.points_topic("radar_front")
MANIFEST = "/detections/manifest"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "micro")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("bag") / "drive")


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("params") / "rig.yaml"
    path.write_text(
        f"detector: {{ros__parameters: {{cameras: [{', '.join(CAMERAS)}], radars: [radar_front], device: cpu}}}}\n"
    )
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["detect_bag", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def content(path: Path) -> list[tuple[str, int, bytes]]:
    with open_bag(path) as opened:
        return [(topic, stamp, bytes(data)) for topic, stamp, data in opened.raw_messages()]


def test_every_trigger_image_is_answered_with_boxes_velocities_markers_and_manifest(
    bag: Path,
    checkpoint: Path,
    params: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "out.mcap"
    assert run(monkeypatch, bag, "--checkpoint", checkpoint, "--params", params, "--out", out) == 0
    assert "18 frames (18 NOMINAL)" in capsys.readouterr().out
    with open_bag(out) as opened:
        assert {name: topic.count for name, topic in opened.topics.items()} == {
            topics.DETECTIONS: 18,
            topics.DETECTION_VELOCITIES: 18,
            topics.DETECTION_MARKERS: 18,
            MANIFEST: 18,
        }
        by_topic: dict[str, list[Any]] = {}
        for message in opened.messages():
            by_topic.setdefault(message.topic, []).append(message.message)
    found = [
        detections_of(array, cloud)
        for array, cloud in zip(by_topic[topics.DETECTIONS], by_topic[topics.DETECTION_VELOCITIES], strict=True)
    ]
    reports = [report_of(message) for message in by_topic[MANIFEST]]
    assert [d.stamp for d in found] == [r.stamp for r in reports]
    assert found[0].stamp == START + 100_000_000
    assert {d.frame_id for d in found} == {"base_link"}
    assert [len(d) for d in found] == [r.detections for r in reports]
    assert min(len(d) for d in found) > 0


def test_result_does_not_depend_on_the_run(
    bag: Path, checkpoint: Path, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("a.mcap", "b.mcap"):
        common = ("--checkpoint", checkpoint, "--params", params, "--out", tmp_path / name)
        assert run(monkeypatch, bag, *common) == 0
    assert content(tmp_path / "a.mcap") == content(tmp_path / "b.mcap")


def test_key_frames_can_be_the_reference(
    bag: Path, checkpoint: Path, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out.mcap"
    arguments = ("--checkpoint", checkpoint, "--params", params, "--out", out, "--reference", "keyframes")
    assert run(monkeypatch, bag, *arguments) == 0
    stamps = [stamp for topic, stamp, _ in content(out) if topic == topics.DETECTIONS]
    assert stamps == [START + 100_000_000 + i * 500_000_000 for i in range(3)]


def lost_radar(topic: str, _: int, message: Any) -> Any:
    return None if topic == RADAR else message


def cut_image(topic: str, number: int, message: Any) -> Any:
    if topic == FRONT_LEFT and number == 4:
        message.data = message.data[: len(message.data) // 2]
    return message


def cut_cloud(topic: str, number: int, message: Any) -> Any:
    if topic == RADAR and number == 4:
        message.data = message.data[:100]
    return message


@pytest.mark.parametrize(
    ("change", "complaint", "counted"),
    [
        (
            lost_radar,
            f"no message on {RADAR} (found /cam_front/camera_info",
            "RADAR_FRONT: missing or damaged in 18 frames",
        ),
        (cut_image, "ns: CAM_FRONT_LEFT: ", "CAM_FRONT_LEFT: missing or damaged in 1 frames"),
        (
            cut_cloud,
            f"{RADAR}: RADAR_FRONT: 20 x 1 points of 43 bytes need 860 bytes, got 100",
            f"{RADAR}: 1 messages could not be used",
        ),
    ],
)
def test_damaged_bag_is_one_clear_line_or_counted_on_request(
    change: Any,
    complaint: str,
    counted: str,
    checkpoint: Path,
    params: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    bag = write_drive(tmp_path / "bag.mcap", change=change)
    arguments = (bag, "--checkpoint", checkpoint, "--params", params, "--out", tmp_path / "out.mcap")
    assert run(monkeypatch, *arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert complaint in errors[0]
    assert not (tmp_path / "out.mcap").exists()
    assert run(monkeypatch, *arguments, "--keep-going") == 0
    output = capsys.readouterr().out
    assert "18 frames" in output
    assert counted in output


def test_user_mistakes_are_one_clear_line(
    bag: Path,
    checkpoint: Path,
    params: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    common = ("--params", params, "--out", tmp_path / "out.mcap")
    cases = [
        ((tmp_path / "nowhere", "--checkpoint", checkpoint, *common), "nowhere: no such file or folder"),
        ((bag, "--checkpoint", tmp_path / "none", *common), "none: model.json not found"),
        ((bag, "--checkpoint", checkpoint, "--recipe", "student_r50", *common), "expected 'student_r50', got 'micro'"),
        ((bag, "--checkpoint", checkpoint, "--device", "tpu", *common), "cpu, cuda or cuda:N, got 'tpu'"),
        ((bag, "--checkpoint", checkpoint, "--params", tmp_path / "p", "--out", "o"), "p: no such parameter file"),
        ((bag, "--checkpoint", checkpoint, "--params", params, "--out", params), "not a bag"),
    ]
    for arguments, complaint in cases:
        extra = ("--overwrite",) if arguments[-1] == params else ()
        assert run(monkeypatch, *arguments, *extra) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert complaint in line


def test_input_can_be_kept_beside_the_detections(
    bag: Path, checkpoint: Path, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    common = (bag, "--checkpoint", checkpoint, "--params", params)
    assert run(monkeypatch, *common, "--out", tmp_path / "alone") == 0
    assert run(monkeypatch, *common, "--out", tmp_path / "both", "--keep-input") == 0
    both = content(tmp_path / "both")
    assert [stamp for _, stamp, _ in both] == sorted(stamp for _, stamp, _ in both)
    assert sorted(both) == sorted(content(bag) + content(tmp_path / "alone"))
    with open_bag(tmp_path / "both") as opened:
        assert opened.topics[topics.TF_STATIC].latched
    # Its own output is a drive again: the detections in it are replaced.
    common = (tmp_path / "both", "--checkpoint", checkpoint, "--params", params)
    assert run(monkeypatch, *common, "--out", tmp_path / "again", "--keep-input") == 0
    assert content(tmp_path / "again") == both


def test_many_bags_in_several_processes_give_what_one_gives(
    bag: Path,
    checkpoint: Path,
    params: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    short = write_drive(tmp_path / "short", seconds=0.5)
    broken = write_drive(tmp_path / "broken", seconds=0.5, change=lost_radar)
    common = ("--checkpoint", checkpoint, "--params", params, "--out-dir", tmp_path / "out")
    assert run(monkeypatch, bag, short, broken, *common, "--jobs", 2) == 1
    shown = capsys.readouterr().out
    assert "broken: failed: bag" in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["drive", "short"]
    assert run(monkeypatch, bag, "--checkpoint", checkpoint, "--params", params, "--out", tmp_path / "one") == 0
    assert content(tmp_path / "out" / "drive") == content(tmp_path / "one")
    capsys.readouterr()
    assert run(monkeypatch, bag, short, *common, "--resume") == 0
    assert "2 of 2 bags are there already" in capsys.readouterr().out


def test_detector_gets_the_next_frame_before_the_last_is_collected(checkpoint: Path, bag: Path, params: Path):
    parameters = load_parameters(params, {"checkpoint": str(checkpoint)})
    detector = make_detector(parameters)
    calls: list[tuple[str, int]] = []

    class Spy:
        last_timings = detector.last_timings

        def submit(self, frame: SensorFrame) -> Any:
            calls.append(("submit", frame.stamp))
            return detector.submit(frame)

        def collect(self, ticket: Any) -> Any:
            calls.append(("collect", ticket.frame.stamp))
            return detector.collect(ticket)

    with open_bag(bag) as opened:
        frames = list(assembled_frames(opened, parameters, sweeps=detector.recipe.live_sweeps))[:3]
    found = [a for a, _ in answers(Spy(), frames, frame_id="base_link")]  # type: ignore[arg-type]
    a, b, c = (f.stamp for f in frames)
    order = [("submit", a), ("submit", b), ("collect", a), ("submit", c), ("collect", b), ("collect", c)]
    assert calls == order
    for one, frame in zip(found, frames, strict=True):
        alone = detector(frame.frame)
        np.testing.assert_array_equal(one.detections.scores, alone.scores)
        np.testing.assert_array_equal(one.detections.boxes.centers, alone.boxes.centers)


def sweeps_of(frame: SensorFrame, like: SensorFrame) -> SensorFrame:
    """Of each radar as many sweeps as in another frame: where files are absent, older ones stand in their place."""
    radars = {name: sweeps[: len(like.radars[name])] for name, sweeps in frame.radars.items()}
    return replace(frame, radars=radars)


def assert_equal_inputs(ours: SensorFrame, theirs: SensorFrame) -> None:
    assert ours.manifest.sensors == theirs.manifest.sensors
    recipe = load_recipe("student_tiny")
    a, b = encode(ours, recipe), encode(theirs, recipe)
    for name in ("images", "intrinsics", "T_bev_from_cam", "radar"):
        x, y = getattr(a, name).numpy(), getattr(b, name).numpy()
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5, err_msg=name)


def test_key_frames_are_the_loaders_own_inputs_and_give_its_boxes(synth: Path, tmp_path: Path):
    """A drive with all its sweeps, of which one radar skipped a beat."""
    index = load_index(synth, "v1.0-mini")
    scene = index.scenes[0]
    skipped = [r for r in index.records(scene, "RADAR_FRONT") if not r.is_key_frame][8]
    convert_scene(index, scene.name, tmp_path / "whole")
    # In the bag the message is lost; in the tables its row is.
    rows = json.loads((synth / "v1.0-mini" / "sample_data.json").read_text())
    root = tmp_path / "root"
    shutil.copytree(synth / "v1.0-mini", root / "v1.0-mini")
    for folder in ("samples", "sweeps", "maps"):
        (root / folder).symlink_to(synth / folder)
    kept = [row for row in rows if row["filename"] != str(skipped.path.relative_to(synth))]
    assert len(kept) == len(rows) - 1
    (root / "v1.0-mini" / "sample_data.json").write_text(json.dumps(kept))
    index = load_index(root, "v1.0-mini")
    convert_scene(index, scene.name, tmp_path / "bag")
    parameters = load_parameters(None, {**KEY_FRAME_REFERENCE, "device": "cpu"})
    detector = make_detector(parameters)
    summary = detect_bag(tmp_path / "bag", tmp_path / "out", detector, parameters)
    assert summary.frames == len(index.samples) == 3
    with open_bag(tmp_path / "bag") as bag:
        frames = {f.stamp: f.frame for f in assembled_frames(bag, parameters, sweeps=6)}
    with open_bag(tmp_path / "out") as out:
        found = {d.stamp: d for d in detections_in(out).detections}
    spans = []
    for sample in index.samples:
        theirs = annotated_frame(index, sample, radar_sweeps=6).frame
        assert_equal_inputs(frames[sample.stamp], theirs)
        spans.append(theirs.radars["RADAR_FRONT"][0].stamp - theirs.radars["RADAR_FRONT"][-1].stamp)
        expected = detector(theirs)
        got = found[sample.stamp]
        np.testing.assert_allclose(got.boxes.centers, expected.boxes.centers, atol=1e-3)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-4)
    assert max(spans) > 420_000_000, "one of the radars skipped a beat"


@pytest.mark.nuscenes
def test_real_key_frames_of_a_bag_are_those_of_the_data_set(nuscenes_root: Path, tmp_path: Path):
    """From file to network input, the way over the bag changes nothing but the last bit of a pose."""
    index = load_index(nuscenes_root, "v1.0-mini")
    complete = index.complete_samples()
    if not complete:
        pytest.skip("no key frame has all its files")
    scene = Counter(sample.scene for sample in complete).most_common(1)[0][0]
    convert_scene(index, scene, tmp_path / "bag")
    samples = {s.stamp: s for s in complete if s.scene == scene}
    compared = 0
    with open_bag(tmp_path / "bag") as bag:
        for assembled in assembled_frames(bag, load_parameters(None, KEY_FRAME_REFERENCE), sweeps=6):
            if assembled.stamp not in samples:
                continue
            expected = annotated_frame(index, samples[assembled.stamp], radar_sweeps=6).frame
            assert assembled.frame is not None
            assert_equal_inputs(sweeps_of(assembled.frame, expected), expected)
            compared += 1
    assert compared == len(samples)
