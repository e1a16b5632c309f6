import errno
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from crkd_core.data.errors import DataError
from crkd_core.data.radar_pcd import read_lidar_bin, read_radar_pcd
from crkd_core.data.synthscenes import DriveKey, SynthConfig, frame_at, keyframe_stamps, make_drive
from crkd_core.data.synthscenes.tables import scene_events
from crkd_core.data.synthscenes.world import Drive, SynthError
from crkd_core.data.synthscenes.writer import write_nuscenes
from crkd_core.types import DETECTION_CLASSES, RADAR_DTYPE, Boxes3D

_CONFIG = SynthConfig(image_width=128)


_KEY = DriveKey(9001, _CONFIG, duration_s=1.0)


@pytest.fixture(scope="module")
def drive():
    return make_drive(*_KEY)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth") / "set"
    write_nuscenes(root, [_KEY], progress=False)
    return root


@pytest.fixture(scope="module")
def nusc(root: Path):
    devkit = pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    return devkit.NuScenes("v1.0-mini", str(root), verbose=False)


def _table(root: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((root / "v1.0-mini" / f"{name}.json").read_text())


def test_the_devkit_loads_all_tables_and_links(nusc: Any):
    assert len(nusc.sample) == 2
    assert nusc.sample[0]["next"] == nusc.sample[1]["token"]
    assert len(nusc.sample[0]["data"]) == 12
    counts = {}
    for channel, token in nusc.sample[0]["data"].items():
        record = nusc.get("sample_data", token)
        assert record["is_key_frame"]
        while record["prev"]:
            record = nusc.get("sample_data", record["prev"])
        counts[channel] = 1
        while record["next"]:
            later = nusc.get("sample_data", record["next"])
            assert later["timestamp"] > record["timestamp"]
            record = later
            counts[channel] += 1
    assert {counts[c] for c in counts if c.startswith("CAM")} == {12}
    assert {counts[c] for c in counts if c.startswith("RADAR")} <= {13, 14}
    assert counts["LIDAR_TOP"] == 2


def test_the_devkit_reads_the_sensor_files_and_projects_boxes(nusc: Any):
    from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud

    data = nusc.sample[1]["data"]
    radar = RadarPointCloud.from_file(nusc.get_sample_data_path(data["RADAR_FRONT"]))
    assert radar.points.shape[0] == 18
    assert radar.nbr_points() > 5
    assert LidarPointCloud.from_file(nusc.get_sample_data_path(data["LIDAR_TOP"])).nbr_points() > 10_000
    _, boxes, K = nusc.get_sample_data(data["CAM_FRONT"])
    assert len(boxes) > 0
    assert K[0, 0] == pytest.approx(1266 * 128 / 1600)
    for record in nusc.map:
        assert set(np.unique(record["mask"].mask())) == {0, 255}


def test_perfect_predictions_score_an_average_precision_of_one(nusc: Any, tmp_path: Path):
    from nuscenes.eval.detection.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.eval.detection.utils import category_to_detection_name

    results = {}
    for sample in nusc.sample:
        rows = [nusc.get("sample_annotation", token) for token in sample["anns"]]
        results[sample["token"]] = [
            {
                "sample_token": sample["token"], "translation": row["translation"], "size": row["size"],
                "rotation": row["rotation"], "velocity": nusc.box_velocity(row["token"])[:2].tolist(),
                "detection_name": category_to_detection_name(row["category_name"]), "detection_score": 0.5,
                "attribute_name": nusc.get("attribute", row["attribute_tokens"][0])["name"]
                if row["attribute_tokens"] else "",
            }
            for row in rows
            if row["num_lidar_pts"] + row["num_radar_pts"] > 0
        ]  # fmt: skip
    meta = {f"use_{k}": False for k in ("camera", "lidar", "radar", "map", "external")}
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"meta": meta, "results": results}))
    evaluation = DetectionEval(
        nusc, config_factory("detection_cvpr_2019"), str(path), "synth_val", str(tmp_path), verbose=False
    )
    metrics, _ = evaluation.evaluate()
    present = {box.detection_name for box in evaluation.gt_boxes.all}
    assert len(present) >= 7
    for name in present:
        assert metrics.mean_dist_aps[name] == pytest.approx(1.0), name


def test_files_hold_what_a_frame_on_the_fly_measures(root: Path, drive: Drive, nusc: Any):
    stamp = keyframe_stamps(drive)[1]
    frame = frame_at(drive, stamp, sweeps=2, with_lidar=True)
    data = nusc.sample[1]["data"]
    for name, sweeps in frame.frame.radars.items():
        record = nusc.get("sample_data", data[name])
        for sweep in sweeps:
            assert record["timestamp"] * 1000 == sweep.stamp
            np.testing.assert_array_equal(read_radar_pcd(root / record["filename"]), sweep.points)
            record = nusc.get("sample_data", record["prev"])
    lidar = read_lidar_bin(root / nusc.get("sample_data", data["LIDAR_TOP"])["filename"])
    np.testing.assert_array_equal(lidar, frame.frame.lidar[0].points)
    for name, camera in frame.frame.cameras.items():
        record = nusc.get("sample_data", data[name])
        assert record["timestamp"] * 1000 == camera.stamp
        written = cv2.imread(str(root / record["filename"]))[..., ::-1]
        assert np.abs(written.astype(int) - camera.image).mean() < 12  # JPEG at this size


