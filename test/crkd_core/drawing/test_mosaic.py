"""The cameras of a rig beside each other."""

import numpy as np
import pytest

from crkd_core.drawing.mosaic import FRONT_CAMERAS, REAR_CAMERAS, draw_mosaic
from crkd_core.drawing.style import CLASS_COLORS, PANEL
from crkd_core.geometry.transforms import transform
from crkd_core.types import Boxes3D, CameraImage, Detections, SensorFrame

K = np.array([[160.0, 0.0, 160.0], [0.0, 160.0, 90.0], [0.0, 0.0, 1.0]])
T_BASE_FROM_CAM = transform(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), (0.0, 0.0, 1.5))
NOTHING = Detections(Boxes3D.empty(), np.zeros(0), np.zeros(0, dtype=np.int64), "base_link", 0)


def frame(names: tuple[str, ...], image: object = None) -> SensorFrame:
    """The i-th camera's picture is of grey 100 + 10 i."""
    greys = (np.full((180, 320, 3), 100 + 10 * i, dtype=np.uint8) for i in range(len(names)))
    cameras = {
        name: CameraImage(grey if image is None else image, K, T_BASE_FROM_CAM, np.eye(4), 0)
        for name, grey in zip(names, greys, strict=True)
    }
    return SensorFrame(cameras, {}, 0, np.eye(4), np.eye(4))


@pytest.mark.parametrize(
    ("count", "shape", "columns"), [(1, (360, 640), 1), (3, (120, 640), 3), (4, (360, 640), 2), (5, (240, 640), 3)]
)
def test_cameras_are_side_by_side_in_one_row_or_two(count: int, shape: tuple[int, int], columns: int):
    names = tuple(f"EYE_{i}" for i in range(count))
    mosaic = draw_mosaic(frame(names), NOTHING, names, width=640)
    assert mosaic.shape == (*shape, 3)
    wide, high = 640 / columns, 640 / columns * 9 / 16
    places = [(int(high * (i // columns + 0.5)), int(wide * (i % columns + 0.5))) for i in range(count)]
    assert [int(mosaic[place][0]) for place in places] == [100 + 10 * i for i in range(count)]


def test_cameras_of_nuscenes_are_where_they_look_whatever_their_order():
    names = (*FRONT_CAMERAS, *REAR_CAMERAS)
    mosaic = draw_mosaic(frame(names), NOTHING, names[::-1], width=960)
    assert [int(mosaic[y, x, 0]) for y in (90, 270) for x in (160, 480, 800)] == [100, 110, 120, 130, 140, 150]


def test_boxes_are_drawn_and_missing_or_damaged_images_leave_their_place_empty():
    car = Detections(
        Boxes3D(np.array([[12.0, 0.0, 1.0]]), np.array([[4.0, 2.0, 1.5]]), np.zeros(1), np.zeros((1, 2))),
        np.array([0.9]),
        np.array([0]),
        "base_link",
        0,
    )
    mosaic = draw_mosaic(frame(("LEFT",)), car, ("LEFT", "RIGHT"), width=640)
    near = (np.abs(mosaic.astype(int) - CLASS_COLORS["car"]).max(axis=2) < 20).sum(axis=0)
    assert near[:320].sum() > 50
    assert near[320:].sum() == 0
    assert mosaic[20, 600].tolist() == list(PANEL)
    damaged = draw_mosaic(frame(("LEFT",), b"\xff\xd8\xff nothing"), car, ("LEFT",), width=320)
    assert damaged[20, 300].tolist() == list(PANEL)
