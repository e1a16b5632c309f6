"""A folder that appears under its name only when all of it is there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crkd_core.data.errors import DataError


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to write into, which takes that name on success and vanishes on failure.

    Raises:
        DataError: ``path`` exists, or cannot be written.
    """
    if path.exists():
        raise DataError(f"{path}: exists already; remove it or choose another")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}; nothing of it is kept") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
