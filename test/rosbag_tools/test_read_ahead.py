"""Reading ahead changes neither the order nor what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from rosbag_tools.read_ahead import read_ahead


def test_items_come_in_order_from_another_thread() -> None:
    threads = set()

    def numbers() -> Generator[int, None, None]:
        for i in range(50):
            threads.add(threading.get_ident())
            yield i

    with read_ahead(numbers(), depth=3) as items:
        assert list(items) == list(range(50))
    assert threads
    assert threading.get_ident() not in threads


def test_an_error_comes_after_the_items_before_it() -> None:
    def numbers() -> Generator[int, None, None]:
        yield 1
        raise ValueError("damaged")

    found = []
    with pytest.raises(ValueError, match="damaged"), read_ahead(numbers(), depth=3) as items:
        found += items
    assert found in ([], [1])


def test_no_more_is_read_than_asked_for_and_leaving_ends_it() -> None:
    taken, closed = [], threading.Event()

    def numbers() -> Generator[int, None, None]:
        try:
            for i in range(1000):
                taken.append(i)
                yield i
        finally:
            closed.set()

    with read_ahead(numbers(), depth=2) as items:
        assert next(items) == 0
    assert closed.wait(5)
    assert len(taken) <= 6
