"""Cuts a large JSON body into pieces that are parsed one after the other.

A parser that takes 64 MiB in one call holds the interpreter for seconds and makes gigabytes of
Python numbers. The list under the key `sequences` is therefore cut where one sequence ends and
the next begins. The body is valid if and only if its skeleton (the body with that list empty) and
every piece are, and no piece but a lone one is empty: the list is taken only where it holds no
quotes and no braces, and there `]],` always stands between two sequences. A skeleton with a
backslash is not taken: it may write the key in another way.
"""

import re
from collections.abc import Iterator

from tritserve.service.errors import InvalidError

# Of a body that is cut: what is beside the numbers is parsed in one call.
MAX_REST_BYTES = 64 * 1024

# One call of the parser makes a Python object of each value.
MAX_VALUES = 2**20

# Quotes inside a string are escaped, so this is a key, or the end of one that nobody knows.
_SEQUENCES = re.compile(rb'"sequences"\s*:\s*\[')
_BETWEEN_SEQUENCES = re.compile(rb"\]\s*\]\s*(,)")


def cut(body: bytes, piece_bytes: int) -> tuple[bytes, Iterator[bytes]] | None:
    """Cuts a body of the form `{"sequences": [[[..], ..], ..], ..}`.

    Args:
        body: JSON, not yet known to be valid.
        piece_bytes: a piece ends with the sequence that reaches so many bytes.

    Returns:
        The skeleton, in which `sequences` is `[]`, and the pieces, each a JSON list of sequences;
        or None where there is not exactly one such key, with such a list, and the body has to be
        parsed whole.
    """
    found = find_list(body, _SEQUENCES)
    if found is None or _SEQUENCES.search(body, found[1]):
        return None
    start, end = found
    if b"\\" in body[:start] or b"\\" in body[end:]:
        return None
    pieces = split_list(body, _BETWEEN_SEQUENCES, piece_bytes, start, end)
    return body[:start] + body[end:], (b"[%b]" % piece for piece in pieces)


def find_list(text: bytes, key: re.Pattern[bytes], begin: int = 0) -> tuple[int, int] | None:
    """Where the list under the first such key begins and ends, inside its brackets.

    Args:
        text: JSON, not yet known to be valid.
        key: matches the key and the opening bracket.
        begin: where to start looking.

    Returns:
        None if there is no such key, or no list without quotes and braces under it.
    """
    opened = key.search(text, begin)
    if opened is None:
        return None
    start, stop = opened.end(), len(text)
    for mark in (b'"', b"{", b"}"):
        at = text.find(mark, start, stop)
        stop = stop if at < 0 else at
    end = text.rfind(b"]", start, stop)
    return (start, end) if end >= 0 else None


def split_list(
    text: bytes, between: re.Pattern[bytes], piece_bytes: int, start: int, end: int
) -> Iterator[bytes]:
    """Cuts what is inside a list's brackets into pieces of whole elements.

    Args:
        text: JSON, not yet known to be valid.
        between: matches around the comma between two elements, its group 1.
        piece_bytes: a piece ends with the element that reaches so many bytes.
        start: where the inside begins, as `find_list` says.
        end: where it ends.
    """
    while found := between.search(text, min(start + piece_bytes, end), end):
        yield text[start : found.start(1)]
        start = found.end()
    yield text[start:end]


def check_size(text: bytes) -> bytes:
    """What one call of the parser is given, if it does not take it for too long.

    Raises:
        InvalidError: it holds too much.
    """
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_VALUES:
        raise InvalidError(
            f"the body holds a sequence of more than {MAX_VALUES} values; "
            "send it in one of the binary forms"
        )
    return text


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
    found = find_list(body, _SEQUENCES)
    if found is None:
        return "it holds none"
    end = found[1] + 1
    if _SEQUENCES.search(body, end):
        return "it holds several"
    after = body[end : end + 20].decode(errors="replace")
    return f"from byte {end} on it is something else, or no JSON: {after!r}"
