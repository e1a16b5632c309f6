"""Radar and LiDAR files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crkd_core.data.errors import DataError
from crkd_core.data.radar_pcd import parse_radar_pcd, radar_pcd_bytes, read_lidar_bin, read_radar_pcd
from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE


def some_points(n: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = np.zeros(n, dtype=RADAR_DTYPE)
    for name in RADAR_DTYPE.names or ():
        points[name] = rng.integers(0, 100, n)
    return points


def test_written_points_are_read_back():
    np.testing.assert_array_equal(parse_radar_pcd(radar_pcd_bytes(some_points()), "x"), some_points())


def test_no_returns_are_written_as_a_nan_and_read_as_empty():
    content = radar_pcd_bytes(some_points(0))
    assert b"POINTS 1\n" in content
    assert len(parse_radar_pcd(content, "x")) == 0


def test_fields_are_found_by_name_whatever_their_order():
    dtype = np.dtype([("extra", "<f4"), *reversed([(n, RADAR_DTYPE[n]) for n in RADAR_DTYPE.names or ()])])
    points = np.zeros(3, dtype=dtype)
    for name in RADAR_DTYPE.names or ():
        points[name] = some_points(3)[name]
    kinds = {"f": "F", "i": "I"}
    header = [
        "FIELDS " + " ".join(dtype.names or ()),
        "SIZE " + " ".join(str(dtype[n].itemsize) for n in dtype.names or ()),
        "TYPE " + " ".join(kinds[dtype[n].kind] for n in dtype.names or ()),
        "COUNT " + " ".join("1" for _ in dtype.names or ()),
        "WIDTH 3",
        "DATA binary",
    ]
    content = ("\n".join(header) + "\n").encode() + points.tobytes()
    read = parse_radar_pcd(content, "x")
    assert read.dtype == RADAR_DTYPE
    np.testing.assert_array_equal(read, some_points(3))


def test_truncated_file_tells_bytes_expected_and_got(tmp_path: Path):
    path = tmp_path / "a.pcd"
    path.write_bytes(radar_pcd_bytes(some_points(5))[:-40])
    with pytest.raises(DataError, match=r"a\.pcd: truncated: expected 215 bytes for 5 points, got 176"):
        read_radar_pcd(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"vx_comp", b"vx_c", "field 'vx_comp' missing .found x, y, z"),
        (b"SIZE 4 4 4", b"SIZE 8 4 4", "field 'x': expected float32, got float64"),
        (b"TYPE F F F", b"TYPE Q F F", "unknown SIZE or TYPE"),
        (b"COUNT 1", b"COUNT 2", "COUNT"),
        (b"POINTS 5", b"POINTS x", "POINTS <number>"),
        (b"DATA binary", b"DATA ascii", "expected 'DATA binary', got 'DATA ascii'"),
        (b"DATA", b"DAT", "no DATA line"),
    ],
    ids=["field", "size", "type", "count", "points", "ascii", "header"],
)
def test_other_file_is_refused(old: bytes, new: bytes, message: str):
    with pytest.raises(DataError, match=message):
        parse_radar_pcd(radar_pcd_bytes(some_points(5)).replace(old, new, 1), "a.pcd")


def test_header_without_end_is_refused():
    with pytest.raises(DataError, match="truncated"):
        parse_radar_pcd(radar_pcd_bytes(some_points(5))[:100], "a.pcd")


def test_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"nope\.pcd: cannot be read: No such file"):
        read_radar_pcd(tmp_path / "nope.pcd")


def test_points_of_another_type_are_not_written():
    with pytest.raises(ValueError, match="RADAR_DTYPE"):
        radar_pcd_bytes(np.zeros(3, dtype=LIDAR_DTYPE))


def test_lidar_file(tmp_path: Path):
    path = tmp_path / "a.pcd.bin"
    path.write_bytes(np.arange(10, dtype="<f4").tobytes())
    points = read_lidar_bin(path)
    assert points.shape == (2,)
    assert points["intensity"].tolist() == [3, 8]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="multiple of 20 bytes, got 39"):
        read_lidar_bin(path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_lidar_file_that_is_empty_or_holds_no_numbers_is_refused(tmp_path: Path, number: float):
    path = tmp_path / "a.pcd.bin"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=rf"^{path}: empty; copy the file again$"):
        read_lidar_bin(path)
    values = np.arange(40, dtype="<f4")
    values[21] = number
    path.write_bytes(values.tobytes())
    with pytest.raises(DataError, match=rf"^{path}: damaged: coordinates or intensities that are no numbers"):
        read_lidar_bin(path)


def test_radar_coordinates_that_are_no_numbers_are_refused():
    points = some_points(5).copy()
    points["y"][3] = np.inf
    with pytest.raises(DataError, match=r"^a\.pcd: damaged: coordinates that are no numbers"):
        parse_radar_pcd(radar_pcd_bytes(points), "a.pcd")


@pytest.mark.nuscenes
def test_no_real_file_is_taken_for_damaged(nuscenes_root: Path):
    radar, lidar = (sorted(nuscenes_root.glob(f"samples/{name}/*.pcd*")) for name in ("RADAR_*", "LIDAR_TOP"))
    assert len(radar) >= 5 * len(lidar) > 0
    assert min(len(read_lidar_bin(path)) for path in lidar) > 20_000
    assert min(len(read_radar_pcd(path)) for path in radar) > 0


@pytest.mark.nuscenes
def test_real_file_is_read_as_the_devkit_reads_it(nuscenes_root: Path):
    data_classes = pytest.importorskip("nuscenes.utils.data_classes")
    for path in sorted((nuscenes_root / "samples" / "RADAR_FRONT").iterdir())[:3]:
        theirs = data_classes.RadarPointCloud.from_file(
            str(path), invalid_states=list(range(18)), dynprop_states=list(range(8)), ambig_states=list(range(5))
        ).points
        ours = read_radar_pcd(path)
        for row, name in enumerate(RADAR_DTYPE.names or ()):
            np.testing.assert_array_equal(ours[name], theirs[row])
        # What is written again is the file, byte by byte, but for what follows the points.
        written = radar_pcd_bytes(ours)
        assert path.read_bytes().startswith(written[:-1])
