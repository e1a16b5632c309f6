from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from crkd_core.data.synthscenes.conditions import Conditions
from crkd_core.data.synthscenes.config import SynthConfig
from crkd_core.data.synthscenes.link import THRESHOLD, Link, blockage, make_link, received, unit_signal
from crkd_core.data.synthscenes.radar import radar_sweeps
from crkd_core.data.synthscenes.world import Drive

Stage = Callable[..., Drive]
WET = Conditions("day", sun_elevation=0.7, sun_azimuth=2.5, rain=25.0)


def _ahead(*distance: float) -> np.ndarray:
    return np.stack([np.array(distance), np.zeros(len(distance))], axis=1)


def _seen(signal: float) -> float:
    uniform = np.random.default_rng(0).random(200_000)
    return float((received(np.full(200_000, signal), uniform) > THRESHOLD).mean())


def test_power_falls_with_the_fourth_power_of_range():
    near, far, farther = unit_signal(_ahead(20.0, 40.0, 200.0))
    assert near - far == pytest.approx(40 * np.log10(2))
    assert near - farther == pytest.approx(40.0)


def test_noise_alone_is_noticed_as_rarely_as_the_threshold_says():
    assert _seen(-100.0) == pytest.approx(1e-4, rel=0.5)


@pytest.mark.parametrize("signal", [0.0, 5.0, 11.0, 15.0, 25.0])
def test_detection_follows_swerlings_law(signal: float):
    expected = 1e-4 ** (1 / (1 + 10 ** (signal / 10)))
    assert _seen(signal) == pytest.approx(expected, rel=0.03)


def test_ten_decibels_less_are_made_good_at_the_fourth_root_of_a_tenth_of_the_range():
    strong, weak = unit_signal(_ahead(100.0))[0] + 10.0, unit_signal(_ahead(100.0 * 10**-0.25))[0]
    assert _seen(strong) == pytest.approx(_seen(weak), abs=1e-12)
    assert 0.2 < _seen(strong) < 0.95


def test_the_far_beam_reaches_twice_as_far_as_the_sides_and_the_edge_of_view_hardly_anywhere():
    angle = np.deg2rad([0.0, 8.9, 10.0, 44.0, 59.9])
    signal = unit_signal(50.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert signal[0] == pytest.approx(signal[1])
    reach = 10 ** ((signal - signal[0]) / 40)
    np.testing.assert_allclose(reach, [1, 1, 0.5, 0.5, 0.08], atol=0.01)


def test_rain_takes_what_itu_says_out_and_back(stage: Stage):
    drive = stage(conditions=WET)
    link = make_link(drive, [(drive.config.radars[0], drive.start_ns)])
    zero, points = np.zeros(2, dtype=np.int64), _ahead(1.0, 101.0)
    lost = unit_signal(points) - link.signal(zero, points, np.zeros(2), unit_signal(points))
    assert (lost[1] - lost[0]) / 0.2 == pytest.approx(11.4, abs=0.1)  # dB/km at 77 GHz and 25 mm/h (P.838-3)


def test_about_the_configured_share_of_radars_is_covered_for_a_drive(stage: Stage):
    drive = stage(radar_blockage=0.25)
    covered = [
        blockage(replace(drive, seed=seed), mount)[0] > 0 for seed in range(200) for mount in drive.config.radars
    ]
    assert np.mean(covered) == pytest.approx(0.25, abs=0.05)
    clean = stage(radar_blockage=0.0)
    assert not any(blockage(replace(clean, seed=seed), clean.config.radars[0])[0] for seed in range(50))
    assert SynthConfig().radar_blockage <= 0.05


def test_a_covered_radar_sees_less_and_one_covered_on_a_side_less_there(stage: Stage):
    def sweeps(drive: Drive) -> np.ndarray:
        mount = drive.config.radars[0]
        scans = [(mount, drive.start_ns + k * 12_000_000) for k in range(20)]
        points = np.concatenate([s.points for s in radar_sweeps(drive, scans)])
        return points[points["invalid_state"] != 7]  # seen at one bearing, reported at another

    counts = {"whole": np.zeros(2), "covered side": np.zeros(2), "open side": np.zeros(2)}
    for seed in range(14):
        clean = replace(stage(radar_blockage=0.0), seed=seed)
        dirty = replace(stage(radar_blockage=1.0), seed=seed)
        _, low, high = blockage(dirty, dirty.config.radars[0])
        for k, points in enumerate((sweeps(clean), sweeps(dirty))):
            bearing = np.arctan2(points["y"], points["x"])
            inside = (bearing >= low) & (bearing <= high)
            if high - low > 6:
                counts["whole"][k] += len(points)
            else:
                counts["covered side"][k] += inside.sum()
                counts["open side"][k] += (~inside).sum()
    left = {name: after / before for name, (before, after) in counts.items()}
    assert left["whole"] < 0.2
    assert left["covered side"] < 0.5
    assert left["open side"] == pytest.approx(1.0, abs=0.2)


def test_a_clean_radar_in_dry_air_loses_nothing():
    points = _ahead(5.0, 50.0)
    link = Link(0.0, np.array([[0.0, -1.0, 1.0]]))
    unit = unit_signal(points)
    np.testing.assert_array_equal(link.signal(np.zeros(2, dtype=np.int64), points, np.zeros(2), unit), unit)
