"""CPU time by part."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from load.meter import Meter, samples_of


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_time_within_another_part_counts_there_only_and_sleep_counts_nowhere():
    meter, owner = Meter(), SimpleNamespace()
    owner.inner = lambda: work(0.06)

    def outer() -> str:
        work(0.03)
        time.sleep(0.05)
        owner.inner()
        return "done"

    owner.outer = outer
    meter.wrap(owner, "inner", "a")
    meter.wrap(owner, "outer", "b")
    assert owner.outer() == "done"
    found = meter.sample()
    assert found.parts["a"] == pytest.approx(0.06, abs=0.01)
    assert found.parts["b"] == pytest.approx(0.03, abs=0.01)
    assert found.calls == {"a": 1, "b": 1}


def test_threads_are_counted_apart_and_errors_pass_through():
    meter, owner = Meter(), SimpleNamespace()

    def failing() -> None:
        work(0.03)
        raise RuntimeError("as usual")

    owner.failing = failing
    meter.wrap(owner, "failing", "a")

    def run() -> None:
        with pytest.raises(RuntimeError, match="as usual"):
            owner.failing()

    before = meter.sample()
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = meter.sample()
    assert after.parts["a"] == pytest.approx(0.09, abs=0.02)
    assert after.calls["a"] == 3
    assert after.cpu - before.cpu >= 0.08
    assert after.main - before.main < 0.05


def test_samples_are_taken_and_written(tmp_path: Path):
    meter, path = Meter(), tmp_path / "samples"
    path.write_text("of an earlier run")
    meter.start(path)
    meter.write(path)
    samples = samples_of(path)
    assert len(samples) >= 2
    assert samples[0].time < samples[1].time
    assert samples[1].resident > 10_000_000


def test_nothing_to_wrap_is_a_mistake():
    with pytest.raises(AttributeError):
        Meter().wrap(SimpleNamespace(), "renamed", "a")
