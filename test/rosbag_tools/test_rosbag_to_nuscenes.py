"""The way back: what a bag of nuScenes data was made of, and own recordings as a data set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import recordings
from numpy.typing import NDArray

from crkd_core.data.frames import annotated_frame
from crkd_core.data.nuscenes import Annotation, NuScenesIndex, SensorRecord, load_index
from crkd_core.training.evaluation import evaluate
from crkd_core.training.ground_truth import load_devkit, truth_from_nuscenes
from crkd_ros.conversions import CameraModel, camera_info_message, image_message
from rosbag_tools.bag_drive import ToNuScenesError, WayBack
from rosbag_tools.bags import new_bag, open_bag
from rosbag_tools.nuscenes_to_rosbag import foxglove_names
from rosbag_tools.rosbag_to_nuscenes import convert, rosbag_to_nuscenes
from rosbag_tools.scene_bag import BagOptions, convert_scene
from rosbag_tools.typestore import bag_messages

VERSION = "v1.0-mini"


def there_and_back(
    root: Path, scene: str, tmp_path: Path, options: BagOptions | None = None
) -> tuple[NuScenesIndex, NuScenesIndex]:
    before = load_index(root, VERSION)
    convert_scene(before, scene, tmp_path / "bag", options)
    rosbag_to_nuscenes([tmp_path / "bag"], tmp_path / "back", version=VERSION)
    return before, load_index(tmp_path / "back", VERSION)


def assert_equal_indices(before: NuScenesIndex, after: NuScenesIndex, scene: str) -> None:
    """All that was present is back, poses to 1e-9, annotations to the last bit."""
    a, b = before.scene(scene), after.scene(scene)
    names = ("name", "token", "description", "location", "vehicle")
    assert [getattr(a, n) for n in names] == [getattr(b, n) for n in names]
    assert before.channels(a) == after.channels(b)
    for channel in before.channels(a):
        old = [r for r in before.records(a, channel) if r.present]
        new = [r for r in after.records(b, channel) if r.present]
        assert [facts(r, before) for r in old] == [facts(r, after) for r in new]
        for r, s in zip(old, new, strict=True):
            np.testing.assert_allclose(s.T_world_from_base, r.T_world_from_base, rtol=0, atol=1e-9)
            np.testing.assert_allclose(
                s.calibration.T_base_from_sensor, r.calibration.T_base_from_sensor, rtol=0, atol=1e-12
            )
            np.testing.assert_array_equal(intrinsics(s), intrinsics(r))
    assert [(s.token, s.stamp) for s in a.samples] == [(s.token, s.stamp) for s in b.samples]
    for s, t in zip(a.samples, b.samples, strict=True):
        assert list(map(known, before.annotations(s))) == list(map(known, after.annotations(t)))


def facts(record: SensorRecord, index: NuScenesIndex) -> tuple[Any, ...]:
    content = record.path.read_bytes() if record.modality != "radar" else b""
    path = record.path.relative_to(index.root)
    return record.channel, record.modality, record.stamp, path, record.is_key_frame, record.image_size, content


def intrinsics(record: SensorRecord) -> NDArray[np.float64]:
    found = record.calibration.intrinsics
    return np.zeros(0) if found is None else found


def known(annotation: Annotation) -> dict[str, Any]:
    return {k: None if v != v else v for k, v in vars(annotation).items()} | {  # noqa: PLR0124  # NaN
        "velocity": None if np.isnan(annotation.velocity).any() else annotation.velocity
    }


def assert_equal_scores(before: Path, after: Path, tokens: list[str]) -> None:
    """Answers that depend on the truth, moved a little, score alike against both."""
    truth, back = (truth_from_nuscenes(load_devkit(root, VERSION), tokens) for root in (before, after))
    results = {
        token: [
            {
                "sample_token": token,
                "translation": [b.translation[0] + 0.1 * (i % 20), b.translation[1], b.translation[2]],
                "size": list(b.size),
                "rotation": list(b.rotation),
                "velocity": [0.5, 0.0],
                "detection_name": "car",
                "detection_score": 1 / (1 + i),
                "attribute_name": "vehicle.moving",
            }
            for i, b in enumerate(sample.boxes)
            if b.category == "vehicle.car"
        ]
        for token, sample in truth.items()
    }
    a, b = evaluate(results, truth), evaluate(results, back)
    assert a.classes["car"].truths == b.classes["car"].truths > 0
    assert 0 < a.official.mAP == pytest.approx(b.official.mAP, abs=1e-6)
    assert pytest.approx(b.official.NDS, abs=1e-6) == a.official.NDS
    assert a.official.errors == pytest.approx(b.official.errors, abs=1e-6)


def test_tables_files_and_tokens_come_back(tiny: Path, tmp_path: Path) -> None:
    before, after = there_and_back(tiny, "scene-tiny", tmp_path)
    for name in ("category", "attribute", "visibility"):
        old, new = (json.loads((root / VERSION / f"{name}.json").read_text()) for root in (tiny, tmp_path / "back"))
        assert old == new
    # The tiny set's names carry no log; everything else is as it was.
    for channel in ("CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT"):
        old, new = (index.records(index.scenes[0], channel) for index in (before, after))
        assert [(r.stamp, r.is_key_frame, r.present) for r in old] == [
            (r.stamp, r.is_key_frame, r.present) for r in new
        ]
    for s, t in zip(before.samples, after.samples, strict=True):
        assert list(map(known, before.annotations(s))) == list(map(known, after.annotations(t)))
        a, b = annotated_frame(before, s), annotated_frame(after, t)
        assert a.frame.manifest.sensors == b.frame.manifest.sensors
        assert a.frame.cameras["CAM_FRONT"].image == b.frame.cameras["CAM_FRONT"].image
        np.testing.assert_array_equal(a.frame.radars["RADAR_FRONT"][0].points, b.frame.radars["RADAR_FRONT"][0].points)
        np.testing.assert_allclose(a.boxes.centers, b.boxes.centers, rtol=0, atol=1e-9)


def test_annotations_of_key_frames_without_data_are_not_lost(tiny: Path, tmp_path: Path) -> None:
    for path in tiny.glob("samples/*/*500*"):
        path.unlink()
    for path in [*tiny.glob("samples/*/*5*5000*"), *tiny.glob("samples/*/*517000*")]:
        path.unlink()
    before, after = there_and_back(tiny, "scene-tiny", tmp_path)
    velocities = [[a.velocity for a in index.annotations(index.samples[0])] for index in (before, after)]
    np.testing.assert_allclose(velocities[0], velocities[1])  # between both key frames, though one has no data
    assert [len(after.annotations(s)) for s in after.samples] == [2, 1]
    reference = after.key_record(after.samples[1], "LIDAR_TOP")
    assert reference is not None
    assert not reference.present


def test_synthetic_drive_comes_back_whole_and_scores_alike_whatever_its_topics_are_called(
    synth: Path, tmp_path: Path
) -> None:
    index = load_index(synth, VERSION)
    scene = index.scenes[0]
    names = foxglove_names({c: index.records(scene, c)[0].modality for c in index.channels(scene)})
    before, after = there_and_back(synth, "scene-0003", tmp_path, BagOptions(renamed=names))
    assert_equal_indices(before, after, "scene-0003")
    assert_equal_scores(synth, tmp_path / "back", [sample.token for sample in before.samples])


@pytest.mark.nuscenes
def test_real_key_frames_come_back_whole_and_score_alike(nuscenes_root: Path, tmp_path: Path) -> None:
    index = load_index(nuscenes_root, VERSION)
    complete = index.complete_samples()
    if not complete:
        pytest.skip("no key frame has all its files")
    scene = Counter(sample.scene for sample in complete).most_common(1)[0][0]
    before, after = there_and_back(nuscenes_root, scene, tmp_path)
    assert_equal_indices(before, after, scene)
    tokens = [sample.token for sample in complete if sample.scene == scene]
    assert_equal_scores(nuscenes_root, tmp_path / "back", tokens)


def test_own_recording_gets_key_frames_at_the_rate_asked_for(tmp_path: Path) -> None:
    bag = recordings.write_drive(tmp_path / "drive", without=["/annotations"])
    way = WayBack(reference="cam_front", rate=2.5, vehicle="mule", location="yard")
    [written] = rosbag_to_nuscenes([bag], tmp_path / "own", way, version=VERSION)
    assert (written.name, written.key_frames, written.annotations) == ("drive", 4, 0)
    index = load_index(tmp_path / "own", VERSION)
    samples = index.samples
    assert [(s.stamp - samples[0].stamp) // 1_000_000 for s in samples] == [0, 400, 800, 1200]
    assert (index.scenes[0].vehicle, index.scenes[0].location) == ("mule", "yard")
    assert len(index.complete_samples()) == 4
    frame = annotated_frame(index, samples[1]).frame
    np.testing.assert_allclose(frame.T_base_from_bev, recordings.T_BASE_FROM_LIDAR, atol=1e-12)
    np.testing.assert_allclose(
        frame.cameras["CAM_FRONT"].T_world_from_base, recordings.pose(samples[1].stamp), atol=1e-9
    )
    assert [s.stamp - samples[1].stamp for s in frame.radars["RADAR_FRONT"]][:2] == [7_000_000, -93_000_000]
    load_devkit(tmp_path / "own", VERSION)  # it finds every table and map


def test_rectified_images_are_made_of_raw_distorted_ones(tmp_path: Path) -> None:
    bag = recordings.write_drive(
        tmp_path / "drive", without=["/cam_front/image_raw/compressed", "/cam_front/camera_info"]
    )
    m, stamp = bag_messages(), recordings.START
    picture = np.full((180, 320, 3), 20, dtype=np.uint8)
    picture[:, 60:64] = (250, 10, 10)
    model = CameraModel(recordings.K, 320, 180, np.array([-0.3, 0.05, 0.0, 0.0, 0.0]))
    with open_bag(bag) as source, new_bag(tmp_path / "raw") as out:
        for topic in source.topics:
            out.copy_topic(source, topic)
        out.add_topic("/cam_front/image_raw", "sensor_msgs/msg/Image")
        out.add_topic("/cam_front/camera_info", "sensor_msgs/msg/CameraInfo")
        out.write("/cam_front/camera_info", stamp, camera_info_message(m, model, stamp=stamp, frame_id="cam_front"))
        image = image_message(m, picture, stamp=stamp, frame_id="cam_front", encoding="rgb8")
        out.write("/cam_front/image_raw", stamp, image)
        for topic, at, data in source.raw_messages():
            out.write_raw(topic, at, data)
    rosbag_to_nuscenes([tmp_path / "raw"], tmp_path / "own", WayBack(reference="cam_front"), version=VERSION)
    [path] = (tmp_path / "own" / "samples" / "CAM_FRONT").iterdir()
    image = cv2.imread(str(path))
    red = np.argmax(image[:, :, 2], axis=1)
    assert abs(int(red[90]) - 62) > 3  # the stripe moved outwards,
    assert int(red[5]) != int(red[90])  # and is bent: it was straight in the distorted image


def test_user_mistakes_are_told(tmp_path: Path) -> None:
    bag = recordings.write_drive(tmp_path / "drive", without=["/annotations"])
    (tmp_path / "there").mkdir()
    cases: list[tuple[list[str], str]] = [
        (["--out", str(tmp_path / "there")], "exists already"),
        (["--out", str(tmp_path / "o"), "--reference", "cam_back"], "no such sensor; expected one of CAM_FRONT"),
        (["--out", str(tmp_path / "o"), "--rate", "0"], "--rate: expected above 0"),
        (["--out", str(tmp_path / "o"), "--channel", "x"], "expected NAME=CHANNEL"),
    ]
    for arguments, complaint in cases:
        with pytest.raises(Exception, match=complaint):
            convert([str(bag), "--no-progress", *arguments])
    with pytest.raises(ToNuScenesError, match="one name for 2 bags"):
        rosbag_to_nuscenes([bag, bag], tmp_path / "o", WayBack(name="a"))
    with pytest.raises(Exception, match="expected different names, got drive, drive"):
        rosbag_to_nuscenes([bag, bag], tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert not list(tmp_path.glob(".*partial"))
