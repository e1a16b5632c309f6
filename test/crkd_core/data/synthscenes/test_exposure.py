import numpy as np
import pytest

from crkd_core.data.synthscenes.exposure import expose, with_noise


def test_exposure_is_short_by_day_long_by_night_and_gives_up_in_the_dark():
    day, dusk, night, dark = (expose(luminance) for luminance in (5000.0, 20.0, 0.3, 0.001))
    assert day.time < 0.001 < dusk.time <= night.time == pytest.approx(0.015)
    assert day.electrons == pytest.approx(10_000)
    assert day.electrons > dusk.electrons > night.electrons >= dark.electrons == pytest.approx(100)
    # A picture of the dark stays dark: its mean is a small part of white.
    assert 0.2 < 5000.0 / day.white < 0.3
    assert 0.001 / dark.white < 0.01


def test_the_tone_curve_is_a_square_root_up_to_white():
    exposure = expose(1000.0)
    np.testing.assert_allclose(exposure.coded(exposure.white * np.array([0, 0.25, 1, 4])), [0, 127.5, 255, 255])


def test_noise_is_that_of_photons_at_every_value():
    # Electrons are Poisson; under a square root their spread no longer depends on how many there are.
    exposure = expose(0.3)
    rng = np.random.default_rng(0)
    for share in (0.2, 0.5, 0.9):
        electrons = rng.poisson(exposure.electrons * share, 200_000)
        coded = 255 * np.sqrt(electrons / exposure.electrons)
        assert coded.std() == pytest.approx(exposure.noise(1.0), rel=0.03)


def test_noise_in_an_image_has_the_spread_asked_for_and_none_changes_nothing():
    grey = np.full((200, 300, 3), 128, dtype=np.uint8)
    noisy = with_noise(grey, 6.0, np.random.default_rng(1)).astype(float)
    assert noisy.std() == pytest.approx(6.0, rel=0.03)
    assert noisy.mean() == pytest.approx(128, abs=0.1)
    assert with_noise(grey, 0.0, np.random.default_rng(1)) is grey
