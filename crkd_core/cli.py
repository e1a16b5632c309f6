"""One habit for every command line: a user's mistake is one clear line on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """A mistake of the caller that a message can mend: what, where, expected, got, the fix."""


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
