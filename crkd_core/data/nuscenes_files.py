"""Which files of a data set are there.

Each folder is listed once, whatever the number of its files, and again only when its modification time says that a
file has come or gone.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crkd_core.data.nuscenes_columns import STAMP_MARK, Content

FolderStates = dict[str, int]
"""Folder relative to the data root -> modification time in ns when it was listed; -1: it is not there."""

SETTLED_NS = 2_000_000_000
"""A folder changed more recently than this before it was listed may change again under the same modification time,
which some file systems count in whole (even in pairs of) seconds."""
_UNSETTLED = -2


@dataclass(frozen=True)
class Presence:
    """Which files were there.

    Attributes:
        folders: the folders and when they had changed.
        present: (R,) bool, of the records of ``Content``.
    """

    folders: FolderStates
    present: NDArray[np.bool_]


def file_of(content: Content, row: int) -> str:
    """Path of a record's file, relative to the data root."""
    record = content.records[row]
    pattern: bytes = content.files[record["file"]]
    return pattern.replace(STAMP_MARK, _microseconds(int(record["stamp"]))).decode()


def present_files(root: Path, content: Content, known: Presence | None = None) -> Presence:
    """Look for the files of all records.

    Args:
        root: data root.
        content: the tables.
        known: what was found before, for the same content; returned itself if no folder has changed since.
    """
    parts = [pattern.rpartition(b"/") for pattern in content.files.tolist()]
    folder_of_file = np.array([os.fsdecode(folder) for folder, _, _ in parts])
    names = [name.partition(STAMP_MARK) for _, _, name in parts]
    before = {} if known is None else known.folders
    folders = np.unique(folder_of_file).tolist()
    changed = [folder for folder in folders if before.get(folder, _UNSETTLED) != _modified(root / folder)]
    if known is not None and not changed:
        return known
    present = np.zeros(len(content.records), dtype=np.bool_) if known is None else known.present.copy()
    states = dict(before)
    files, stamps = content.records["file"].copy(), content.records["stamp"].copy()
    for folder in changed:
        states[folder], there = _listed(root / folder)
        rows = np.flatnonzero((folder_of_file == folder)[files])
        found = (
            (start + _microseconds(stamp) + end if mark else start) in there
            for (start, mark, end), stamp in zip(
                (names[file] for file in files[rows].tolist()), stamps[rows].tolist(), strict=True
            )
        )
        present[rows] = np.fromiter(found, dtype=np.bool_, count=len(rows))
    return Presence(states, present)


def file_pattern(path: str, microseconds: int) -> bytes:
    """A path relative to the data root, with ``STAMP_MARK`` for the time in its name: few patterns for all records."""
    folder, slash, name = path.rpartition("/")
    pattern = name.replace(str(microseconds), STAMP_MARK.decode(), 1)
    # NumPy drops zero bytes at the end of a text.
    return (path if pattern.endswith(STAMP_MARK.decode()) else folder + slash + pattern).encode()


def _microseconds(stamp: int) -> bytes:
    return b"%d" % (stamp // 1000)


def _modified(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return -1


def _listed(folder: Path) -> tuple[int, frozenset[bytes]]:
    """The folder's state and the names in it."""
    state = _modified(folder)
    if time.time_ns() - state < SETTLED_NS:
        state = _UNSETTLED
    try:
        # Names, not paths: there are millions.
        return state, frozenset(os.listdir(os.fsencode(folder)))  # noqa: PTH208
    except OSError:
        return state, frozenset()
