from pathlib import Path

import numpy as np
import pytest

from crkd_core.data.nuscenes_build import CLASS_OF_CATEGORY
from crkd_core.training.ground_truth import (
    GroundTruthError,
    SampleTruth,
    TruthBox,
    load_devkit,
    scenes_of_split,
    tokens_of_scenes,
    tokens_of_split,
    truth_from_nuscenes,
)
from crkd_core.types import DETECTION_CLASSES

pytest.importorskip("nuscenes")


def box(category: str, num_points: int = 3) -> TruthBox:
    return TruthBox(
        category=category,
        translation=(1.0, 2.0, 3.0),
        size=(2.0, 4.0, 1.5),
        rotation=(1.0, 0.0, 0.0, 0.0),
        velocity=(0.5, 0.0),
        attribute="",
        num_points=num_points,
    )


def test_categories_map_to_classes_as_in_the_metric():
    from nuscenes.eval.detection.utils import category_to_detection_name

    assert {name: category_to_detection_name(name) for name in CLASS_OF_CATEGORY} == CLASS_OF_CATEGORY
    assert set(CLASS_OF_CATEGORY.values()) == set(DETECTION_CLASSES)
    assert category_to_detection_name("static_object.bicycle_rack") is None


def test_detections_are_the_visible_boxes_of_the_ten_classes():
    sample = SampleTruth(
        "t",
        0,
        np.eye(4),
        (box("vehicle.car"), box("static_object.bicycle_rack"), box("vehicle.truck", num_points=0)),
    )
    found = sample.detections()
    assert found.class_names == ["car"]
    np.testing.assert_array_equal(found.boxes.sizes, [[4.0, 2.0, 1.5]])
    assert sample.detections(min_points=0).class_names == ["car", "truck"]


def test_a_sample_without_boxes_has_no_detections():
    assert len(SampleTruth("t", 0, np.eye(4), ()).detections()) == 0


def test_a_missing_root_is_named_with_the_tables_expected(tmp_path: Path):
    with pytest.raises(GroundTruthError, match=r"v1.0-mini.*found no folder of tables"):
        load_devkit(tmp_path, "v1.0-mini")


def test_another_version_at_hand_is_suggested(tmp_path: Path):
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "v1.0-mini" / "sample.json").write_text("[]")
    with pytest.raises(GroundTruthError, match=r"found v1\.0-mini"):
        load_devkit(tmp_path, "v1.0-trainval")


def test_incomplete_tables_are_one_error(tmp_path: Path):
    (tmp_path / "v1.0-mini").mkdir()
    with pytest.raises(GroundTruthError, match="the devkit cannot load it"):
        load_devkit(tmp_path, "v1.0-mini")


@pytest.mark.nuscenes
def test_ground_truth_of_a_real_root_is_the_devkits(nuscenes_root: Path):
    from nuscenes.eval.common.loaders import add_center_dist, load_gt_of_sample_tokens
    from nuscenes.eval.detection.data_classes import DetectionBox

    devkit = load_devkit(nuscenes_root, "v1.0-mini")
    tokens = tokens_of_scenes(devkit, [devkit.scene[0]["name"]])[:3]
    expected = add_center_dist(devkit, load_gt_of_sample_tokens(devkit, tokens, DetectionBox))
    found = truth_from_nuscenes(devkit, tokens)
    for token in tokens:
        ours = [b for b in found[token].boxes if b.category in CLASS_OF_CATEGORY]
        assert [b.translation for b in ours] == [tuple(b.translation) for b in expected[token]]
        assert [b.attribute for b in ours] == [b.attribute_name for b in expected[token]]
        assert [b.num_points for b in ours] == [b.num_pts for b in expected[token]]
        np.testing.assert_array_equal([b.velocity for b in ours], [b.velocity for b in expected[token]])


def test_a_split_is_cut_to_the_scenes_that_are_there(tmp_path: Path):
    pytest.importorskip("nuscenes")
    (tmp_path / "splits.json").write_text('{"mine": ["scene-a", "scene-b"]}')
    assert scenes_of_split(tmp_path, "mine", ["scene-b", "scene-c"]) == ["scene-b"]
    assert "scene-0916" in scenes_of_split(tmp_path, "val", ["scene-0916", "scene-0061"])
    with pytest.raises(GroundTruthError, match="split 'yours': unknown; expected one of mine, train"):
        scenes_of_split(tmp_path, "yours", ["scene-b"])
    with pytest.raises(GroundTruthError, match="none of its 2 scenes"):
        scenes_of_split(tmp_path, "mine", ["scene-c"])


@pytest.mark.nuscenes
def test_selections_that_do_not_exist_are_named(nuscenes_root: Path):
    devkit = load_devkit(nuscenes_root, "v1.0-mini")
    with pytest.raises(GroundTruthError, match="scene 'scene-nowhere'"):
        tokens_of_scenes(devkit, ["scene-nowhere"])
    with pytest.raises(GroundTruthError, match="split 'my_val'"):
        tokens_of_split(devkit, "my_val")
    with pytest.raises(GroundTruthError, match="sample 'x'"):
        truth_from_nuscenes(devkit, ["x"])
