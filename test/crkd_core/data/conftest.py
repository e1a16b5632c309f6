"""Data sets in nuScenes format: the tiny one, and the real one at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_set import TinySet


@pytest.fixture(scope="session")
def nuscenes_version(nuscenes_root: Path) -> str:
    """The version of the real data set at hand."""
    return next(p.parent.name for p in sorted(nuscenes_root.glob("v1.0-*/sample.json")))


@pytest.fixture
def tiny_set(tmp_path: Path) -> TinySet:
    """The data set, written for this test alone."""
    return TinySet(tmp_path / "data")
