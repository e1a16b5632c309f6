"""The order of samples: shuffled, balanced by class, resumed, shared between processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from crkd_core.data.errors import DataError
from crkd_core.data.sampling import ClassBalanced, EpochOrder, Position, Shuffled, StepSampler, earlier_occurrences

CAR, BUS, CONE = 0, 3, 9


def labels_of(*samples: list[int]) -> list[np.ndarray]:
    return [np.array(labels, dtype=np.int64) for labels in samples]


def many_labels(n: int = 400) -> list[np.ndarray]:
    """Cars in every sample, ten classes of falling frequency, some samples twice the same class, one in ten empty."""
    rng = np.random.default_rng(0)
    frequency = np.array([1.0, 0.5, 0.05, 0.1, 0.1, 0.3, 0.08, 0.07, 0.6, 0.4])
    labels = [np.repeat(np.flatnonzero(rng.uniform(size=10) < frequency), 2) for _ in range(n)]
    return [found if i % 10 else found[:0] for i, found in enumerate(labels)]


class TestShuffled:
    def test_every_epoch_has_every_sample_once_in_another_order(self):
        positions = list(StepSampler(Shuffled(10, seed=0), start=0, stop=30))
        epochs = [[p.sample for p in positions if p.epoch == epoch] for epoch in range(3)]
        assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert {p.repeat for p in positions} == {0}

    def test_seed_changes_the_order(self):
        orders = {tuple(StepSampler(Shuffled(10, seed=seed), start=0, stop=10)) for seed in range(5)}
        assert len(orders) == 5


class TestClassBalanced:
    def test_number_of_samples_is_the_originals(self):
        """For each class int(n_c * 0.1 / share_c), where share_c = n_c / (sum of all n_c)."""
        labels = many_labels()
        n = np.array([sum(c in one for one in labels) for c in range(10)])
        original = sum(int(n_c * (0.1 / (n_c / n.sum()))) for n_c in n)
        assert abs(len(ClassBalanced(labels, seed=0)) - original) <= 10  # their division may fall short of a whole
        assert len(ClassBalanced(labels, seed=0)) == n.sum() // 10 * 10

    def test_rare_classes_come_as_often_as_frequent_ones(self):
        labels = many_labels()
        order = ClassBalanced(labels, seed=1)
        share = len(order) // 10
        plain = Counter(c for one in labels for c in set(one.tolist()))
        shown = Counter(c for i in order.indices(0) for c in set(labels[i].tolist()))
        assert plain[2] / plain[0] < 0.1
        # Each class has its own share, and comes along with others.
        assert min(shown.values()) >= share
        assert shown[2] / shown[0] > 0.1

    def test_samples_of_a_class_are_drawn_alike(self):
        labels = labels_of([CAR], [CAR], [CAR, BUS], [CONE])
        order = ClassBalanced(labels * 10, seed=0)
        assert len(order) == 5 * 3
        drawn = Counter(i % 4 for epoch in range(2000) for i in order.indices(epoch).tolist())
        total = 2000 * len(order)
        for sample, part in enumerate((1 / 9, 1 / 9, 1 / 9 + 1 / 3, 1 / 3)):
            assert drawn[sample] / total == pytest.approx(part, rel=0.05)

    def test_samples_without_objects_are_never_drawn(self):
        labels = many_labels()
        shown = {int(i) for epoch in range(30) for i in ClassBalanced(labels, seed=0).indices(epoch)}
        assert shown == {i for i, one in enumerate(labels) if len(one)}

    def test_epochs_and_seeds_differ_and_repeat(self):
        labels = many_labels()
        one, other = ClassBalanced(labels, seed=0), ClassBalanced(labels, seed=1)
        drawn = [tuple(one.indices(0)), tuple(one.indices(1)), tuple(other.indices(0))]
        assert len(set(drawn)) == 3
        assert tuple(one.indices(0)) == drawn[0]

    def test_a_data_set_of_one_sample_is_drawn(self):
        assert ClassBalanced(labels_of([CAR]), seed=0).indices(0).tolist() == [0]

    def test_a_data_set_without_objects_is_refused(self):
        with pytest.raises(DataError, match="none of 2 samples has an annotated object"):
            ClassBalanced(labels_of([], []), seed=0)


ORDERS = [Shuffled(10, seed=5), ClassBalanced(many_labels(40), seed=5)]


@pytest.mark.parametrize("order", ORDERS, ids=["shuffled", "balanced"])
class TestStepSampler:
    @pytest.mark.parametrize("start", [1, 9, 10, 25])
    def test_resumed_at_any_position_it_goes_on_as_before(self, order: EpochOrder, start: int):
        whole = list(StepSampler(order, start=0, stop=200))
        assert list(StepSampler(order, start=start, stop=200)) == whole[start:]
        assert len(StepSampler(order, start=start, stop=200)) == 200  # the whole run, also when resumed

    def test_processes_share_the_sequence(self, order: EpochOrder):
        whole = list(StepSampler(order, start=4, stop=150))
        parts = [list(StepSampler(order, start=4, stop=150, rank=r, world_size=2)) for r in range(2)]
        assert parts[0] == whole[::2]
        assert parts[1] == whole[1::2]

    def test_what_follows_can_be_asked(self, order: EpochOrder):
        part = StepSampler(order, start=4, stop=150, rank=1, world_size=3)
        assert part.following(30, 5) == list(StepSampler(order, start=30, stop=150, rank=1, world_size=3))[:5]
        assert len(part.following(147, 5)) == 1

    def test_no_position_comes_twice(self, order: EpochOrder):
        positions = list(StepSampler(order, start=0, stop=200))
        assert len(set(positions)) == 200

    def test_can_be_read_twice(self, order: EpochOrder):
        sampler = StepSampler(order, start=0, stop=5)
        assert list(sampler) == list(sampler)


@pytest.mark.parametrize("options", [{"n": 0}, {"start": -1}, {"rank": 2, "world_size": 2}])
def test_nonsense_is_refused(options: dict[str, int]):
    values = {"n": 4, "start": 0, "stop": 8} | options
    order = Shuffled(values.pop("n"), seed=0)
    with pytest.raises(ValueError, match="StepSampler"):
        StepSampler(order, **values)


def test_repeats_are_counted():
    assert earlier_occurrences(np.array([3, 1, 3, 3, 1, 0])).tolist() == [0, 0, 1, 2, 1, 0]
    assert earlier_occurrences(np.zeros(0, dtype=np.int64)).tolist() == []


def test_a_repeated_sample_has_its_own_position():
    order = ClassBalanced(labels_of([CAR] * 2, [BUS], *([[CAR, BUS]] * 20)), seed=0)
    positions = list(StepSampler(order, start=0, stop=len(order)))
    by_sample = Counter(p.sample for p in positions)
    assert max(by_sample.values()) > 1
    assert Position(0, by_sample.most_common(1)[0][0], 1) in positions
