from dataclasses import replace

import numpy as np
import pytest

from crkd_core.drawing.mosaic import FRONT_CAMERAS, REAR_CAMERAS
from crkd_core.drawing.sheet import Caption, SheetOptions, draw_sheet
from crkd_core.geometry.transforms import transform
from crkd_core.types import Boxes3D, CameraImage, Detections, SensorFrame

K = np.array([[160.0, 0.0, 160.0], [0.0, 160.0, 90.0], [0.0, 0.0, 1.0]])
T_BASE_FROM_CAM = transform(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), (0.0, 0.0, 1.5))
CAMERAS = (*FRONT_CAMERAS, *REAR_CAMERAS)
OPTIONS = SheetOptions(width=960)


def frame(names: tuple[str, ...] = CAMERAS, **images: object) -> SensorFrame:
    """Each camera's picture has a grey of its own: 100, 110, 120, ..."""
    cameras = {
        name: CameraImage(
            images.get(name, np.full((180, 320, 3), 100 + 10 * CAMERAS.index(name.upper()), dtype=np.uint8)),
            K,
            T_BASE_FROM_CAM,
            np.eye(4),
            0,
        )
        for name in names
    }
    return SensorFrame(cameras, {}, 0, np.eye(4), np.eye(4))


def cars(scores: list[float]) -> Detections:
    n = len(scores)
    boxes = Boxes3D(np.tile([20.0, 0.0, 1.0], (n, 1)), np.tile([4.0, 2.0, 1.5], (n, 1)), np.zeros(n), np.zeros((n, 2)))
    return Detections(boxes, np.array(scores), np.zeros(n, dtype=np.int64), "base_link", 0)


def greys(sheet: np.ndarray) -> list[int]:
    """The grey in the middle of the lower part of the six panels."""
    places = [(150, x) for x in (160, 480, 800)] + [(270, x) for x in (100, 300, 500)]
    return [int(sheet[y, x, 0]) for y, x in places]


def test_front_cameras_stand_above_rear_cameras_left_to_right():
    sheet = draw_sheet(frame(), cars([]), None, Caption("title"), OPTIONS)
    assert sheet.shape == (540, 960, 3)
    assert greys(sheet) == [100, 110, 120, 130, 140, 150]


def test_cameras_are_found_whatever_the_case_of_their_names():
    names = tuple(name.lower() for name in CAMERAS)
    assert greys(draw_sheet(frame(names), cars([]), None, Caption("title"), OPTIONS)) == [100, 110, 120, 130, 140, 150]


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8\xff broken"])
def test_absent_and_damaged_images_leave_an_empty_panel(damage: bytes):
    seen = frame(CAMERAS[1:], CAM_FRONT=damage)
    found = greys(draw_sheet(seen, cars([]), None, Caption("title"), OPTIONS))
    assert found[2:] == [120, 130, 140, 150]
    assert max(found[:2]) < 60


def test_weak_detections_are_not_drawn():
    strong = draw_sheet(frame(), cars([0.9]), None, Caption("t"), replace(OPTIONS, min_score=0.5))
    both = draw_sheet(frame(), cars([0.9, 0.2]), None, Caption("t"), replace(OPTIONS, min_score=0.5))
    none = draw_sheet(frame(), cars([0.2]), None, Caption("t"), replace(OPTIONS, min_score=0.5))
    np.testing.assert_array_equal(strong, both)
    assert (strong != none).any()


def test_boxes_show_in_cameras_and_in_the_birds_eye_view():
    empty = draw_sheet(frame(), cars([]), None, Caption("t"), OPTIONS)
    seen = draw_sheet(frame(), cars([0.9]), None, Caption("t"), OPTIONS)
    true = draw_sheet(frame(), cars([]), cars([1.0]), Caption("t"), OPTIONS)
    for other in (seen, true):
        assert (other[:180, 320:640] != empty[:180, 320:640]).any()
        assert (other[180:, 600:] != empty[180:, 600:]).any()


def test_the_caption_is_written():
    one = draw_sheet(frame(), cars([]), None, Caption("scene-1", ["a line"], "footer"), OPTIONS)
    other = draw_sheet(frame(), cars([]), None, Caption("scene-2"), OPTIONS)
    assert (one[300:, :600] != other[300:, :600]).any()
    assert (one[515:, :600] != other[515:, :600]).any()
