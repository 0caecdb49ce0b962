"""The base of every error that tells a user what was wrong with what they gave."""

from pydantic import ValidationError


class UserError(ValueError):
    """A file, an array or a setting that does not fit; the message says what would."""


def explain(error: ValidationError) -> str:
    """What pydantic found, as `field: reason` for each field."""
    return "; ".join(
        ".".join(str(part) for part in detail["loc"])
        + (": " if detail["loc"] else "")
        + detail["msg"]
        for detail in error.errors(include_url=False, include_context=False)
    )
