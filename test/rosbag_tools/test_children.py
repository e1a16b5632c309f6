from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rosbag_tools import children as module
from rosbag_tools.children import ChildError, Children, ended_by_signals, free_domain, graph_environment

SLEEP = "import time; print('ready', flush=True); time.sleep(60)"


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and is not yet reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid: int) -> bool:
    """Whether a process that was killed is gone within seconds; when exactly is up to the scheduler."""
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path / "logs", os.environ)


def test_nothing_is_left_running(children: Children) -> None:
    # One that ends on Ctrl-C, and one that ignores it and has a child of its own.
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, 'ready', flush=True); time.sleep(60)"
    )
    with children:
        kind = children.start("kind", [sys.executable, "-c", SLEEP])
        unkind = children.start("unkind", [sys.executable, "-c", stubborn])
        kind.wait_for("ready", timeout=20)
        unkind.wait_for("ready", timeout=20)
        grandchild = int(unkind.text().split()[0])
        assert unkind.stop(timeout=0.3) == -signal.SIGTERM
        assert ends(grandchild)
    assert kind.returncode is not None


def test_program_is_ended_by_ctrl_c_even_where_this_one_ignores_it(children: Children) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        with children:
            kind = children.start("kind", [sys.executable, "-c", SLEEP])
            kind.wait_for("ready", timeout=20)
            assert kind.stop() == -signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_crash_is_told_with_the_end_of_the_log(children: Children) -> None:
    code = "for i in range(100): print('line', i)\nraise SystemExit(3)"
    with (
        children,
        pytest.raises(ChildError, match=r"(?s)worker stopped with exit code 3; .*worker\.log:.*line 99") as e,
    ):
        children.start("worker", [sys.executable, "-c", code]).wait(timeout=20)
    assert "line 50" not in str(e.value)


def test_end_before_it_was_ready_is_told(children: Children) -> None:
    with children, pytest.raises(ChildError, match="worker ended too early"):
        children.start("worker", [sys.executable, "-c", "pass"]).wait_for("ready", timeout=20)


def test_timeout_is_told(children: Children) -> None:
    with children, pytest.raises(ChildError, match=r"worker did not end within 0 s; .*worker\.log"):
        children.start("worker", [sys.executable, "-c", SLEEP]).wait(timeout=0.2)


def test_crash_of_another_program_ends_the_waiting(children: Children) -> None:
    with children:
        worker = children.start("worker", [sys.executable, "-c", SLEEP])
        other = children.start("detector", [sys.executable, "-c", "raise SystemExit(1)"])
        with pytest.raises(ChildError, match="detector stopped with exit code 1"):
            worker.wait(timeout=20, others=[other])


def test_last_words_count_even_if_it_has_ended_since(children: Children) -> None:
    with children:
        children.start("worker", [sys.executable, "-c", "print('ready')"]).wait_for("ready", timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_programs_end_with_the_one_that_started_them(tmp_path: Path, number: int) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from rosbag_tools.children import Children, ended_by_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests themselves may run under nohup
        f"with ended_by_signals(), Children(Path({str(tmp_path)!r}), os.environ) as children:\n"
        f"    child = children.start('worker', [sys.executable, '-c', {SLEEP!r}])\n"
        "    child.wait_for('ready', timeout=20)\n"
        "    print(child._process.pid, flush=True)\n"
        "    child.wait(timeout=60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(number)
        parent.wait(20)
    assert ends(pid)


def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def wait_for_a_signal() -> None:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        wait_for_a_signal()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_domain_in_use_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HIGHEST_DOMAIN", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7400 + 250 + 12))
        with pytest.raises(ChildError, match="no free domain"):
            free_domain()


def test_graph_is_for_this_machine_only() -> None:
    environment = graph_environment()
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert 1 <= int(environment["ROS_DOMAIN_ID"]) <= 101
