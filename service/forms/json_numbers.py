"""JSON that holds arrays, written in pieces.

A writer that takes megabytes of numbers in one call holds the interpreter, and the event loop with
it, for seconds. Between two pieces other threads have their turn, and while they are joined.
"""

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import orjson

PIECE_NUMBERS = 16 * 1024

# Stands for an array; a string that holds this byte is written with an escape.
_PLACE = b"\0"


def write_json(content: dict[str, Any]) -> bytes:
    """What `orjson.dumps` writes, arrays as nested lists of numbers.

    Args:
        content: what orjson takes, and arrays: C-contiguous, of one axis or more; float32, float64
            or integers.
    """
    arrays: list[npt.NDArray[Any]] = []

    def keep(array: npt.NDArray[Any]) -> orjson.Fragment:
        arrays.append(array)
        return orjson.Fragment(_PLACE)

    first, *others = orjson.dumps(content, default=keep).split(_PLACE)
    parts = [first]
    for array, text in zip(arrays, others, strict=True):
        parts += [*_pieces(array), text]
    # Python joins very many bytes without holding the interpreter.
    return b"".join(parts)


def _pieces(array: npt.NDArray[Any]) -> Iterator[bytes]:
    step = max(1, PIECE_NUMBERS * len(array) // max(1, array.size))
    before = b"["
    for start in range(0, max(1, len(array)), step):
        rows = orjson.dumps(array[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)
        yield before
        yield rows[1:-1]
        before = b","
    yield b"]"
