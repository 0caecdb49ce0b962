"""The base of every error that tells a user what was wrong with what they gave."""

import reprlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Clients raise these errors too, and come without pydantic.
    from pydantic import ValidationError

MAX_EXPLAINED = 10
MAX_PART = 100
MAX_REASON = 500


class UserError(ValueError):
    """A file, an array or a setting that does not fit; the message says what would."""


class DataWarning(UserWarning):
    """Data that can be used as they are, and are hardly what was meant."""


def explain(error: "ValidationError", *, show: bool = False) -> str:
    """What pydantic found, as `field: reason` for each of the first fields.

    It may be an answer to who sent thousands of wrong fields with long names: it stays short.

    Args:
        error: what pydantic raised.
        show: whether to tell what was in the fields, too.
    """
    found = error.errors(include_url=False, include_context=False, include_input=show)
    parts = [
        ".".join(_shorten(str(part), MAX_PART) for part in detail["loc"])
        + (": " if detail["loc"] else "")
        + _shorten(detail["msg"], MAX_REASON)
        + (f": {reprlib.repr(detail['input'])}" if show and detail["loc"] else "")
        for detail in found[:MAX_EXPLAINED]
    ]
    if len(found) > MAX_EXPLAINED:
        parts.append(f"and {len(found) - MAX_EXPLAINED} more")
    return "; ".join(parts)


def first_field(error: "ValidationError") -> str | None:
    """The first field that `explain` names; None where it is the whole that does not fit."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return ".".join(_shorten(str(part), MAX_PART) for part in found[0]["loc"]) or None


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
