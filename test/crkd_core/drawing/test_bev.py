import numpy as np

from crkd_core.drawing.bev import BevView
from crkd_core.drawing.style import CLASS_COLORS, RADAR_STILL, TRUTH, depth_colors, speed_colors
from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.types import RADAR_DTYPE, Boxes3D, Detections, RadarSweep


def box(x: float, y: float, *, velocity: tuple[float, float] = (0.0, 0.0)) -> Detections:
    boxes = Boxes3D(
        np.array([[x, y, 0.0]]), np.array([[4.0, 2.0, 1.5]]), np.zeros(1), np.array([velocity], dtype=float)
    )
    return Detections(boxes, np.ones(1), np.zeros(1, dtype=np.int64), "base_link", 0)


def has_color(image: np.ndarray, color: tuple[int, int, int], atol: int = 40) -> np.ndarray:
    """(N, 2) x, y of the pixels of about this colour."""
    return np.argwhere((np.abs(image.astype(int) - color) <= atol).all(axis=-1))[:, ::-1]


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(N, 2) x, y of the pixels that differ clearly."""
    return np.argwhere((np.abs(after.astype(int) - before) > 25).any(axis=-1))[:, ::-1]


def test_forward_is_up_and_left_is_left():
    view = BevView(400, 50.0)
    np.testing.assert_allclose(view.pixels(np.array([[50.0, 0.0], [0.0, 50.0]])), [[200, 0], [0, 200]])


def test_a_detection_colours_its_outline():
    view = BevView(400, 50.0)
    before = view.image.copy()
    view.draw_detections(box(20.0, 10.0))
    assert len(has_color(view.image, CLASS_COLORS["car"]))
    pixels = changed(before, view.image)
    # 4 m along x: 16 pixels high; 2 m along y: 8 pixels wide.
    np.testing.assert_allclose(pixels.min(axis=0), [200 - 44, 200 - 88], atol=2)
    np.testing.assert_allclose(pixels.max(axis=0), [200 - 36, 200 - 72], atol=2)


def test_a_velocity_arrow_ends_where_the_box_will_be_in_a_second():
    still, moving = BevView(400, 50.0), BevView(400, 50.0)
    still.draw_detections(box(0.0, 20.0))
    moving.draw_detections(box(0.0, 20.0, velocity=(15.0, 0.0)))
    assert has_color(still.image, CLASS_COLORS["car"])[:, 1].min() > 185
    np.testing.assert_allclose(has_color(moving.image, CLASS_COLORS["car"])[:, 1].min(), 200 - 60, atol=5)


def test_ground_truth_is_a_green_area():
    view = BevView(400, 50.0)
    before = view.image.copy()
    view.draw_truth(box(20.0, 10.0))
    assert len(has_color(view.image, TRUTH))
    x, y = 200 - 42, 200 - 82
    assert view.image[y, x, 1] > before[y, x, 1] + 40


def test_radar_returns_are_drawn_where_the_sensor_saw_them():
    points = np.zeros(1, dtype=RADAR_DTYPE)
    points["x"] = 20.0
    mounting = transform(yaw_rotation(np.pi / 2), (0.0, 5.0, 0.5))  # looks left
    sweep = RadarSweep(points, mounting, np.eye(4), 0)
    view = BevView(400, 50.0)
    before = view.image.copy()
    view.draw_radar({"radar_left": [sweep]}, np.eye(4))
    np.testing.assert_allclose(changed(before, view.image).mean(axis=0), [200 - 100, 200], atol=1.5)


def test_older_sweeps_are_seen_from_where_the_vehicle_is_now():
    points = np.zeros(1, dtype=RADAR_DTYPE)
    points["x"] = 20.0
    sweep = RadarSweep(points, np.eye(4), np.eye(4), 0)
    view = BevView(400, 50.0)
    before = view.image.copy()
    view.draw_radar({"radar_front": [sweep]}, transform(np.eye(3), (8.0, 0.0, 0.0)))
    np.testing.assert_allclose(changed(before, view.image).mean(axis=0), [200, 200 - 48], atol=1.5)


def test_speeds_have_different_colours_and_slow_ones_are_grey():
    colors = speed_colors(np.array([0.0, 3.0, 15.0, 100.0]))
    assert tuple(colors[0]) == RADAR_STILL
    assert (colors[1] != colors[2]).any()
    assert (colors[2] == colors[3]).all()
    assert speed_colors(np.zeros(0)).shape == (0, 3)


def test_an_empty_view_takes_empty_lists():
    view = BevView(200, 50.0)
    empty = Detections(Boxes3D.empty(), np.zeros(0), np.zeros(0, dtype=np.int64), "base_link", 0)
    before = view.image.copy()
    view.draw_radar({"r": []}, np.eye(4))
    view.draw_truth(empty)
    view.draw_detections(empty)
    np.testing.assert_array_equal(view.image, before)


def test_dots_outside_are_left_out():
    view = BevView(400, 50.0)
    before = view.image.copy()
    view.draw_dots(np.array([[20.0, 10.0, 3.0], [51.0, 0.0, 0.0], [0.0, -50.1, 0.0]]), (255, 0, 0))
    np.testing.assert_array_equal(changed(before, view.image), [[200 - 40, 200 - 80]])


def test_a_moving_point_shows_the_way_of_the_next_second():
    view = BevView(400, 50.0)
    before = view.image.copy()
    view.draw_moving_points(np.array([[10.0, 0.0]]), np.array([[15.0, 0.0]]))
    pixels = changed(before, view.image)
    np.testing.assert_allclose(pixels[:, 1].min(), 200 - 4 * 25, atol=2)
    np.testing.assert_allclose(pixels[:, 1].max(), 200 - 4 * 10, atol=4)
    assert len(has_color(view.image, tuple(speed_colors([15.0])[0].tolist())))


def test_the_vehicle_stands_where_it_is_told():
    view = BevView(400, 50.0, T_view_from_base=transform(np.eye(3), [20.0, 0.0, 0.0]))
    pixels = np.argwhere((view.image > 225).all(axis=-1))
    np.testing.assert_allclose(pixels.mean(axis=0), [200 - 4 * 21, 200], atol=2)


def test_near_points_are_red_and_far_ones_blue():
    near, far, beyond = depth_colors([1.0, 60.0, 200.0]).astype(int)
    assert near[0] > 150
    assert near[0] > 2 * near[2]
    assert far[2] > 150
    assert far[2] > 2 * far[0]
    np.testing.assert_array_equal(far, beyond)
    assert depth_colors([]).shape == (0, 3)
