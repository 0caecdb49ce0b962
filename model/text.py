"""Text from outside, as a terminal may show it."""


def printable(text: str) -> str:
    """The text with what moves a cursor, or cannot be seen, escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
