"""What every section of a recipe shares: strict keys, ranges of numbers."""

from __future__ import annotations

from typing import Annotated

import msgspec

from crkd_core.cli import UserError


class RecipeError(UserError):
    """A recipe that cannot be used; the message says where, what was found and what is allowed."""


Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NonNegative = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Named values of which none may be unknown."""


def check_ascending(name: str, pair: tuple[float, float]) -> None:
    """Refuse a range whose ends are exchanged; for ``__post_init__``.

    Raises:
        ValueError: ``pair`` is (upper, lower).
    """
    if pair[0] > pair[1]:
        raise ValueError(f"{name}: expected (lower, upper), got {pair}")
