"""Boxes in pictures, looked at pixel by pixel."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crkd_core.data.errors import DataError
from crkd_core.drawing.camera import (
    NEAR,
    boxes_in_camera,
    draw_boxes,
    draw_camera,
    project,
    scaled_picture,
)
from crkd_core.drawing.style import CLASS_COLORS, TRUTH
from crkd_core.geometry.transforms import transform
from crkd_core.types import Boxes3D, CameraImage, Detections

SIZE = (320, 180)
K = np.array([[160.0, 0.0, 160.0], [0.0, 160.0, 90.0], [0.0, 0.0, 1.0]])
# Optical axis (camera z) along base x, camera x to the right (base -y), camera y down.
T_BASE_FROM_CAM = transform(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), (0.0, 0.0, 1.5))
GREY = 90


def camera(stamp: int = 0, T_world_from_base: np.ndarray | None = None, **others: object) -> CameraImage:
    fields = {
        "image": np.full((SIZE[1], SIZE[0], 3), GREY, dtype=np.uint8),
        "intrinsics": K,
        "T_base_from_cam": T_BASE_FROM_CAM,
        "T_world_from_base": np.eye(4) if T_world_from_base is None else T_world_from_base,
        "stamp": stamp,
    }
    return CameraImage(**{**fields, **others})


def car(x: float, y: float = 0.0, *, velocity: tuple[float, float] = (0.0, 0.0), yaw: float = 0.0) -> Detections:
    boxes = Boxes3D(
        np.array([[x, y, 1.5]]), np.array([[2.0, 2.0, 2.0]]), np.array([yaw]), np.array([velocity], dtype=float)
    )
    return Detections(boxes, np.array([0.9]), np.array([0]), "base_link", 0)


def drawn(found: Detections, truth: Detections | None = None, seen: CameraImage | None = None) -> np.ndarray:
    return draw_camera(seen or camera(), found, truth, np.eye(4), width=SIZE[0], label_size=0)


def changed_pixels(picture: np.ndarray) -> np.ndarray:
    """(N, 2) x, y of the pixels that are not the background's grey."""
    return np.argwhere((picture != GREY).any(axis=-1))[:, ::-1]


def test_a_box_ahead_colours_the_pixels_where_it_projects():
    pixels = changed_pixels(drawn(car(9.0, 2.0)))
    # The near face, 8 m ahead, spans y 1..3 m to the left and z +-1 m about the axis.
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    np.testing.assert_allclose(low, [160 - 160 * 3 / 8, 90 - 160 / 8], atol=1.5)
    np.testing.assert_allclose(high, [160 - 160 * 1 / 10, 90 + 160 / 8], atol=1.5)


def test_edges_have_the_colour_of_the_class():
    picture = drawn(car(9.0))
    corner = picture[90 - 20, 160 - 20]
    np.testing.assert_allclose(corner, CLASS_COLORS["car"], atol=60)


def test_a_box_behind_draws_nothing():
    assert len(changed_pixels(drawn(car(-9.0)))) == 0


def test_a_box_beside_the_picture_draws_nothing():
    assert len(changed_pixels(drawn(car(9.0, 40.0)))) == 0


def test_a_box_that_reaches_behind_the_lens_is_cut_off_not_flipped():
    beside = car(1.0, 3.0)
    boxes = Boxes3D(beside.boxes.centers, np.array([[20.0, 2.0, 2.0]]), beside.boxes.yaws, beside.boxes.velocities)
    pixels = changed_pixels(drawn(Detections(boxes, beside.scores, beside.labels, "base_link", 0)))
    assert len(pixels)
    # All of the box lies at y of 2 m or more to the left, its far end 11 m ahead: nothing right of there.
    assert pixels[:, 0].max() <= 160 - 160 * 2 / 11 + 2


def test_the_front_face_is_tinted_and_the_rear_one_is_not():
    towards, away = drawn(car(9.0, yaw=np.pi)), drawn(car(9.0))
    # Between the edges of the far face (16 pixels) and the near one (20 pixels).
    assert (towards[90, 160 - 18] != GREY).any()
    assert (away[90, 160 - 18] == GREY).all()
    assert (away[90, 160] != GREY).any()


def test_ground_truth_is_green():
    picture = drawn(car(-9.0), truth=car(9.0))
    rows = changed_pixels(picture)
    assert len(rows)
    x, y = rows[np.argmax(picture[rows[:, 1], rows[:, 0], 1])]
    np.testing.assert_allclose(picture[y, x], TRUTH, atol=40)


def test_boxes_are_moved_to_the_time_of_the_image():
    still = boxes_in_camera(car(10.0).boxes, camera(stamp=100_000_000), np.eye(4), 0)
    moving = boxes_in_camera(car(10.0, velocity=(5.0, 0.0)).boxes, camera(stamp=100_000_000), np.eye(4), 0)
    np.testing.assert_allclose(moving[..., 2] - still[..., 2], 0.5, atol=1e-9)


def test_the_motion_of_the_vehicle_until_the_image_enters():
    later = transform(np.eye(3), (1.0, 0.0, 0.0))
    here = boxes_in_camera(car(10.0).boxes, camera(), np.eye(4), 0)
    there = boxes_in_camera(car(10.0).boxes, camera(T_world_from_base=later), np.eye(4), 0)
    np.testing.assert_allclose(here[..., 2] - there[..., 2], 1.0, atol=1e-9)


