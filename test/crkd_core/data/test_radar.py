"""CRKD's radar features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crkd_core.data.radar import (
    FEATURE_INDEX,
    RADAR_FEATURES,
    RADAR_ORDER,
    ordered,
    radar_features,
    sweep_features,
    within_range,
)
from crkd_core.data.radar_pcd import parse_radar_pcd
from crkd_core.geometry.transforms import transform, yaw_rotation
from crkd_core.types import LIDAR_DTYPE, RADAR_DTYPE, RadarSweep, SensorFrame


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, FEATURE_INDEX[name]]


def one_return(**values: float) -> np.ndarray:
    points = np.zeros(1, dtype=RADAR_DTYPE)
    for name, value in values.items():
        points[name] = value
    return points


def frame(radars: dict[str, list[RadarSweep]], T_world_from_base: np.ndarray | None = None) -> SensorFrame:
    T_base_from_bev = transform(yaw_rotation(-np.pi / 2), [0.0, 0.0, 0.0])
    pose = np.eye(4) if T_world_from_base is None else T_world_from_base
    return SensorFrame({}, radars, 1_000_000_000, pose, T_base_from_bev)


def sweep(points: np.ndarray, stamp: int = 1_000_000_000, x_world: float = 0.0) -> RadarSweep:
    return RadarSweep(points, np.eye(4), transform(np.eye(3), [x_world, 0, 0]), stamp)


@pytest.mark.golden
class TestGolden:
    def features(self, golden: Any) -> np.ndarray:
        """Of the stored files, with the stored sensor-to-BEV transforms; the first six records of each radar."""
        parts = []
        for radar, count in zip(golden.meta["radars"], golden.meta["sweep_counts"], strict=True):
            newest = int(golden[f"in.{radar}.0.timestamp_us"])
            for i in range(min(count, golden.meta["sweeps_num"])):
                name = f"in.{radar}.{i}"
                points = parse_radar_pcd(golden[f"{name}.pcd"].numpy().tobytes(), name)
                T = transform(golden[f"{name}.rotation"], golden[f"{name}.translation"])
                parts.append(sweep_features(points, T, 1e-6 * (newest - int(golden[f"{name}.timestamp_us"]))))
        return np.concatenate(parts)

    def test_features(self, load_golden: Callable[[str], Any]):
        golden = load_golden("radar_loader")
        np.testing.assert_allclose(self.features(golden), golden["out.used45"], rtol=1e-6, atol=1e-5)

    def test_feature_names_are_the_originals_columns(self, load_golden: Callable[[str], Any]):
        golden = load_golden("radar_loader")
        raw, features = golden["out.all58"].numpy(), self.features(golden)
        for name in ("x", "y", "z", "rcs", "vx_comp", "vy_comp"):
            np.testing.assert_allclose(column(features, name), raw[:, golden.meta["columns18"].index(name)], atol=1e-5)
        for name, count, first in (("dyn_prop", 8, 19), ("ambig_state", 5, 27), ("invalid_state", 18, 32)):
            state = raw[:, golden.meta["columns18"].index(name)]
            for i in range(count):
                np.testing.assert_array_equal(column(features, f"{name}_is_{i}"), state == i)
                np.testing.assert_array_equal(column(features, f"{name}_is_{i}"), raw[:, first + i])
        for i in range(7):
            np.testing.assert_array_equal(column(features, f"pdh0_above_{i}"), raw[:, 50 + i])

    def test_range(self, load_golden: Callable[[str], Any]):
        golden = load_golden("radar_loader")
        features = self.features(golden)
        kept = features[within_range(features, (-54.0, 54.0), (-54.0, 54.0))]
        np.testing.assert_allclose(kept, golden["out.after_points_range_filter"], rtol=1e-6, atol=1e-5)

    def test_whole_frame_in_the_originals_order(self, load_golden: Callable[[str], Any]):
        """The same files as a sensor frame whose radars come in another order."""
        golden = load_golden("radar_loader")
        radars = {}
        for radar, count in reversed(list(zip(golden.meta["radars"], golden.meta["sweep_counts"], strict=True))):
            radars[radar] = [
                RadarSweep(
                    parse_radar_pcd(golden[f"in.{radar}.{i}.pcd"].numpy().tobytes(), radar),
                    transform(golden[f"in.{radar}.{i}.rotation"], golden[f"in.{radar}.{i}.translation"]),
                    np.eye(4),
                    int(golden[f"in.{radar}.{i}.timestamp_us"]) * 1000,
                )
                for i in range(count)
            ]
        features = radar_features(SensorFrame({}, radars, 0, np.eye(4), np.eye(4)), sweeps=6)
        np.testing.assert_allclose(features, golden["out.used45"], rtol=1e-6, atol=1e-5)


class TestSweep:
    def test_there_are_45_features_of_different_names(self):
        assert len(RADAR_FEATURES) == len(set(RADAR_FEATURES)) == 45

    def test_return_is_moved_by_its_velocity_for_its_age(self):
        features = sweep_features(one_return(x=10, vx_comp=4, vy_comp=-2, z=1), np.eye(4), age=0.25)
        assert [float(column(features, n)[0]) for n in ("x", "y", "z", "dt")] == [11, -0.5, 1, 0.25]

    def test_velocity_turns_with_the_sensor(self):
        T = transform(yaw_rotation(np.pi / 2), [0, 0, 0])
        features = sweep_features(one_return(vx_comp=4), T, age=0.0)
        np.testing.assert_allclose([column(features, "vx_comp")[0], column(features, "vy_comp")[0]], [0, 4], atol=1e-6)

    def test_states_are_one_hot_and_false_alarm_level_is_ordinal(self):
        features = sweep_features(one_return(dyn_prop=7, ambig_state=3, invalid_state=17, pdh0=2), np.eye(4), age=0.0)
        on = {name for name in RADAR_FEATURES[7:] if column(features, name)[0]}
        assert on == {"dyn_prop_is_7", "ambig_state_is_3", "invalid_state_is_17", "pdh0_above_0", "pdh0_above_1"}

    def test_unknown_state_is_none_of_them(self):
        features = sweep_features(one_return(dyn_prop=9, ambig_state=-1, invalid_state=40), np.eye(4), age=0.0)
        assert features[0, 7:].sum() == 0

    def test_other_points_are_refused(self):
        with pytest.raises(ValueError, match="RADAR_DTYPE"):
            sweep_features(np.zeros(1, dtype=LIDAR_DTYPE), np.eye(4), age=0.0)


class TestFrame:
    def test_old_sweep_is_moved_by_the_vehicles_motion(self):
        """A wall 20 m ahead; the vehicle drove 1 m since: now it is 19 m ahead, on the BEV frame's y axis."""
        old = sweep(one_return(x=20), stamp=900_000_000)
        new = sweep(one_return(x=19), x_world=1.0)
        features = radar_features(frame({"r": [new, old]}, transform(np.eye(3), [1, 0, 0])), sweeps=6)
        np.testing.assert_allclose(features[:, :3], [[0, 19, 0]] * 2, atol=1e-5)
        np.testing.assert_allclose(column(features, "dt"), [0, 0.1], atol=1e-6)

    def test_age_counts_from_the_newest_sweep_of_the_same_radar(self):
        sweeps = [sweep(one_return(x=1), stamp=950_000_000), sweep(one_return(x=1), stamp=900_000_000)]
        np.testing.assert_allclose(column(radar_features(frame({"r": sweeps}), sweeps=6), "dt"), [0, 0.05], atol=1e-6)

    def test_only_the_newest_sweeps_are_used(self):
        sweeps = [sweep(one_return(x=i), stamp=1_000_000_000 - i) for i in range(5)]
        np.testing.assert_allclose(radar_features(frame({"r": sweeps}), sweeps=2)[:, 1], [0, 1], atol=1e-6)

    def test_the_oldest_sweep_is_repeated_with_its_age_until_there_are_enough(self):
        """Two records and a car that comes nearer at 10 m/s: the third to sixth are the second, 0.1 s old."""
        old, new = sweep(one_return(x=21, vx_comp=-10), stamp=900_000_000), sweep(one_return(x=20, vx_comp=-10))
        features = radar_features(frame({"r": [new, old]}), sweeps=6, repeat_oldest=True)
        np.testing.assert_allclose(column(features, "dt"), [0, *[0.1] * 5], atol=1e-6)
        np.testing.assert_allclose(features[:, 1], [20] * 6, atol=1e-5)
        assert len(radar_features(frame({"r": [new, old]}), sweeps=6)) == 2
        assert len(radar_features(frame({"r": [new] * 8}), sweeps=6, repeat_oldest=True)) == 6

    @pytest.mark.parametrize("repeat_oldest", [False, True])
    def test_frame_without_radar_has_no_returns(self, repeat_oldest: bool):
        assert radar_features(frame({"r": []}), sweeps=6, repeat_oldest=repeat_oldest).shape == (0, 45)
        assert radar_features(frame({}), sweeps=6, repeat_oldest=repeat_oldest).shape == (0, 45)
        assert radar_features(frame({"r": [sweep(np.zeros(0, RADAR_DTYPE))]}), sweeps=6).shape == (0, 45)

    def test_known_radars_come_first_in_their_order(self):
        names = ("rear", "RADAR_BACK_LEFT", "front", "RADAR_FRONT")
        assert ordered(names, RADAR_ORDER) == ["RADAR_FRONT", "RADAR_BACK_LEFT", "rear", "front"]
