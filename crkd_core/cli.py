"""One habit for every command line: a user's mistake is one clear line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class UserError(Exception):
    """A mistake of the caller that a message can mend: what, where, expected, got, the fix."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong option is one line, too: the usage text is what ``--help`` is for."""

    def error(self, message: str) -> NoReturn:
        """Raise what ``run`` turns into one line.

        Raises:
            UserError: always.
        """
        raise UserError(f"{message}; see {self.prog} --help")


def finite(text: str) -> float:
    """A number, for ``type=`` of an option; "nan" and "inf" are mistakes here.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'")
    return value


def run(main: Callable[[], int]) -> NoReturn:
    """Call ``main`` and exit with its code; a ``UserError`` becomes one line and code 2.

    Under torchrun the line also stands at the end of what torchrun says of the processes that failed.
    ``KeyboardInterrupt`` exits with 130. Any other exception is a bug and keeps its traceback.
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        _tell_torchrun(f"error: {error}")
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _tell_torchrun(line: str) -> None:
    """Leave a line where torchrun looks for the cause of a failure, if it has started this process."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        told = {"message": line, "extraInfo": {"py_callstack": line, "timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": told}))