@given(
    x=st.floats(-30, 30),
    y=st.floats(-30, 30),
    yaw=st.floats(-3.2, 3.2),
    length=st.floats(0.3, 18),
)
def test_projected_edges_lie_in_front_and_are_finite(x: float, y: float, yaw: float, length: float):
    boxes = Boxes3D(np.array([[x, y, 1.0]]), np.array([[length, 2.0, 2.0]]), np.array([yaw]), np.zeros((1, 2)))
    corners = boxes_in_camera(boxes, camera(), np.eye(4), 0)
    found = project(corners, K, SIZE)
    for segments in (*found.segments, *found.fronts):
        assert np.isfinite(segments).all()
    if (corners[..., 2] < NEAR).all():
        assert found.indices == []
    inside = corners[0][corners[0, :, 2] > NEAR]
    pixels = inside @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    if ((pixels >= 0) & (pixels < SIZE)).all(axis=1).any():
        assert found.indices == [0]


def test_far_boxes_are_drawn_before_near_ones():
    near, far = car(6.0), car(20.0)
    boxes = Boxes3D(
        np.concatenate([near.boxes.centers, far.boxes.centers]),
        np.concatenate([near.boxes.sizes, far.boxes.sizes]),
        np.zeros(2),
        np.zeros((2, 2)),
    )
    assert project(boxes_in_camera(boxes, camera(), np.eye(4), 0), K, SIZE).indices == [1, 0]


def test_no_boxes_leave_the_picture_as_it_is():
    picture = np.full((SIZE[1], SIZE[0], 3), GREY, dtype=np.uint8)
    draw_boxes(picture, project(np.zeros((0, 8, 3)), K, SIZE), [], thickness=2, front_opacity=0.5)
    assert (picture == GREY).all()


@pytest.mark.parametrize("width", [320, 400, 800, 1600])
def test_reduced_decoding_keeps_the_picture_in_place(width: int):
    full = np.zeros((900, 1600, 3), dtype=np.uint8)
    cv2.circle(full, (1000, 300), 60, (255, 255, 255), -1)
    intrinsics = np.array([[1200.0, 0.0, 800.0], [0.0, 1200.0, 450.0], [0.0, 0.0, 1.0]])
    content = cv2.imencode(".png", full)[1].tobytes()
    picture, scaled = scaled_picture(camera(image=content, intrinsics=intrinsics), width)
    assert picture.shape == (width * 9 // 16, width, 3)
    ray = np.linalg.inv(intrinsics) @ [1000, 300, 1]
    expected = (scaled @ ray)[:2]
    found = np.argwhere(picture[..., 0] > 127)[:, ::-1].mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=0.6)


def test_lens_distortion_is_removed_before_drawing():
    image = np.zeros((180, 320, 3), dtype=np.uint8)
    ideal = np.array([0.8, 0.3])
    k1 = -0.2
    bent = ideal * (1 + k1 * (ideal @ ideal))
    cv2.circle(image, tuple(np.round(K[:2, :2] @ bent + K[:2, 2]).astype(int).tolist()), 3, (255, 255, 255), -1)
    picture, scaled = scaled_picture(camera(image=image, distortion=np.array([k1, 0, 0, 0, 0])), 320)
    found = np.argwhere(picture[..., 0] > 127)[:, ::-1].mean(axis=0)
    np.testing.assert_allclose(found, (scaled @ [*ideal, 1])[:2], atol=1.5)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 broken"])
def test_bytes_that_are_no_image_are_an_error(content: bytes):
    with pytest.raises(DataError, match=r"CAM_BACK: (not a JPEG or PNG image|truncated JPEG image)"):
        scaled_picture(camera(image=content), 320, name="CAM_BACK")


def test_half_a_jpeg_is_an_error_not_a_grey_picture():
    content = cv2.imencode(".jpg", np.full((180, 320, 3), GREY, dtype=np.uint8))[1].tobytes()
    with pytest.raises(DataError, match="truncated JPEG image"):
        scaled_picture(camera(image=content[: len(content) // 2]), 320)


def test_the_orientation_tag_of_a_file_is_ignored_since_k_refers_to_the_stored_pixels():
    image = np.zeros((180, 320, 3), dtype=np.uint8)
    image[:, :160] = 255
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(image).save(stored, "JPEG", exif=exif)
    picture, _ = scaled_picture(camera(image=stored.getvalue()), 320)
    assert picture[:, :150].min() > 200
    assert picture[:, 170:].max() < 50


def test_labels_do_not_cover_each_other():
    boxes = Boxes3D(np.tile([9.0, 0.0, 1.5], (5, 1)), np.full((5, 3), 2.0), np.zeros(5), np.zeros((5, 2)))
    found = Detections(boxes, np.full(5, 0.9), np.zeros(5, dtype=np.int64), "base_link", 0)
    one = draw_camera(camera(), found.filtered([0]), None, np.eye(4), width=320, label_size=12)
    five = draw_camera(camera(), found, None, np.eye(4), width=320, label_size=12)
    assert (one[40:66] != five[40:66]).mean() < 0.02
