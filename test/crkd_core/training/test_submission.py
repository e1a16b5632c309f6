import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crkd_core.config import load_recipe
from crkd_core.geometry.transforms import transform
from crkd_core.training.submission import (
    CLASS_RANGE,
    MAX_BOXES_PER_SAMPLE,
    SubmissionError,
    attribute_of,
    read_submission,
    results_entry,
    used_sensors,
    within_class_range,
    write_submission,
)
from crkd_core.types import DETECTION_CLASSES, Boxes3D, Detections


def detections(n: int = 1, *, label: int = 0, distance: float = 10.0, velocity: float = 0.0) -> Detections:
    boxes = Boxes3D(
        centers=np.tile([distance, 0.0, 1.0], (n, 1)),
        sizes=np.tile([4.0, 2.0, 1.5], (n, 1)),
        yaws=np.full(n, 0.3),
        velocities=np.tile([velocity, 0.0], (n, 1)),
    )
    return Detections(boxes, np.full(n, 0.5), np.full(n, label), "world", 0)


@pytest.mark.parametrize(
    ("class_name", "still", "moving"),
    [
        ("car", "vehicle.parked", "vehicle.moving"),
        ("trailer", "vehicle.parked", "vehicle.moving"),
        ("bus", "vehicle.stopped", "vehicle.moving"),
        ("pedestrian", "pedestrian.standing", "pedestrian.moving"),
        ("bicycle", "cycle.without_rider", "cycle.with_rider"),
        ("traffic_cone", "", ""),
    ],
)
def test_attribute_follows_speed(class_name: str, still: str, moving: str):
    assert attribute_of(class_name, 0.2) == still
    assert attribute_of(class_name, 0.21) == moving


def test_entry_has_width_before_length_and_plain_numbers():
    (entry,) = results_entry(detections(velocity=3.0), "token")
    assert entry["size"] == [2.0, 4.0, 1.5]
    assert entry["attribute_name"] == "vehicle.moving"
    assert json.loads(json.dumps(entry)) == entry


def test_unknown_velocity_is_written_as_zero():
    (entry,) = results_entry(detections(velocity=np.nan), "token")
    assert entry["velocity"] == [0.0, 0.0]


def test_class_range_is_a_distance_in_the_plane_by_class():
    cone, car = DETECTION_CLASSES.index("traffic_cone"), DETECTION_CLASSES.index("car")
    assert within_class_range(detections(label=cone, distance=29.9)).all()
    assert not within_class_range(detections(label=cone, distance=30.1)).any()
    assert within_class_range(detections(label=car, distance=49.9)).all()


def test_class_ranges_are_those_of_the_metric():
    config = pytest.importorskip("nuscenes.eval.common.config").config_factory("detection_cvpr_2019")
    assert config.class_range == CLASS_RANGE
    assert config.max_boxes_per_sample == MAX_BOXES_PER_SAMPLE


@pytest.mark.parametrize(
    ("recipe", "camera", "radar", "lidar"),
    [
        ("student_tiny", True, True, False),
        ("camera_tiny", True, False, False),
        ("radar_tiny", False, True, False),
        ("teacher_tiny", True, False, True),
    ],
)
def test_flags_tell_the_sensors_that_are_read(recipe: str, camera: bool, radar: bool, lidar: bool):
    expected = {"use_camera": camera, "use_radar": radar, "use_lidar": lidar}
    assert used_sensors(load_recipe(recipe)) == expected


def write(path: Path, results: dict[str, list[dict[str, Any]]], tokens: list[str]) -> None:
    write_submission(path, results, tokens=tokens, use_camera=True, use_radar=True, use_lidar=False)


def test_a_written_submission_is_read_back_with_its_flags(tmp_path: Path):
    results = {"a": results_entry(detections(2), "a"), "b": []}
    write(tmp_path / "sub" / "results.json", results, ["a", "b"])
    meta, found = read_submission(tmp_path / "sub" / "results.json")
    assert found == results
    assert meta == {
        "use_camera": True,
        "use_radar": True,
        "use_lidar": False,
        "use_map": False,
        "use_external": False,
    }


@pytest.mark.parametrize(
    ("results", "tokens", "words"),
    [
        ({"a": [{}]}, ["a", "b"], "1 of 2 samples have no entry"),
        ({"a": [{}], "z": []}, ["a"], "not of the split"),
        ({"a": []}, ["a"], "not one box"),
        ({"a": [{}] * 501}, ["a"], "at most 500 boxes, got 501"),
    ],
)
def test_what_the_benchmark_would_refuse_is_not_written(
    tmp_path: Path, results: dict[str, list[dict[str, Any]]], tokens: list[str], words: str
):
    with pytest.raises(SubmissionError, match=words):
        write(tmp_path / "results.json", results, tokens)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"meta": {}}'])
def test_a_file_that_is_no_submission_is_named(tmp_path: Path, content: str):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(SubmissionError, match=r"results\.json"):
        read_submission(path)


@pytest.mark.golden
def test_submission_equals_the_original_pipeline(golden_dir: Path):
    golden = np.load(golden_dir / "nuscenes_submission.npz")
    meta = json.loads(str(golden["meta"]))
    T_base_from_lidar = transform(golden["in.lidar2ego_rotation"], golden["in.lidar2ego_translation"])
    T_world_from_base = transform(golden["in.ego2global_rotation"], golden["in.ego2global_translation"])
    boxes = Boxes3D.from_mmdet3d(golden["in.boxes"])
    found = Detections(boxes, golden["in.scores"], golden["in.labels"], "lidar_top", 0)
    kept = found.filtered(within_class_range(found.transformed(T_base_from_lidar, "base_link")))
    entries = results_entry(kept.transformed(T_world_from_base @ T_base_from_lidar, "world"), "token")

    def column(name: str) -> Any:
        return [entry[name] for entry in entries]

    assert column("detection_name") == meta["detection_name"]
    assert column("attribute_name") == meta["attribute_name"]
    np.testing.assert_allclose(column("translation"), golden["out.translation"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(column("size"), golden["out.size"], rtol=1e-6)
    np.testing.assert_allclose(column("detection_score"), golden["out.score"], rtol=1e-6)
    # The original rotates velocity in two steps and keeps the z of the first: a difference of second order in tilt.
    np.testing.assert_allclose(column("velocity"), golden["out.velocity"], rtol=0, atol=2e-3)
    expected = Boxes3D.from_nuscenes(
        golden["out.translation"], golden["out.size"], golden["out.rotation"], golden["out.velocity"]
    )
    ours = Boxes3D.from_nuscenes(column("translation"), column("size"), column("rotation"), column("velocity"))
    np.testing.assert_allclose(np.cos(ours.yaws - expected.yaws), 1.0, atol=1e-6)
