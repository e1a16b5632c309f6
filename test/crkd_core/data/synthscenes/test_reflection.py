import numpy as np
import pytest

from crkd_core.data.synthscenes.population import LABEL
from crkd_core.data.synthscenes.reflection import reflections


def test_every_class_has_a_material_and_large_metal_reflects_more_than_people():
    kinds = list(LABEL)
    nature = reflections(0, kinds, np.ones((len(kinds), 3)))
    rcs = dict(zip(kinds, nature.rcs, strict=True))
    assert rcs["truck"] > rcs["car"] > rcs["motorcycle"] > rcs["pedestrian"] > rcs["traffic_cone"]
    assert -10 <= rcs["pedestrian"] <= 0
    assert 5 <= rcs["car"] <= 20


def test_long_bodies_have_more_scattering_centres():
    nature = reflections(0, ["building"] * 2, np.array([[10.0, 8.0, 5.0], [30.0, 8.0, 5.0]]))
    assert nature.centres[1] - nature.centres[0] == pytest.approx(14, abs=1)


def test_brightness_is_drawn_from_the_seed_and_spreads_around_that_of_the_kind():
    sizes = np.ones((500, 3))
    first, again, other = (reflections(seed, ["car"] * 500, sizes).albedo for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.mean() == pytest.approx(0.3, abs=0.02)
    assert first.min() < 0.15
    assert first.max() > 0.45


def test_a_kind_without_a_material_is_named():
    with pytest.raises(ValueError, match="no material for balloon; known: car, "):
        reflections(0, ["car", "balloon"], np.ones((2, 3)))
