"""What calls a node's callbacks, in one thread."""

from __future__ import annotations

from rclpy.executors import Executor, SingleThreadedExecutor


def single_threaded_executor() -> Executor:
    """An executor that calls one callback at a time, in the thread that spins it.

    Where the distribution has one that is told of messages as they arrive, it is that: it takes them in the order of
    their arrival, whatever their topic, for a third of the processor time. The other one asks every subscription and
    service anew each time it waits. Spin either with ``spin_once``; the first one's ``spin`` calls nothing in Kilted.
    """
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:  # before Kilted
        return SingleThreadedExecutor()
    return EventsExecutor()
