"""The index of a nuScenes-format data set."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crkd_core.data.errors import DataError
from crkd_core.data.nuscenes import load_index
from crkd_core.data.nuscenes_cache import mapped_arrays
from crkd_core.data.nuscenes_dummy import CHANNELS, VERSION, write_dummy_set
from crkd_core.data.nuscenes_tables import SampleDataRow, read_table
from crkd_core.types import DETECTION_CLASSES

KEY_PERIOD_NS = 500_000_000


class TestContent:
    def test_samples_are_in_time_order_within_their_scene(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        assert [s.name for s in index.scenes] == ["scene-0001", "scene-0002"]
        assert [s.token for s in index.samples] == ["scene-0001-0", "scene-0001-1", "scene-0001-2", "scene-0002-0"]
        assert index.scene("scene-0001").location == "nowhere"
        assert index.sample("scene-0002-0").scene == "scene-0002"

    def test_recent_records_are_the_key_frame_and_those_before_it(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        sample = index.sample("scene-0001-1")
        records = index.recent_records(sample, "RADAR_FRONT", 4)
        age_ms = [(sample.stamp - r.stamp) // 1_000_000 for r in records]
        assert age_ms == [0, 50, 125, 200]
        assert [r.is_key_frame for r in records] == [True, False, False, False]
        key = index.key_record(sample, "RADAR_FRONT")
        assert key is not None
        assert key.path == records[0].path

    def test_recent_records_end_at_the_start_of_the_scene(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        assert len(index.recent_records(index.sample("scene-0001-0"), "RADAR_FRONT", 6)) == 1
        assert len(index.recent_records(index.sample("scene-0002-0"), "RADAR_FRONT", 6)) == 1

    def test_record_has_calibration_and_the_pose_at_its_own_stamp(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        record = index.recent_records(index.sample("scene-0001-1"), "RADAR_FRONT", 2)[1]
        np.testing.assert_allclose(record.T_world_from_base[:3, 3], [104.5, 50, 0])
        np.testing.assert_allclose(record.calibration.T_base_from_sensor[:3, 3], [1, 0, 1.5])
        assert record.calibration.intrinsics is None
        camera = index.key_record(index.samples[0], "CAM_FRONT")
        assert camera is not None
        assert camera.calibration.intrinsics is not None
        assert camera.calibration.intrinsics[0].tolist() == [100, 0, 80]
        assert camera.image_size == (160, 90)

    def test_all_records_of_a_sensor(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        stamps = [r.stamp for r in index.records(index.scene("scene-0001"), "LIDAR_TOP")]
        assert len(stamps) == 21
        assert stamps == sorted(stamps)
        with pytest.raises(DataError, match="no sensor 'LIDAR'; expected one of CAM_FRONT, LIDAR_TOP, RADAR_FRONT"):
            index.records(index.scene("scene-0001"), "LIDAR")

    def test_annotations_of_every_category_with_class_and_attributes(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        car, animal, cone = index.annotations(index.samples[0])
        assert [a.label for a in (car, animal, cone)] == [0, None, 9]
        assert (car.category, car.attributes, car.visibility) == ("vehicle.car", ("vehicle.parked",), "v80-100")
        assert (car.num_lidar_pts, car.num_radar_pts, car.instance) == (5, 2, "object-vehicle.car")
        assert [len(index.annotations(s)) for s in index.samples] == [3, 1, 1, 0]

    def test_velocity_is_central_one_sided_or_unknown(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        velocities = [index.annotations(s)[0].velocity for s in index.samples[:3]]
        np.testing.assert_allclose(velocities, [[2, 0, 0]] * 3, atol=1e-5)
        assert np.isnan(index.annotations(index.samples[0])[2].velocity).all()

    @pytest.mark.parametrize(("gap_s", "known"), [(2.9, [False, True, False]), (3.1, [False, False, False])])
    def test_velocity_over_a_long_gap_is_unknown(self, tiny_set: Any, gap_s: float, known: list[bool]):
        for row in tiny_set.tables["sample"]:
            if row["token"].startswith("scene-0001"):
                row["timestamp"] = 10**15 + int(int(row["token"][-1]) * gap_s * 5e5)
        tiny_set.write("sample")
        index = load_index(tiny_set.root, tiny_set.version)
        found = [bool(np.isfinite(index.annotations(s)[0].velocity).all()) for s in index.samples[:3]]
        # One-sided differences span half the gap, 1.45 s or 1.55 s.
        assert found == ([True, True, True] if gap_s < 3 else known)

    def test_data_set_without_annotations(self, tiny_set: Any):
        for table in ("sample_annotation", "instance"):
            tiny_set.tables[table] = []
            tiny_set.write(table)
        index = load_index(tiny_set.root, tiny_set.version)
        assert [index.annotations(s) for s in index.samples] == [[], [], [], []]

    def test_scene_without_samples(self, tiny_set: Any):
        tiny_set.tables["scene"].append({"token": "z", "name": "scene-0003", "description": "", "log_token": "?"})
        tiny_set.write("scene")
        index = load_index(tiny_set.root, tiny_set.version)
        assert index.scene("scene-0003").samples == ()
        assert len(index.samples) == 4


class TestTablesInParts:
    """Tables are read some rows at a time; here a few at a time."""

    @pytest.fixture(autouse=True)
    def _small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("crkd_core.data.nuscenes_tables._PART_BYTES", 700)

    def test_index_is_the_same(self, tiny_set: Any, monkeypatch: pytest.MonkeyPatch):
        assert len(list(read_table(tiny_set.root / tiny_set.version, "sample_data", SampleDataRow))) > 20
        in_parts = load_index(tiny_set.root, tiny_set.version)
        monkeypatch.undo()
        whole = load_index(tiny_set.root, tiny_set.version)
        for a, b in zip(in_parts.samples, whole.samples, strict=True):
            assert repr(in_parts.annotations(a)) == repr(whole.annotations(b))
            assert repr(in_parts.recent_records(a, "RADAR_FRONT", 9)) == repr(whole.recent_records(b, "RADAR_FRONT", 9))

    @pytest.mark.parametrize("text", ["half }, { half", "half },", "{ half"])
    def test_text_that_looks_like_the_border_of_two_rows(self, tiny_set: Any, text: str):
        for i in range(40):
            row = {"token": f"s{i}", "name": f"scene-1{i:03d}", "description": text, "log_token": "log"}
            tiny_set.tables["scene"].append(row)
        tiny_set.write("scene")
        index = load_index(tiny_set.root, tiny_set.version)
        assert [s.description for s in index.scenes] == ["", ""] + [text] * 40

    def test_damage_late_in_a_table_is_named_with_its_line(self, tiny_set: Any):
        path = tiny_set.root / tiny_set.version / "sample_data.json"
        lines = path.read_text().splitlines()
        lines[200] = "  !"
        path.write_text("\n".join(lines))
        with pytest.raises(DataError, match=r"sample_data\.json, line 201: .*malformed"):
            load_index(tiny_set.root, tiny_set.version)


class TestFileNames:
    @pytest.mark.parametrize(
        "name",
        ["a.pcd", "{stamp}", "{stamp}.pcd", "x{stamp}", "{stamp}/{stamp}_{stamp}.pcd", "ü {stamp}.pcd"],
    )
    def test_any_name_is_kept(self, tiny_set: Any, name: str):
        row = next(r for r in tiny_set.tables["sample_data"] if r["is_key_frame"] and "RADAR" in r["filename"])
        row["filename"] = name.format(stamp=row["timestamp"])
        tiny_set.write("sample_data")
        sample = row["sample_token"]
        index = load_index(tiny_set.root, tiny_set.version)
        record = index.key_record(index.sample(sample), "RADAR_FRONT")
        assert record is not None
        assert record.path == tiny_set.root / row["filename"]
        assert not record.present
        record.path.parent.mkdir(exist_ok=True)
        record.path.write_text("")
        index = load_index(tiny_set.root, tiny_set.version)
        record = index.key_record(index.sample(sample), "RADAR_FRONT")
        assert record is not None
        assert record.present


class TestHalfDownloaded:
    def test_everything_there_is_complete(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        assert len(index.complete_samples()) == 4
        assert "complete key frames: 4 of 4" in index.report()

    def test_absent_files_are_counted_by_channel_and_leave_the_rest(self, tiny_set: Any):
        tiny_set.files("CAM_FRONT", key=True)[1].unlink()
        for file in tiny_set.files("RADAR_FRONT", key=False):
            file.unlink()
        index = load_index(tiny_set.root, tiny_set.version)
        complete = [s.token for s in index.complete_samples()]
        assert complete == ["scene-0001-0", "scene-0001-2", "scene-0002-0"]
        assert len(index.complete_samples(["RADAR_FRONT", "LIDAR_TOP"])) == 4
        assert index.file_counts() == {
            "CAM_FRONT": (3, 4, 8, 8),
            "LIDAR_TOP": (4, 4, 18, 18),
            "RADAR_FRONT": (4, 4, 0, 13),
        }
        assert "scene-0001: 2 of 3" in index.report()
        assert "scene-0002" not in index.report()

    def test_record_says_whether_its_file_is_there(self, tiny_set: Any):
        tiny_set.files("RADAR_FRONT", key=False)[0].unlink()
        index = load_index(tiny_set.root, tiny_set.version)
        present = [r.present for r in index.records(index.scenes[0], "RADAR_FRONT")]
        assert present == [True, False] + [True] * (len(present) - 2)

    def test_scenes_of_vehicles_with_other_sensors_are_complete_with_their_own(self, tiny_set: Any):
        tiny_set.tables["sensor"].append({"token": "back", "channel": "CAM_BACK", "modality": "camera"})
        front = next(row for row in tiny_set.tables["calibrated_sensor"] if row["token"].endswith("CAM_FRONT"))
        tiny_set.tables["calibrated_sensor"].append({**front, "token": "back", "sensor_token": "back"})
        for row in tiny_set.tables["sample_data"]:
            if "CAM_FRONT" in row["filename"] and row["sample_token"].startswith("scene-0002"):
                row |= {"calibrated_sensor_token": "back"}
        for table in ("sensor", "calibrated_sensor", "sample_data"):
            tiny_set.write(table)
        index = load_index(tiny_set.root, tiny_set.version)
        assert index.channels(index.scenes[1]) == ("CAM_BACK", "LIDAR_TOP", "RADAR_FRONT")
        assert len(index.complete_samples(["CAM_BACK", "CAM_FRONT", "RADAR_FRONT"])) == 4
        # But a scene without any of the cameras asked for is not complete.
        assert [s.scene for s in index.complete_samples(["CAM_BACK", "RADAR_FRONT"])] == ["scene-0002"]
        assert index.key_frames(index.samples, "CAM_BACK") == (1, 1)

    def test_no_measurements_at_all(self, tiny_set: Any, tmp_path: Path):
        (tmp_path / "empty").mkdir()
        (tiny_set.root / tiny_set.version).rename(tmp_path / "empty" / tiny_set.version)
        assert load_index(tmp_path / "empty", tiny_set.version).complete_samples() == []


class TestMistakes:
    def test_missing_root(self, tmp_path: Path):
        with pytest.raises(DataError, match="nope: no such folder"):
            load_index(tmp_path / "nope", "v1.0-mini")

    def test_missing_version_names_those_there(self, tiny_set: Any):
        with pytest.raises(DataError, match=r"no version 'v1\.0-mini'; found v1\.0-tiny"):
            load_index(tiny_set.root, "v1.0-mini")

    def test_root_of_something_else(self, tmp_path: Path):
        with pytest.raises(DataError, match="holds no nuScenes tables"):
            load_index(tmp_path, "v1.0-mini")

    def test_missing_tables_are_named(self, tiny_set: Any):
        for name in ("sample_data", "sensor"):
            (tiny_set.root / tiny_set.version / f"{name}.json").unlink()
        with pytest.raises(DataError, match=r"table missing: sample_data\.json, sensor\.json"):
            load_index(tiny_set.root, tiny_set.version)

    def test_truncated_table_is_named_with_its_line(self, tiny_set: Any):
        path = tiny_set.root / tiny_set.version / "sample_annotation.json"
        content = path.read_text().splitlines(keepends=True)
        path.write_text("".join(content[:60]))
        with pytest.raises(DataError, match=r"sample_annotation\.json, line 6[01]: .*truncated"):
            load_index(tiny_set.root, tiny_set.version)

    def test_malformed_table_is_named_with_its_line(self, tiny_set: Any):
        path = tiny_set.root / tiny_set.version / "sample.json"
        lines = path.read_text().splitlines()
        lines[7] = "  !"
        path.write_text("\n".join(lines))
        with pytest.raises(DataError, match=r"sample\.json, line 8: .*malformed"):
            load_index(tiny_set.root, tiny_set.version)

    def test_row_without_a_field_is_named(self, tiny_set: Any):
        del tiny_set.tables["ego_pose"][2]["rotation"]
        tiny_set.write("ego_pose")
        with pytest.raises(DataError, match=r"ego_pose\.json: .*required field `rotation` - at `\$\[2\]`"):
            load_index(tiny_set.root, tiny_set.version)

    @pytest.mark.parametrize(
        ("table", "field"),
        [
            ("sample", "scene_token"),
            ("sample_data", "sample_token"),
            ("sample_data", "ego_pose_token"),
            ("sample_data", "calibrated_sensor_token"),
            ("sample_annotation", "instance_token"),
            ("sample_annotation", "next"),
        ],
    )
    def test_dangling_reference_is_named(self, tiny_set: Any, table: str, field: str):
        tiny_set.tables[table][0][field] = "lost"
        tiny_set.write(table)
        with pytest.raises(DataError, match=rf"{table}\.json: {field} 'lost' is not in "):
            load_index(tiny_set.root, tiny_set.version)

    def test_unknown_scene_lists_the_known_ones(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        with pytest.raises(DataError, match="no scene 'scene-9'; expected one of scene-0001, scene-0002"):
            index.scene("scene-9")

    def test_unknown_sample(self, tiny_set: Any):
        index = load_index(tiny_set.root, tiny_set.version)
        with pytest.raises(DataError, match="no sample 'x'; expected one of scene-0001-0, scene-0001-1"):
            index.sample("x")

    def test_unknown_sample_of_many_names_those_most_alike(self, tmp_path: Path):
        write_dummy_set(tmp_path / "dummy", scenes=1, files=False)
        index = load_index(tmp_path / "dummy", VERSION)
        right = index.samples[7].token
        wrong = right[:-1] + "x"
        with pytest.raises(DataError, match=rf"no sample '{wrong}'; expected one of {right}, .* \(40 in"):
            index.sample(wrong)


class TestCache:
    def test_cached_index_is_the_same(self, tiny_set: Any, tmp_path: Path):
        fresh = load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "sub" / "index.npz")
        cached = load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "sub" / "index.npz")
        assert cached.report() == fresh.report()
        for a, b in zip(fresh.samples, cached.samples, strict=True):
            # As text: an unknown velocity is NaN, which equals nothing.
            assert repr(fresh.annotations(a)) == repr(cached.annotations(b))
            assert repr(fresh.recent_records(a, "RADAR_FRONT", 3)) == repr(cached.recent_records(b, "RADAR_FRONT", 3))
        assert sorted(p.name for p in (tmp_path / "sub").iterdir()) == ["index.files.npz", "index.npz"]

    def test_tables_are_not_read_again(self, tiny_set: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        monkeypatch.setattr("crkd_core.data.nuscenes.build_content", None)
        assert len(load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz").samples) == 4

    def test_files_are_looked_for_again(self, tiny_set: Any, tmp_path: Path):
        load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        tiny_set.files("LIDAR_TOP", key=True)[0].unlink()
        assert len(load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz").complete_samples()) == 3

    def test_folders_are_listed_again_only_when_they_have_changed(
        self, tiny_set: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        # Folders that have changed just now may change again unseen; these changed a minute ago.
        folders = [p for part in ("samples", "sweeps") for p in (tiny_set.root / part).iterdir()]
        for folder in folders:
            os.utime(folder, (time.time() - 60, time.time() - 60))
        load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        listed = []
        monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or [])
        assert len(load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz").complete_samples()) == 4
        assert listed == []
        tiny_set.files("LIDAR_TOP", key=False)[0].unlink()
        load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        assert listed == [os.fsencode(tiny_set.root / "sweeps" / "LIDAR_TOP")]

    def test_arrays_are_mapped_from_the_file(self, tiny_set: Any, tmp_path: Path):
        load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        with np.load(tmp_path / "index.npz") as theirs:
            ours = mapped_arrays(tmp_path / "index.npz")
            assert set(ours) == set(theirs)
            for name, array in ours.items():
                assert array.dtype == theirs[name].dtype
                assert array.tobytes() == theirs[name].tobytes()
                assert not array.flags.owndata

    def test_changed_table_rebuilds_and_says_so(self, tiny_set: Any, tmp_path: Path):
        assert load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz").rebuilt == ""
        load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        tiny_set.tables["scene"][0]["name"] = "scene-1001"
        tiny_set.write("scene")
        index = load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        assert index.scenes[0].name == "scene-1001"
        assert index.rebuilt == "the tables have changed since"
        assert load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz").rebuilt == ""

    @pytest.mark.parametrize("content", [b"", b"not msgpack", b"\x93\x01\x90"], ids=["empty", "other", "short"])
    def test_damaged_cache_rebuilds_and_says_so(self, tiny_set: Any, tmp_path: Path, content: bytes):
        (tmp_path / "index.npz").write_bytes(content)
        index = load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        assert len(index.samples) == 4
        assert index.rebuilt.startswith(f"{tmp_path / 'index.npz'} is damaged (")
        assert (tmp_path / "index.npz").read_bytes() != content

    def test_truncated_cache_rebuilds(self, tiny_set: Any, tmp_path: Path):
        load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz")
        content = (tmp_path / "index.npz").read_bytes()
        (tmp_path / "index.npz").write_bytes(content[: len(content) // 2])
        assert len(load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "index.npz").samples) == 4

    def test_place_that_cannot_be_written_is_only_a_warning(
        self, tiny_set: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        (tmp_path / "file").write_text("")
        index = load_index(tiny_set.root, tiny_set.version, cache=tmp_path / "file" / "index.npz")
        assert len(index.samples) == 4
        assert "index not cached" in caplog.text


class TestDummySet:
    """What the index is measured on."""

    def test_it_is_a_whole_data_set(self, tmp_path: Path):
        write_dummy_set(tmp_path / "dummy", scenes=2)
        index = load_index(tmp_path / "dummy", VERSION)
        assert len(index.samples) == len(index.complete_samples()) == 80
        records = sum(len(index.records(scene, channel)) for scene in index.scenes for channel in CHANNELS)
        # Trainval has 3,095 records and 1,372 annotations a scene.
        assert records / 2 == pytest.approx(3095, rel=0.01)
        annotations = [a for sample in index.samples for a in index.annotations(sample)]
        assert len(annotations) / 2 == pytest.approx(1372, rel=0.01)
        np.testing.assert_allclose([a.velocity for a in annotations], [[2, 0, 0]] * len(annotations), atol=0.01)

    def test_without_files_nothing_is_complete(self, tmp_path: Path):
        write_dummy_set(tmp_path / "dummy", scenes=1, files=False)
        assert load_index(tmp_path / "dummy", VERSION).complete_samples() == []


@pytest.mark.nuscenes
class TestRealData:
    def test_complete_key_frames_are_those_whose_files_exist(self, nuscenes_root: Path, nuscenes_version: str):
        index = load_index(nuscenes_root, nuscenes_version)
        folder = nuscenes_root / nuscenes_version
        tables = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("sample", "sample_data")}
        absent = {
            r["sample_token"]
            for r in tables["sample_data"]
            if r["is_key_frame"] and not (nuscenes_root / r["filename"]).is_file()
        }
        complete = {s.token for s in index.complete_samples()}
        assert complete == {s["token"] for s in tables["sample"]} - absent
        listing = nuscenes_root / "keyframes_present.json"
        if listing.is_file():
            assert complete == {token for tokens in json.loads(listing.read_text()).values() for token in tokens}
        present = sum((nuscenes_root / r["filename"]).is_file() for r in tables["sample_data"] if r["is_key_frame"])
        assert sum(c[0] for c in index.file_counts().values()) == present

    def test_records_and_annotations_are_the_devkits(self, nuscenes_root: Path, nuscenes_version: str):
        devkit = pytest.importorskip("nuscenes.nuscenes")
        nuscenes = devkit.NuScenes(nuscenes_version, str(nuscenes_root), verbose=False)
        to_class = pytest.importorskip("nuscenes.eval.detection.utils").category_to_detection_name
        index = load_index(nuscenes_root, nuscenes_version)
        for sample in (index.samples[0], *index.complete_samples()[3::5]):
            row = nuscenes.get("sample", sample.token)
            assert sample.stamp == row["timestamp"] * 1000
            for channel, key_token in row["data"].items():
                token = key_token
                records = index.recent_records(sample, channel, 8)
                for record in records:
                    theirs = nuscenes.get("sample_data", token)
                    assert str(record.path) == nuscenes.get_sample_data_path(theirs["token"])
                    assert record.stamp == theirs["timestamp"] * 1000
                    pose = nuscenes.get("ego_pose", theirs["ego_pose_token"])
                    np.testing.assert_array_equal(record.T_world_from_base[:3, 3], pose["translation"])
                    token = theirs["prev"]
                assert len(records) == 8 or token == ""
            ours = {a.token: a for a in index.annotations(sample)}
            assert set(ours) == set(row["anns"])
            for token in row["anns"]:
                theirs = nuscenes.get("sample_annotation", token)
                label = ours[token].label
                name = None if label is None else DETECTION_CLASSES[label]
                assert name == to_class(theirs["category_name"])
                assert list(ours[token].size_wlh) == theirs["size"]
                np.testing.assert_allclose(ours[token].velocity, nuscenes.box_velocity(token), atol=1e-9)
                attributes = [nuscenes.get("attribute", t)["name"] for t in theirs["attribute_tokens"]]
                assert sorted(ours[token].attributes) == sorted(attributes)
