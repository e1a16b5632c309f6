"""The worker thread of the node."""

from __future__ import annotations

import threading

from crkd_ros.nodes.worker import Worker

TIMEOUT = 10.0


class Gate:
    """Work that waits to be let through."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.finished = threading.Semaphore(0)
        self.done: list[int] = []

    def __call__(self, item: int) -> None:
        self.started.release()
        assert self.go.acquire(timeout=TIMEOUT)
        self.done.append(item)
        self.finished.release()

    def let_through(self, count: int) -> None:
        for _ in range(count):
            self.go.release()
            assert self.finished.acquire(timeout=TIMEOUT)


def test_newest_item_wins_and_the_others_are_counted():
    gate = Gate()
    worker = Worker(gate, on_error=lambda _: None)
    worker.submit(0)
    assert gate.started.acquire(timeout=TIMEOUT)
    for item in (1, 2, 3):
        worker.submit(item)
    gate.let_through(2)
    assert gate.done == [0, 3]
    assert worker.dropped == 2
    assert worker.stop()


def test_without_dropping_all_items_are_worked_on_in_order():
    gate = Gate()
    worker = Worker(gate, on_error=lambda _: None, capacity=9, when_full="wait")
    for item in range(5):
        worker.submit(item)
    assert worker.idle_for == 0.0
    gate.let_through(5)
    assert gate.done == list(range(5))
    assert worker.dropped == 0
    assert worker.stop()


def test_handing_over_waits_for_room_where_nothing_may_be_lost():
    gate, handed_over = Gate(), []
    worker = Worker(gate, on_error=lambda _: None, capacity=2, when_full="wait")

    def hand_over() -> None:
        for item in range(5):
            worker.submit(item)
            handed_over.append(item)

    thread = threading.Thread(target=hand_over)
    thread.start()
    assert gate.started.acquire(timeout=TIMEOUT)
    thread.join(0.2)
    assert handed_over == [0, 1, 2]  # one is being worked on, two wait
    gate.let_through(5)
    thread.join(TIMEOUT)
    assert gate.done == list(range(5))
    assert worker.dropped == 0
    assert worker.stop()


def test_stopping_sets_free_who_waits_for_room():
    gate = Gate()
    worker = Worker(gate, on_error=lambda _: None, when_full="wait")
    worker.submit(0)
    assert gate.started.acquire(timeout=TIMEOUT)
    worker.submit(1)
    thread = threading.Thread(target=worker.submit, args=(2,))
    thread.start()
    assert not worker.stop(timeout=0.0)
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    gate.let_through(1)
    assert worker.stop()
    assert gate.done == [0]


def test_error_is_handed_on_and_the_next_item_worked_on():
    errors: list[Exception] = []
    done = threading.Event()

    def work(item: str) -> None:
        if item == "bad":
            raise ValueError(item)
        done.set()

    worker = Worker(work, on_error=errors.append, capacity=9)
    worker.submit("bad")
    worker.submit("good")
    assert done.wait(TIMEOUT)
    assert [str(error) for error in errors] == ["bad"]
    assert worker.stop()


def test_stop_drops_what_waits_and_finishes_what_is_being_done():
    gate = Gate()
    worker = Worker(gate, on_error=lambda _: None, capacity=9, when_full="wait")
    worker.submit(0)
    worker.submit(1)
    assert gate.started.acquire(timeout=TIMEOUT)
    assert not worker.stop(timeout=0.0)
    gate.let_through(1)
    assert worker.stop()
    assert gate.done == [0]
