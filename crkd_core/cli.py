"""One habit for every command line: a user's mistake is one clear line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
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

    ``KeyboardInterrupt`` exits with 130. Any other exception is a bug and keeps its traceback.
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
