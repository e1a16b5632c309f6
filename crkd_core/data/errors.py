"""The error of everything that reads or prepares data."""

from __future__ import annotations

from crkd_core.cli import UserError

_WORKER_PRELUDE = "in DataLoader worker process"
"""A data loader raises a worker's exception again in the main process, with the worker's traceback as its message."""


class DataError(UserError):
    """Data that is missing, damaged or of an unexpected form; the message names the place and the fix."""

    def __init__(self, message: str) -> None:
        if _WORKER_PRELUDE in message:
            message = message.rsplit(f"{type(self).__name__}: ", 1)[-1].rstrip()
        super().__init__(message)
