"""The JSON of an `infer` request: its numbers apart from the rest.

A parser that takes megabytes of numbers in one call holds the interpreter, and the event loop with
it. So what is in a list of numbers under a key `data` is cut out and parsed in pieces, and what is
left has to be short. A list is taken only where it holds no quotes and no braces; quotes inside a
string are escaped, so that `"data":` is always a key. Whoever writes that key in another way may
take the place of a list for another: so no list is used twice, and no key may be given twice.
"""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from pydantic_core import from_json

from tritserve.service.errors import InvalidError, UnparseableError
from tritserve.service.forms.json_pieces import check_rest, check_size, find_list, split_list
from tritserve.service.oip.tensors import Array, invalid_input

PIECE_BYTES = 64 * 1024

_DATA = re.compile(rb'"data"\s*:\s*\[')
# A request has two inputs.
MAX_LISTS = 2
_DEPTH = re.compile(rb"[\s\[]*")
# By how deep lists are nested: what stands between two elements of the outermost one.
_BETWEEN = {
    1: re.compile(rb"(,)"),
    2: re.compile(rb"\]\s*(,)"),
    3: re.compile(rb"\]\s*\]\s*(,)"),
}


def cut_data(text: bytes) -> tuple[bytes, list[bytes]]:
    """Cuts lists of numbers out of a request.

    Returns:
        The request, in which each list holds only its place among the lists; and the lists
        without their outer brackets.

    Raises:
        InvalidError: too much is left.
    """
    rest: list[bytes] = []
    lists: list[bytes] = []
    at = 0
    while found := find_list(text, _DATA, at):
        start, end = found
        if len(lists) == MAX_LISTS:
            raise InvalidError(f"the request holds more than {MAX_LISTS} lists of numbers")
        rest += [text[at:start], str(len(lists)).encode()]
        lists.append(text[start:end])
        at = end
    rest.append(text[at:])
    return check_rest(b"".join(rest)), lists


def read_numbers(
    name: str,
    datatype: str,
    shape: Sequence[int],
    text: bytes,
    piece_bytes: int = PIECE_BYTES,
    *,
    nulls: bool = False,
) -> Array:
    """Numbers that stand one after the other, or nested as `shape` says.

    Args:
        name: of the input.
        datatype: of the input.
        shape: of the input.
        text: as `cut_data` gives it.
        piece_bytes: a piece ends with the element that reaches so many bytes.
        nulls: whether null stands among floats for a missing one, NaN.

    Returns:
        `[count]`, float64 or int64.

    Raises:
        UnparseableError: the text is not JSON.
        InvalidError: it holds something else.
    """
    beginning = _DEPTH.match(text)
    depth = 1 + (beginning[0].count(b"[") if beginning else 0)
    if depth not in {1, len(shape)}:
        raise _not_nested(name, shape)
    is_float = datatype.startswith("FP")
    taken: set[type] = {int, float} if is_float else {int}
    if is_float and nulls:
        taken.add(type(None))
    parts: list[Array] = []
    for piece in split_list(text, _BETWEEN[depth], piece_bytes, 0, len(text)):
        if not piece.strip() and (parts or len(piece) < len(text)):
            raise UnparseableError(f"input '{name}': data is not JSON: a comma beside nothing")
        numbers = _parse(name, piece)
        for size in shape[1:depth]:
            if not all(isinstance(part, list) and len(part) == size for part in numbers):
                raise _not_nested(name, shape)
            numbers = list(chain.from_iterable(numbers))
        if not set(map(type, numbers)) <= taken:
            raise invalid_input(name, f"must have {datatype} numbers as its data")
        try:
            parts.append(np.array(numbers, np.float64 if is_float else np.int64))
        except OverflowError as error:
            raise invalid_input(name, f"has a number that is out of range: {error}") from error
    return np.concatenate(parts)


def _parse(name: str, piece: bytes) -> list[Any]:
    try:
        parsed: list[Any] = from_json(check_size(b"[%b]" % piece))
    except ValueError as error:
        raise UnparseableError(
            f"input '{name}': data is not JSON, or not nested as its shape says: {error}"
        ) from error
    return parsed


def _not_nested(name: str, shape: Sequence[int]) -> InvalidError:
    return invalid_input(name, f"has data that is not nested as its shape {list(shape)} says")
