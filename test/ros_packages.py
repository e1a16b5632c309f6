"""Packages that only a ROS distribution provides."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def needed(module: str) -> Any:
    """A module of a ROS distribution; the test is skipped where there is none."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"no {module} here ({error}); source a ROS distribution that has it")
