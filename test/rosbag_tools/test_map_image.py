"""The map around a drive, out of masks too large to decode."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from crkd_core.data.errors import DataError
from rosbag_tools.map_image import MARGIN, PIXEL, STEP, MapCrop, crop_of, map_crops, map_message, mask_png

SIZE = (3000, 2600)  # width, height: 300 m x 260 m


def mask(path: Path) -> NDArray[np.uint8]:
    """A road along x at y = 100..110 m, and one along y at x = 50..58 m."""
    picture = np.zeros(SIZE[::-1], dtype=np.uint8)
    picture[SIZE[1] - 1100 : SIZE[1] - 1000] = 255
    picture[:, 500:580] = 255
    cv2.imwrite(str(path), picture)
    return picture


def cell(crop: MapCrop, x: float, y: float) -> int:
    step = PIXEL * STEP
    return int(crop.cells[int((y - crop.origin[1]) / step), int((x - crop.origin[0]) / step)])


def test_cells_lie_where_the_map_has_them(tmp_path: Path) -> None:
    mask(tmp_path / "map.png")
    drive = np.array([[100.0, 105.0], [160.0, 106.0]])
    crop = map_crops(tmp_path / "map.png", {"a": drive})["a"]
    assert crop.origin == pytest.approx((100 - MARGIN, 105 - MARGIN), abs=0.2)
    assert crop.cells.shape == pytest.approx((2 * MARGIN / 0.2 + 5, (60 + 2 * MARGIN) / 0.2), abs=2)
    expected = {(120, 105): 0, (120, 99): 100, (120, 111): 100, (54, 60): 0, (49, 60): 100, (59, 60): 100}
    assert {place: cell(crop, *place) for place in expected} == expected


def test_one_pass_serves_all_drives_and_ends_at_the_border(tmp_path: Path) -> None:
    picture = mask(tmp_path / "map.png")
    drives = {"corner": np.array([[1.0, 1.0]]), "far": np.array([[299.0, 259.0]]), "beyond": np.array([[900.0, 900.0]])}
    crops = map_crops(tmp_path / "map.png", drives)
    assert set(crops) == {"corner", "far"}
    whole = np.where(picture[::-1] > 127, 0, 100)
    width, height = 760, 760  # pixels: 76 m from the corner
    np.testing.assert_array_equal(crops["corner"].cells, whole[:height:STEP, :width:STEP])
    assert crops["far"].origin == pytest.approx((299 - MARGIN, 259 - MARGIN), abs=0.2)


def test_message_and_mask_come_back(tmp_path: Path) -> None:
    mask(tmp_path / "map.png")
    drive = np.array([[100.0, 105.0]])
    crop = map_crops(tmp_path / "map.png", {"a": drive})["a"]
    message = map_message(crop, 7)
    assert (message.header.frame_id, message.info.resolution) == ("map", 0.2)
    back = crop_of(message)
    (tmp_path / "back.png").write_bytes(mask_png(back))
    again = map_crops(tmp_path / "back.png", {"a": drive})["a"]
    assert again.origin == pytest.approx(crop.origin, abs=0.11)
    for place in ((120, 105), (120, 97), (54, 60), (45, 60)):
        assert cell(again, *place) == cell(crop, *place)
    assert cv2.imdecode(np.frombuffer(mask_png(None), np.uint8), cv2.IMREAD_UNCHANGED).shape == (1, 1)


def test_unusable_masks_are_told(tmp_path: Path) -> None:
    path, drive = tmp_path / "map.png", {"a": np.array([[100.0, 105.0]])}
    mask(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match=r"truncated|damaged"):
        map_crops(path, drive)
    Image.new("RGB", SIZE).save(path)
    with pytest.raises(DataError, match="expected an 8-bit grey PNG"):
        map_crops(path, drive)
    rng = np.random.default_rng(0)
    Image.fromarray(np.cumsum(rng.integers(0, 3, (50, 80)), axis=0).astype(np.uint8)).save(path)
    with pytest.raises(DataError, match=r"filter \d cannot be read in strips"):
        map_crops(path, {"a": np.array([[1.0, 1.0]])})