def test_annotations_are_the_boxes_of_the_frame(drive: Drive, nusc: Any):
    frame = frame_at(drive, keyframe_stamps(drive)[1], image_width=64, sweeps=1)
    rows = [nusc.get("sample_annotation", token) for token in nusc.sample[1]["anns"]]
    columns = [[row[key] for row in rows] for key in ("translation", "size", "rotation")]
    boxes = Boxes3D.from_nuscenes(*columns, np.zeros((len(rows), 2)))
    expected = frame.boxes.transformed(frame.frame.T_world_from_base)
    assert len(boxes) == len(expected)
    np.testing.assert_allclose(boxes.centers, expected.centers, atol=1e-6)
    np.testing.assert_allclose(boxes.sizes, expected.sizes, atol=1e-6)
    np.testing.assert_allclose(np.cos(boxes.yaws - expected.yaws), 1, atol=1e-9)
    counts = [row["num_lidar_pts"] + row["num_radar_pts"] for row in rows]
    np.testing.assert_array_equal(counts, frame.num_points)


def test_attributes_agree_with_class_and_motion(nusc: Any):
    seen = set()
    for row in nusc.sample_annotation:
        names = [nusc.get("attribute", token)["name"] for token in row["attribute_tokens"]]
        kind = row["category_name"].split(".")
        if kind[0] == "movable_object":
            assert names == []
            continue
        (name,) = names
        seen.add(name)
        family = {"pedestrian": "pedestrian", "bicycle": "cycle", "motorcycle": "cycle"}.get(kind[1], "vehicle")
        assert name.startswith(family)
        speed = np.linalg.norm(nusc.box_velocity(row["token"]))
        if name.endswith(".moving"):
            assert not speed < 0.1
        if name in ("vehicle.parked", "vehicle.stopped", "pedestrian.standing"):
            assert not speed > 0.6
    assert {"vehicle.parked", "pedestrian.standing", "cycle.without_rider"} <= seen


def test_categories_and_split_name_what_is_there(root: Path):
    assert len(_table(root, "category")) == len(DETECTION_CLASSES)
    assert json.loads((root / "v1.0-mini" / "splits.json").read_text()) == {"synth_val": ["scene-9001"]}
    (log,), (map_row,) = _table(root, "log"), _table(root, "map")
    assert map_row["log_tokens"] == [log["token"]]
    assert (root / map_row["filename"]).is_file()
    assert {row["visibility_token"] for row in _table(root, "sample_annotation")} <= {"1", "2", "3", "4"}


def test_the_same_seed_writes_the_same_bytes_whatever_the_number_of_processes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The processes do all of the work: this one makes no drive.
    monkeypatch.setattr("crkd_core.data.synthscenes.writer.make_drive", None)
    again = tmp_path / "again"
    write_nuscenes(again, [_KEY], jobs=2, progress=False)
    files = sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for file in files:
        assert (root / file).read_bytes() == (again / file).read_bytes(), file


def test_key_frames_alone_and_several_scenes(tmp_path: Path):
    drives = [DriveKey(seed, _CONFIG, duration_s=0.5) for seed in (1, 2)]
    write_nuscenes(tmp_path / "set", drives, sweeps=False, scene_names=["scene-a", "scene-b"], progress=False)
    assert not (tmp_path / "set" / "sweeps").exists()
    assert [s["name"] for s in _table(tmp_path / "set", "scene")] == ["scene-a", "scene-b"]
    assert len(list((tmp_path / "set" / "samples" / "LIDAR_TOP").iterdir())) == 2
    tokens = [row["token"] for name in ("sample", "sample_data", "instance") for row in _table(tmp_path / "set", name)]
    assert len(tokens) == len(set(tokens))


def test_every_sensor_is_written_at_its_own_rate(drive: Drive):
    rates = {"CAM_FRONT": 12, "RADAR_BACK_LEFT": 13, "LIDAR_TOP": 20}
    events = scene_events(drive, "scene-a", sweeps=True, lidar_sweeps=True)
    for channel, hz in rates.items():
        steps = np.diff([event.stamp for event in events[channel]])
        np.testing.assert_allclose(steps, 1e9 / hz, atol=2000)
        assert sum(event.keyframe for event in events[channel]) == 2


def test_a_scene_says_its_light_and_weather(root: Path, drive: Drive):
    (scene,) = _table(root, "scene")
    assert scene["description"].startswith(drive.conditions.describe() + "; ")
    assert drive.config.config_hash() in scene["description"]


def test_scenes_of_training_and_of_evaluation_seeds_are_in_splits_of_their_own(tmp_path: Path):
    config = SynthConfig(image_width=64, lidar_columns=90, supersampling=1)
    drives = [DriveKey(seed, config, duration_s=0.5) for seed in (8999, 9000)]
    write_nuscenes(tmp_path / "set", drives, sweeps=False, progress=False)
    splits = json.loads((tmp_path / "set" / "v1.0-mini" / "splits.json").read_text())
    assert splits == {"synth_train": ["scene-8999"], "synth_val": ["scene-9000"]}


def test_a_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr("crkd_core.data.synthscenes.writer.render", broken)
    with pytest.raises(DataError, match="set: cannot be written: disk full"):
        write_nuscenes(tmp_path / "set", [_KEY], progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path: Path):
    with pytest.raises(DataError, match="exists already; remove it"):
        write_nuscenes(tmp_path, [_KEY], progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scene_names": ["a", "b"]}, "scene names: expected 1"),
        ({"jobs": 0}, "jobs: expected at least 1"),
        ({"jpeg_quality": 0}, "JPEG quality"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path: Path, arguments: Any, message: str):
    with pytest.raises(SynthError, match=message):
        write_nuscenes(tmp_path / "set", [_KEY], progress=False, **arguments)


def test_no_file_lacks_its_row_and_no_row_its_file(root: Path):
    rows = {row["filename"] for row in _table(root, "sample_data")}
    files = {str(p.relative_to(root)) for d in ("samples", "sweeps") for p in (root / d).rglob("*") if p.is_file()}
    assert rows == files
    assert RADAR_DTYPE.itemsize == 43
