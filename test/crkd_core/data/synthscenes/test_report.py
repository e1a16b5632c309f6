import numpy as np
import pytest
from numpy.typing import NDArray

from crkd_core.data.synthscenes.echoes import ALIASED, DIRECT, FALSE, MIRRORED, Draws, Echoes
from crkd_core.data.synthscenes.report import reports

_MANY = 4000


def _reported(
    x: float, y: float, rcs: float, *, velocity: tuple[float, float] = (0.0, 0.0), cause: int = DIRECT
) -> NDArray[np.void]:
    """Reports of one echo in each of many sweeps."""
    echoes = Echoes(
        sweep=np.arange(_MANY),
        body=np.zeros(_MANY, dtype=np.int64),
        points=np.tile([x, y], (_MANY, 1)),
        velocity=np.tile(velocity, (_MANY, 1)),
        level=np.full(_MANY, 30.0 + rcs),
        unit=np.full(_MANY, 30.0),
        cause=np.full(_MANY, cause),
    )
    draws = Draws([np.random.default_rng([1, k]) for k in range(_MANY)])
    return reports(echoes, np.zeros((_MANY, 2)), draws)


def test_range_is_measured_better_than_the_place_across_far_away():
    p = _reported(50.0, 50.0, 10.0)
    away, across = np.array([1, 1]) / np.sqrt(2), np.array([-1, 1]) / np.sqrt(2)
    xy = np.stack([p["x"], p["y"]], axis=1)
    assert (xy @ away).mean() == pytest.approx(np.hypot(50, 50), abs=0.05)
    assert (xy @ away).std() == pytest.approx(0.12, rel=0.1)
    assert (xy @ across).std() > 5 * (xy @ away).std()


def test_weak_echoes_far_away_are_doubted_and_strong_ones_pass():
    weak, strong = _reported(50.0, 5.0, -3.0), _reported(50.0, 5.0, 8.0)
    assert (weak["invalid_state"] == 4).mean() == pytest.approx(0.7, abs=0.05)
    assert (weak["pdh0"][weak["invalid_state"] == 4] == 3).all()
    assert (strong["invalid_state"] == 0).mean() > 0.9
    assert (strong["pdh0"] == 1).all()
    assert (strong["rcs"] == 8.0).all()


@pytest.mark.parametrize(("cause", "state", "share"), [(ALIASED, 7, 1.0), (MIRRORED, 6, 0.3), (FALSE, 3, 1.0)])
def test_what_is_no_object_raises_the_false_alarm_probability(cause: int, state: int, share: float):
    p = _reported(30.0, 2.0, 5.0, cause=cause)
    marked = p["invalid_state"] == state
    assert marked.mean() == pytest.approx(share, abs=0.03)
    assert (p["pdh0"][marked] == 6).all()
    assert (p["ambig_state"][marked] == 0).all()


def test_dynamics_follow_the_radial_speed():
    away, toward = _reported(30.0, 0.0, 5.0, velocity=(6.0, 0.0)), _reported(30.0, 0.0, 5.0, velocity=(-6.0, 0.0))
    across, still = _reported(30.0, 0.0, 5.0, velocity=(0.0, 6.0)), _reported(30.0, 0.0, 5.0)
    shares = [(p["dyn_prop"] == state).mean() for p, state in ((away, 0), (toward, 2), (across, 6), (still, 1))]
    assert min(shares[:2]) > 0.9
    assert shares[2] > 0.75
    assert 0.5 < shares[3] < 0.6
    assert away["vx_comp"].mean() == pytest.approx(6.0, abs=0.02)
    assert (away["ambig_state"] != 3).mean() > 2 * (still["ambig_state"] != 3).mean()


def test_a_weaker_return_beside_a_stronger_one_of_the_same_body_is_often_marked():
    p = np.tile([[30.0, 2.0], [30.8, 2.0]], (_MANY // 2, 1))
    echoes = Echoes(
        sweep=np.repeat(np.arange(_MANY // 2), 2),
        body=np.zeros(_MANY, dtype=np.int64),
        points=p,
        velocity=np.zeros((_MANY, 2)),
        level=np.tile([50.0, 40.0], _MANY // 2),
        unit=np.full(_MANY, 30.0),
        cause=np.full(_MANY, DIRECT),
    )
    records = reports(
        echoes, np.zeros((_MANY // 2, 2)), Draws([np.random.default_rng([2, k]) for k in range(_MANY // 2)])
    )
    stronger, weaker = records[::2], records[1::2]
    assert (stronger["invalid_state"] == 11).sum() == 0
    assert (weaker["invalid_state"] == 11).mean() == pytest.approx(0.75, abs=0.04)
