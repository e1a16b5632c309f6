import numpy as np
import pytest

from crkd_core.data.synthscenes.echoes import View
from crkd_core.data.synthscenes.shadows import blockers, shadow_loss

_SIZES = np.array([[2.0, 10.0, 3.0], [2.0, 2.0, 3.0]])
_LOSS = np.array([20.0, 7.0])


def _view() -> View:
    """Two sweeps: in the first both bodies ahead, at 10 and 20 m; in the second only the small one, to the left."""
    return View(
        sweep=np.array([0, 0, 1]),
        body=np.array([0, 1, 1]),
        xy=np.array([[10.0, 0.0], [20.0, 0.0], [10.0, 8.0]]),
        yaw=np.zeros(3),
        velocity=np.zeros((3, 2)),
        own=np.zeros((2, 2)),
        origin=np.zeros((2, 2)),
        heading=np.zeros(2),
    )


@pytest.mark.parametrize(
    ("sweep", "point", "body", "loss"),
    [
        (0, (8.0, 0.0), -1, 0.0),  # before both
        (0, (15.0, 0.0), -1, 20.0),
        (0, (30.0, 0.0), -1, 27.0),  # behind both
        (0, (30.0, 20.0), -1, 0.0),  # past the edge of the near one
        (0, (30.0, 13.0), -1, 20.0),  # behind the near one, past the far one
        (0, (19.0, 0.0), 1, 20.0),  # on the far one
        (0, (9.0, 1.0), 0, 0.0),  # on the near one
        (1, (30.0, 0.0), -1, 0.0),  # another sweep
        (1, (20.0, 16.0), -1, 7.0),
        (0, (-15.0, 0.0), -1, 0.0),  # behind the sensor
    ],
)
def test_loss_adds_up_over_what_stands_in_the_way(sweep: int, point: tuple[float, float], body: int, loss: float):
    boxes = blockers(_view(), _SIZES, _LOSS)
    out = shadow_loss(boxes, sweep=np.array([sweep]), points=np.array([point]), body=np.array([body]))
    assert out.tolist() == [loss]


def test_many_points_at_once_are_the_same_as_each_alone():
    rng = np.random.default_rng(1)
    boxes = blockers(_view(), _SIZES, _LOSS)
    points, sweep = rng.uniform(-5, 40, (200, 2)), rng.integers(0, 2, 200)
    body = rng.integers(-1, 2, 200)
    together = shadow_loss(boxes, sweep=sweep, points=points, body=body)
    alone = [
        shadow_loss(boxes, sweep=sweep[i : i + 1], points=points[i : i + 1], body=body[i : i + 1])[0]
        for i in range(200)
    ]
    np.testing.assert_array_equal(together, alone)
    assert 20 < (together > 0).sum() < 180


def test_no_blockers_hide_nothing():
    boxes = blockers(_view(), _SIZES, np.zeros(2))
    out = shadow_loss(boxes, sweep=np.zeros(1, np.int64), points=np.array([[30.0, 0.0]]), body=np.array([-1]))
    assert out.tolist() == [0.0]
