"""Boxes, detections and manifests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from crkd_core.geometry.transforms import apply, inverse, transform, yaw_rotation
from crkd_core.types import (
    RADAR_DTYPE,
    Boxes3D,
    CameraImage,
    Detections,
    NetworkInput,
    RadarSweep,
    SensorFrame,
    wrapped,
)

# METHOD's worked example: a car 10 m ahead in the BEV frame, facing and driving forward (along +y) at 5 m/s.
EXAMPLE = Boxes3D(
    centers=np.array([[0.0, 10.0, -0.2]]),
    sizes=np.array([[4.5, 2.0, 1.6]]),
    yaws=np.array([math.pi / 2]),
    velocities=np.array([[0.0, 5.0]]),
)


def random_boxes(n: int, seed: int = 0) -> Boxes3D:
    rng = np.random.default_rng(seed)
    return Boxes3D(
        rng.normal(0, 20, (n, 3)), rng.uniform(0.3, 8, (n, 3)), rng.uniform(-np.pi, np.pi, n), rng.normal(0, 5, (n, 2))
    )


class TestOriginalEncoding:
    def test_worked_example(self):
        np.testing.assert_allclose(EXAMPLE.to_mmdet3d(), [[0, 10, -1, 2, 4.5, 1.6, -math.pi, 0, 5]], atol=1e-12)

    def test_round_trip(self):
        boxes = random_boxes(50)
        again = Boxes3D.from_mmdet3d(boxes.to_mmdet3d())
        for name in ("centers", "sizes", "yaws", "velocities"):
            np.testing.assert_allclose(getattr(again, name), getattr(boxes, name), atol=1e-9)

    def test_local_point_by_the_originals_formula(self):
        """x = cx + a cos r + b sin r, y = cy - a sin r + b cos r for a along the width, b along the length."""
        boxes = random_boxes(20, seed=1)
        encoded = boxes.to_mmdet3d()
        cx, cy, w, length, r = (encoded[:, i] for i in (0, 1, 3, 4, 6))
        a, b = w / 2, -length / 2
        expected = np.stack([cx + a * np.cos(r) + b * np.sin(r), cy - a * np.sin(r) + b * np.cos(r)], axis=1)
        distance = np.linalg.norm(boxes.corners()[:, :4, :2] - expected[:, None], axis=2).min(axis=1)
        np.testing.assert_allclose(distance, 0, atol=1e-9)

    def test_heading_is_minus_sine_and_cosine_of_r(self):
        boxes = random_boxes(20, seed=2)
        r = boxes.to_mmdet3d()[:, 6]
        heading = np.stack([np.cos(boxes.yaws), np.sin(boxes.yaws)], axis=1)
        np.testing.assert_allclose(np.stack([-np.sin(r), -np.cos(r)], axis=1), heading, atol=1e-12)

    def test_empty(self):
        assert Boxes3D.empty().to_mmdet3d().shape == (0, 9)
        assert len(Boxes3D.from_mmdet3d([])) == 0


def test_worked_example_is_ahead_of_the_vehicle_in_base():
    T_base_from_bev = transform(yaw_rotation(-math.pi / 2), [0.94, 0.0, 1.84])
    in_base = EXAMPLE.transformed(T_base_from_bev)
    np.testing.assert_allclose(in_base.centers, [[10.94, 0, 1.64]], atol=1e-12)
    np.testing.assert_allclose(in_base.yaws, [0], atol=1e-12)
    np.testing.assert_allclose(in_base.velocities, [[5, 0]], atol=1e-12)


@pytest.mark.golden
class TestGoldenGroundTruth:
    @pytest.fixture
    def golden(self, load_golden: Callable[[str], Any]) -> Any:
        return load_golden("calibration_and_gt")

    def boxes_in_world(self, golden: Any) -> tuple[Boxes3D, np.ndarray, np.ndarray]:
        ann = {k: v.numpy() for k, v in golden.group("in.ann.").items()}
        boxes = Boxes3D.from_nuscenes(ann["translation"], ann["wlh"], ann["rotation"], ann["global_velocity_xy"])
        T_world_from_base = transform(golden["in.ego2global_rotation"], golden["in.ego2global_translation"])
        T_base_from_bev = transform(golden["in.lidar2ego_rotation"], golden["in.lidar2ego_translation"])
        return boxes.filtered(ann["valid_flag"]), T_world_from_base, T_base_from_bev

    @pytest.mark.parametrize(("at_once", "angle", "speed"), [(True, 2e-6, 1e-6), (False, 1e-4, 2e-3)])
    def test_boxes(self, golden: Any, at_once: bool, angle: float, speed: float):
        """Straight to the BEV frame it is exact; by way of base the tilt of the vehicle enters to second order."""
        boxes, T_world_from_base, T_base_from_bev = self.boxes_in_world(golden)
        if at_once:
            boxes = boxes.transformed(inverse(T_world_from_base @ T_base_from_bev))
        else:
            boxes = boxes.transformed(inverse(T_world_from_base)).transformed(inverse(T_base_from_bev))
        ours, theirs = boxes.to_mmdet3d(), golden["out.gt_bboxes_3d"].numpy().astype(np.float64)
        np.testing.assert_allclose(ours[:, :6], theirs[:, :6], atol=5e-6)
        np.testing.assert_allclose(wrapped(ours[:, 6] - theirs[:, 6]), 0, atol=angle)
        np.testing.assert_allclose(np.nan_to_num(ours[:, 7:]), theirs[:, 7:], atol=speed)


class TestTransformed:
    def test_yaw_is_ccw_about_z_up(self):
        turned = EXAMPLE.transformed(transform(yaw_rotation(0.3), [0, 0, 0]))
        np.testing.assert_allclose(turned.yaws, math.pi / 2 + 0.3)

    def test_corners_move_with_the_box(self):
        boxes, T = random_boxes(10), transform(yaw_rotation(2.1), [3.0, -4.0, 5.0])
        moved = np.stack([apply(T, corners) for corners in boxes.corners()])
        np.testing.assert_allclose(boxes.transformed(T).corners(), moved, atol=1e-9)

    def test_velocity_turns_but_does_not_shift(self):
        T = transform(yaw_rotation(math.pi / 2), [100.0, 100.0, 100.0])
        np.testing.assert_allclose(EXAMPLE.transformed(T).velocities, [[-5, 0]], atol=1e-12)

    def test_back_again(self):
        boxes = random_boxes(10)
        T = transform(yaw_rotation(-1.0), [3.0, -4.0, 5.0])
        again = boxes.transformed(T).transformed(inverse(T))
        np.testing.assert_allclose(again.centers, boxes.centers, atol=1e-9)
        np.testing.assert_allclose(wrapped(again.yaws - boxes.yaws), 0, atol=1e-9)

    def test_small_tilt_changes_yaw_to_second_order_only(self):
        boxes = random_boxes(30)
        T = transform(Rotation.from_euler("xyz", [0.01, 0.02, 0.5]).as_matrix(), [0, 0, 0])
        assert np.abs(wrapped(boxes.transformed(T).yaws - boxes.yaws - 0.5)).max() < 5e-4


class TestNuScenes:
    def test_yaw_is_the_heading_of_the_rotated_x_axis(self):
        rotations = Rotation.from_euler(
            "zyx", np.random.default_rng(3).uniform([-3.1, -0.1, -0.1], [3.1, 0.1, 0.1], (40, 3))
        )
        x, y, z, w = rotations.as_quat().T
        zeros, quaternions = np.zeros((40, 3)), 1.7 * np.stack([w, x, y, z], axis=1)
        boxes = Boxes3D.from_nuscenes(zeros, zeros + 1, quaternions, zeros)
        heading = rotations.apply([1, 0, 0])
        np.testing.assert_allclose(boxes.yaws, np.arctan2(heading[:, 1], heading[:, 0]), atol=1e-12)

    def test_width_and_length_change_places(self):
        boxes = Boxes3D.from_nuscenes([[0, 0, 0]], [[2.0, 4.5, 1.6]], [[1, 0, 0, 0]], [[1, 2, 3]])
        np.testing.assert_array_equal(boxes.sizes, [[4.5, 2.0, 1.6]])
        np.testing.assert_array_equal(boxes.velocities, [[1, 2]])

    def test_round_trip(self):
        boxes = random_boxes(20)
        again = Boxes3D.from_nuscenes(*boxes.to_nuscenes())
        np.testing.assert_allclose(again.yaws, boxes.yaws, atol=1e-12)
        np.testing.assert_array_equal(again.sizes, boxes.sizes)

    def test_frame_without_annotations(self):
        assert len(Boxes3D.from_nuscenes([], [], [], [])) == 0
        assert len(Boxes3D.from_nuscenes(*Boxes3D.empty().to_nuscenes())) == 0


class TestBoxes:
    def test_corners_start_front_left_and_go_counter_clockwise(self):
        box = Boxes3D([[0, 0, 1]], [[4, 2, 1]], [0.0], [[0, 0]])
        expected = [[2, 1], [-2, 1], [-2, -1], [2, -1]]
        np.testing.assert_allclose(box.corners()[0, :4], [[x, y, 0.5] for x, y in expected])
        np.testing.assert_allclose(box.corners()[0, 4:], [[x, y, 1.5] for x, y in expected])

    def test_moved_follows_velocity_and_leaves_unknown_ones(self):
        boxes = Boxes3D(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(2), [[2, -1], [np.nan, np.nan]])
        np.testing.assert_allclose(boxes.moved(0.5).centers, [[1, -0.5, 0], [0, 0, 0]])
        assert np.isnan(boxes.moved(0.5).velocities[1]).all()

    def test_filtered_by_mask_and_by_order(self):
        boxes = random_boxes(3)
        np.testing.assert_array_equal(boxes.filtered([True, False, True]).yaws, boxes.yaws[[0, 2]])
        np.testing.assert_array_equal(boxes.filtered([2, 0]).centers, boxes.centers[[2, 0]])
        assert len(boxes.filtered(np.zeros(3, dtype=bool))) == 0

    def test_wrong_shape_is_refused_by_name(self):
        with pytest.raises(ValueError, match=r"Boxes3D.sizes: expected shape \(1, 3\), got \(1, 2\)"):
            Boxes3D(np.zeros((1, 3)), np.zeros((1, 2)), np.zeros(1), np.zeros((1, 2)))


@pytest.mark.parametrize("angle", [0.0, math.pi, -math.pi, 7.0, -7.0, np.nextafter(-math.pi, -10), 1e9])
def test_wrapped_angle_is_in_range_and_the_same_direction(angle: float):
    out = float(wrapped(np.array([angle]))[0])
    assert -math.pi <= out < math.pi
    assert math.cos(out - angle) == pytest.approx(1, abs=1e-9)


class TestDetections:
    def detections(self) -> Detections:
        return Detections(random_boxes(3), np.array([0.9, 0.5, 0.2]), np.array([0, 8, 9]), "base_link", 7)

    def test_names_and_filter(self):
        kept = self.detections().filtered(self.detections().scores > 0.3)
        assert kept.class_names == ["car", "pedestrian"]
        assert (kept.frame_id, kept.stamp, len(kept)) == ("base_link", 7, 2)

    def test_transformed_changes_boxes_and_frame_name(self):
        moved = self.detections().transformed(transform(np.eye(3), [1, 0, 0]), "map")
        assert moved.frame_id == "map"
        np.testing.assert_allclose(moved.boxes.centers - self.detections().boxes.centers, [[1, 0, 0]] * 3)

    def test_scores_of_another_length_are_refused(self):
        with pytest.raises(ValueError, match=r"Detections.scores: expected shape \(3,\)"):
            replace(self.detections(), scores=np.zeros(2))


def frame() -> SensorFrame:
    camera = CameraImage(b"", np.eye(3), np.eye(4), np.eye(4), stamp=10)
    sweeps = [RadarSweep(np.zeros(0, RADAR_DTYPE), np.eye(4), np.eye(4), stamp) for stamp in (12, 5)]
    return SensorFrame({"a": camera, "b": camera}, {"r": sweeps}, 11, np.eye(4), np.eye(4))


class TestManifest:
    def test_names_the_stamps_used(self):
        assert frame().manifest.stamp == 11
        assert frame().manifest.sensors == {"a": (10,), "b": (10,), "r": (12, 5)}

    def test_does_not_depend_on_the_order_of_sensors_or_the_vehicle_pose(self):
        other = replace(frame(), cameras=dict(reversed(frame().cameras.items())), T_world_from_base=2 * np.eye(4))
        assert other.manifest == frame().manifest

    @pytest.mark.parametrize(
        "change",
        [
            {"intrinsics": 2 * np.eye(3)},
            {"T_base_from_cam": 2 * np.eye(4)},
            {"distortion": np.array([0.1, 0, 0, 0, 0])},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_changed_camera_calibration_shows(self, change: dict[str, Any]):
        cameras = frame().cameras | {"b": replace(frame().cameras["b"], **change)}
        assert replace(frame(), cameras=cameras).manifest.calibration != frame().manifest.calibration

    def test_changed_bev_frame_shows(self):
        other = replace(frame(), T_base_from_bev=2 * np.eye(4))
        assert other.manifest.calibration != frame().manifest.calibration


def test_radar_point_is_43_packed_bytes():
    assert RADAR_DTYPE.itemsize == 43


def test_network_input_counts_samples_that_have_no_sensor():
    empty = torch.zeros(0)
    inputs = NetworkInput(empty, empty, empty, empty, empty, torch.zeros(2, 4, 4), empty, empty)
    assert inputs.to("cpu").batch_size == 2
