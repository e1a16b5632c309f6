"""The error every conversion raises."""

from __future__ import annotations

from crkd_core.cli import UserError


class ConversionError(UserError):
    """A message that cannot be converted; names its source, what was expected and what was found."""
