from pathlib import Path

import msgspec
import numpy as np
import pytest

from crkd_core.data.frames import annotated_frame
from crkd_core.data.nuscenes import load_index
from crkd_core.data.synthscenes.config import SynthConfig, camera_intrinsics
from crkd_core.data.synthscenes.frames import frame_at
from crkd_core.data.synthscenes.rigs import RigError, with_rig
from crkd_core.data.synthscenes.world import DriveKey, make_drive
from crkd_core.data.synthscenes.writer import write_nuscenes

_SHIPPED = Path(__file__).parents[4] / "config" / "rigs" / "shuttle.yaml"


def _written(tmp_path: Path, old: str, new: str) -> Path:
    """The shipped rig with one piece of text replaced."""
    text = _SHIPPED.read_text()
    assert old in text
    path = tmp_path / "rig.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_shipped_rig_gives_its_sensors_at_their_places():
    config = with_rig(SynthConfig(image_width=160), _SHIPPED)
    drive = make_drive(9002, config, duration_s=1.0)
    frame = frame_at(drive, drive.start_ns + 500_000_000, sweeps=2).frame
    assert list(frame.cameras) == ["CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT"]
    assert list(frame.radars) == ["RADAR_FRONT", "RADAR_BACK"]
    left = frame.cameras["CAM_FRONT_LEFT"]
    assert left.image.shape == (90, 160, 3)
    np.testing.assert_allclose(left.T_base_from_cam[:3, 3], [1.7, 0.6, 1.35])
    np.testing.assert_allclose(left.T_base_from_cam[:2, 2], [np.cos(np.deg2rad(80)), np.sin(np.deg2rad(80))])
    assert left.intrinsics[0, 0] == pytest.approx(560 / 8)
    assert {c.stamp for c in frame.cameras.values()} == {frame.stamp}  # all fire together


def test_intrinsics_scale_with_the_sensor_of_the_rig():
    camera = with_rig(SynthConfig(), _SHIPPED).cameras[0]
    assert camera_intrinsics(camera, camera.sensor)[0, 0] == pytest.approx(camera.focal)
    np.testing.assert_allclose(camera_intrinsics(camera, camera.sensor)[:2, 2], camera.principal)


def test_a_data_set_of_the_rig_is_indexed_with_all_its_sensors(tmp_path: Path):
    config = with_rig(SynthConfig(image_width=96, lidar_columns=90), _SHIPPED)
    root = tmp_path / "set"
    write_nuscenes(root, [DriveKey(9002, config, duration_s=1.0)], progress=False)
    index = load_index(root, "v1.0-mini", cache=tmp_path / "cache")
    expected = {c.name for c in config.cameras} | {r.name for r in config.radars} | {"LIDAR_TOP"}
    assert set(index.channels(index.scene("scene-9002"))) == expected
    assert len(index.complete_samples()) == 2


@pytest.mark.parametrize("kind", ["cameras", "radars"])
def test_a_rig_of_one_kind_of_sensor_is_simulated_written_and_indexed(tmp_path: Path, kind: str):
    both = with_rig(SynthConfig(image_width=96, lidar_columns=90), _SHIPPED)
    config = msgspec.structs.replace(both, **{"radars" if kind == "cameras" else "cameras": ()})
    key = DriveKey(9002, config, duration_s=1.0)
    drive = make_drive(*key)
    frame = frame_at(drive, drive.start_ns, sweeps=2)
    names = {mount.name for mount in getattr(config, kind)}
    assert {*frame.frame.cameras, *frame.frame.radars} == names
    assert frame.num_points.max() > 20  # of the LiDAR
    write_nuscenes(tmp_path / "set", [key], progress=False)
    index = load_index(tmp_path / "set", "v1.0-mini")
    assert set(index.channels(index.scene("scene-9002"))) == names | {"LIDAR_TOP"}
    assert len(index.complete_samples()) == 2
    (sample, _) = index.complete_samples()
    read = annotated_frame(index, sample)
    np.testing.assert_array_equal(read.num_points, frame.num_points)
    assert {*read.frame.cameras, *read.frame.radars} == names


def test_another_rig_is_another_configuration():
    config = SynthConfig()
    assert with_rig(config, _SHIPPED).config_hash() != config.config_hash()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: CAM_FRONT\n", "name: front\n", "expected a name such as CAM_FRONT, got 'front'"),
        ("CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "expected different names"),
        ("focal: 700.0", "focal: -1.0", "CAM_FRONT: expected a focal length > 0"),
        ("principal: [639.5, 380.0]", "principal: [1639.5, 380.0]", "principal point inside"),
        ("sensor: [1280, 720]", "sensor: [1280, 1024]", "expected the aspect ratio of CAM_FRONT"),
        ("camera_hz: 12", "camera_hz: 15", "camera_hz, a multiple of 2"),
        ("yaw_deg: 0.0", "yaw: 0.0", "yaw"),
        ("focal: 700.0", "focal: wide", "Expected `float`, got `str`"),
        ("length: 2.9", "length: 0.0", "vehicle: expected length and width > 0"),
        ("cameras:", "cameras: [", "see config/rigs/"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str):
    path = _written(tmp_path, old, new)
    with pytest.raises(RigError, match=r"rig .*rig\.yaml") as error:
        with_rig(SynthConfig(), path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(RigError, match=r"none\.yaml: cannot be read"):
        with_rig(SynthConfig(), tmp_path / "none.yaml")
