"""What every test relies on: the environment of the process, and which kinds of tests can run on this machine.

The markers are explained in ``pyproject.toml``. A test of a kind that cannot run here is skipped with the reason, and
the end of the run says for each kind how many ran and how many did not.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

# The tests' networks are small, and with another number of threads sums are rounded in another way: what one process
# computes would not be, to the last bit, what the processes that it starts do. The OpenMP runtime reads this when torch
# is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see crkd_core/__init__.py; here torch is loaded first

# Before anything imports rclpy: a graph of this machine only, and a domain of this process only.
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
# The home folder may not be writable, and is not for the logs of tests.
os.environ.setdefault("ROS_LOG_DIR", str(Path(tempfile.gettempdir()) / f"crkd_ros-test-logs-{os.getuid()}"))

import torch

# Before anything imports triton: without a GPU kernels run in the interpreter.
HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A launcher's words to the process that runs the tests are not for the trainings in them.
for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
    del os.environ[name]
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

# A machine that others use, too, takes its time; and what fails once fails again.
if importlib.util.find_spec("hypothesis") is not None:  # machines for tests on GPUs may lack it
    from hypothesis import HealthCheck, settings

    settings.register_profile("machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("machine")

FOLDER_VARIABLES = {"golden": "CRKD_GOLDEN_DIR", "nuscenes": "NUSCENES_SAMPLE_ROOT"}
KINDS = ("golden", "nuscenes", "ros", "kernels", "gpu")
RESULTS_VARIABLE = "NUSCENES_RESULTS_DIR"


def folder_of(variable: str) -> Path:
    """The folder that an environment variable names.

    Raises:
        LookupError: the variable is not set, or the folder does not exist.
    """
    value = os.environ.get(variable)
    if not value:
        raise LookupError(f"{variable} is not set")
    folder = Path(value).expanduser().resolve()
    if not folder.is_dir():
        raise LookupError(f"{variable}: no folder {folder}")
    return folder


@cache
def obstacle(kind: str) -> str | None:
    """Why tests of this kind cannot run here; None where they can."""
    if kind in FOLDER_VARIABLES:
        try:
            folder_of(FOLDER_VARIABLES[kind])
        except LookupError as error:
            return str(error)
    elif kind == "ros" and importlib.util.find_spec("rclpy") is None:
        return "rclpy is not installed"
    elif kind == "kernels" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    elif kind == "gpu" and not HAS_GPU:
        return "no CUDA GPU"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run on this machine."""
    for item in items:
        for kind in KINDS:
            if item.get_closest_marker(kind) is None:
                continue
            reason = obstacle(kind)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=f"{kind}: {reason}"))


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of numeric test vectors (mark the test ``golden``)."""
    return folder_or_skip("CRKD_GOLDEN_DIR")


@pytest.fixture(scope="session")
def nuscenes_root() -> Path:
    """The root of a real nuScenes data set, or a part of one (mark the test ``nuscenes``)."""
    return folder_or_skip("NUSCENES_SAMPLE_ROOT")


@pytest.fixture(scope="session")
def nuscenes_results_dir() -> Path:
    """The folder with a real submission and the official metric's output on it (mark the test ``nuscenes``)."""
    return folder_or_skip(RESULTS_VARIABLE)


def folder_or_skip(variable: str) -> Path:
    """The folder that a variable names, or the test is skipped."""
    try:
        return folder_of(variable)
    except LookupError as error:
        pytest.skip(str(error))


class Tally:
    """Counts, for each kind of test, how many ran and how many were skipped."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test ran if its body was called, and was skipped if set-up or body said so."""
        kinds = [kind for kind in KINDS if kind in report.keywords] or ["other"]
        if report.skipped:
            self.skipped.update(kinds)
        elif report.when == "call":
            self.ran.update(kinds)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line per kind."""
        terminalreporter.section("tests by kind")
        for kind in ("other", *KINDS):
            if self.ran[kind] or self.skipped[kind]:
                line = f"{kind:>9}: {self.ran[kind]:4d} ran, {self.skipped[kind]:4d} skipped"
                reason = obstacle(kind) if self.skipped[kind] else None
                terminalreporter.write_line(f"{line} ({reason})" if reason else line)


def pytest_configure(config: pytest.Config) -> None:
    """Register the tally in the process that reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Tally(), "tally")
