"""Cuts a large JSON body into pieces that are parsed one after the other.

A parser that takes 64 MiB in one call holds the interpreter for seconds and makes gigabytes of
Python numbers. The list under the key `sequences` is therefore cut where one sequence ends and
the next begins. The body is valid if and only if its skeleton (the body with that list empty) and
every piece are, and no piece but a lone one is empty: the list is taken only where it holds no
quotes and no braces, and there `]],` always stands between two sequences.
"""

import re
from collections.abc import Iterator

from service.errors import InvalidError

# Of a body that is cut: what is beside the numbers is parsed in one call.
MAX_REST_BYTES = 64 * 1024

# Quotes inside a string are escaped, so this is a key, or the end of one that nobody knows.
_LIST = re.compile(rb'"sequences"\s*:\s*\[([^"{}]*)\]')
_BETWEEN_SEQUENCES = re.compile(rb"\]\s*\]\s*(,)")


def cut(body: bytes, piece_bytes: int) -> tuple[bytes, Iterator[bytes]] | None:
    """Cuts a body of the form `{"sequences": [[[..], ..], ..], ..}`.

    Args:
        body: JSON, not yet known to be valid.
        piece_bytes: a piece ends with the sequence that reaches so many bytes.

    Returns:
        The skeleton, in which `sequences` is `[]`, and the pieces, each a JSON list of sequences;
        or None where there is not exactly one such list, and the body has to be parsed whole.
    """
    matches = list(_LIST.finditer(body))
    if len(matches) != 1:
        return None
    start, end = matches[0].span(1)
    return body[:start] + body[end:], _pieces(body, start, end, piece_bytes)


def check_rest(rest: bytes) -> bytes:
    """What is left of a body without its numbers, if it is short enough to be parsed.

    Raises:
        InvalidError: it is not.
    """
    if len(rest) > MAX_REST_BYTES:
        raise InvalidError(
            f"the request has {len(rest)} bytes of JSON beside its numbers; "
            f"at most {MAX_REST_BYTES} are read"
        )
    return rest


def why_not_cut(body: bytes) -> str:
    """What is wrong, or odd, with a body that is not of the form that `cut` takes."""
    ends = [found.end() for found in _LIST.finditer(body)]
    if len(ends) != 1:
        return f"it holds {len(ends) or 'none'}"
    after = body[ends[0] : ends[0] + 20].decode(errors="replace")
    return f"from byte {ends[0]} on it is something else, or no JSON: {after!r}"


def _pieces(body: bytes, start: int, end: int, piece_bytes: int) -> Iterator[bytes]:
    while between := _BETWEEN_SEQUENCES.search(body, min(start + piece_bytes, end), end):
        yield b"[" + body[start : between.start(1)] + b"]"
        start = between.end()
    yield b"[" + body[start:end] + b"]"
