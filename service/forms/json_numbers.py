"""Arrays as JSON, written in pieces.

A writer that takes megabytes of numbers in one call holds the interpreter, and the event loop with
it, for seconds. Between two pieces other threads have their turn.
"""

from typing import Any

import numpy.typing as npt
import orjson

PIECE_NUMBERS = 16 * 1024


def json_numbers(array: npt.NDArray[Any]) -> orjson.Fragment:
    """An array as a part of what `orjson.dumps` writes: nested lists of numbers.

    Args:
        array: C-contiguous, of one axis or more; float32, float64 or integers.
    """
    step = max(1, PIECE_NUMBERS * len(array) // max(1, array.size))
    pieces = [
        orjson.dumps(array[start : start + step], option=orjson.OPT_SERIALIZE_NUMPY)
        for start in range(0, max(1, len(array)), step)
    ]
    if len(pieces) == 1:
        return orjson.Fragment(pieces[0])
    # Without the brackets between them, in one copy of what may be very much.
    first, *middle, last = pieces
    return orjson.Fragment(b",".join([first[:-1], *[piece[1:-1] for piece in middle], last[1:]]))
