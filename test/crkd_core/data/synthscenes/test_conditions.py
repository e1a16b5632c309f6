import numpy as np
import pytest

from crkd_core.data.synthscenes.conditions import Conditions, ConditionShares, draw_conditions
from crkd_core.data.synthscenes.light import make_light


def _many(shares: ConditionShares, count: int = 2000) -> list[Conditions]:
    return [draw_conditions(np.random.default_rng(seed), shares) for seed in range(count)]


def test_conditions_come_in_their_shares():
    shares = ConditionShares()
    many = _many(shares)
    for name in ("dusk", "night"):
        assert np.mean([c.light == name for c in many]) == pytest.approx(getattr(shares, name), abs=0.03)
    assert np.mean([c.rain > 0 for c in many]) == pytest.approx(shares.rain, abs=0.03)
    assert np.mean([c.visibility < 1000 for c in many]) == pytest.approx(shares.fog, abs=0.02)
    for c in many:
        degrees = np.rad2deg(c.sun_elevation)
        low, high = {"day": (4, 60), "dusk": (-6, 4), "night": (-40, -10)}[c.light]
        assert low <= degrees <= high
        assert c.cloud == 1.0 or c.rain == 0


def test_fixing_one_condition_leaves_the_others():
    free, wet = _many(ConditionShares(), 50), _many(ConditionShares(rain=1.0, rain_mm_h=(8.0, 8.0)), 50)
    np.testing.assert_allclose([c.rain for c in wet], 8.0)
    assert [(c.light, c.sun_elevation, c.visibility) for c in free] == [
        (c.light, c.sun_elevation, c.visibility) for c in wet
    ]


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        (Conditions("day", 0.8, 0.0), "Day, clear"),
        (Conditions("day", 0.2, 0.0), "Day, low sun"),
        (Conditions("dusk", -0.05, 0.0, cloud=1.0), "Dusk, overcast"),
        (Conditions("night", -0.5, 0.0, cloud=1.0, rain=8.0), "Night, rain 8 mm/h"),
        (Conditions("day", 0.5, 0.0, cloud=1.0, visibility=250.0), "Day, fog, visibility 250 m"),
    ],
)
def test_descriptions_name_light_and_weather(conditions: Conditions, words: str):
    assert conditions.describe() == words


def test_extinction_leaves_five_percent_at_the_visibility_and_grows_in_rain():
    dry = Conditions("day", 0.5, 0.0, visibility=500.0)
    assert np.exp(-dry.extinction * 500) == pytest.approx(0.05)
    rain = Conditions("day", 0.5, 0.0, visibility=1e9, rain=10.0)
    assert rain.extinction * 1000 * 10 / np.log(10) == pytest.approx(1.076 * 10**0.67, rel=1e-3)  # dB/km


def test_light_falls_from_noon_to_night_as_on_earth():
    lux = [float(make_light(1, Conditions("day", np.deg2rad(h), 0.0)).ground.mean()) for h in (60, 20, 0, -6, -30)]
    assert lux == sorted(lux, reverse=True)
    assert 90_000 < lux[0] < 130_000
    assert 300 < lux[2] < 1500
    assert 2 < lux[3] < 6
    assert lux[4] < 0.5
    cloudy = make_light(1, Conditions("day", np.deg2rad(60), 0.0, cloud=1.0))
    assert not cloudy.direct.any()
    assert 10_000 < cloudy.ground.mean() < 25_000


def test_lamps_are_on_when_it_is_dark_and_headlights_in_rain_too():
    noon, night = (make_light(1, Conditions("day", np.deg2rad(h), 0.0)) for h in (50, -30))
    assert not noon.headlights
    assert not noon.lamp.any()
    assert night.headlights
    assert night.lamps
    rain = make_light(1, Conditions("day", np.deg2rad(50), 0.0, cloud=1.0, rain=3.0))
    assert rain.headlights
    assert not rain.lamps
