"""Arrays of real numbers out of the containers that people keep them in.

Whatever numpy reads is taken: lists, arrays, memory maps, torch tensors, the tables of pandas,
polars and pyarrow. Where numpy sees Python objects, what is inside decides: an array of equally
long sequences, or a nullable column without a missing value, holds numbers all the same. Fractions
become float64; an integer that no type of numpy holds is refused, as rounding it would be silent.
"""

import numbers
import reprlib
from typing import Any

import numpy as np
import numpy.typing as npt

# Floats, integers of either sign, booleans.
REAL_KINDS = "fiub"


def read_array(given: Any) -> npt.NDArray[Any]:
    """An array of real numbers, in whatever precision it was given.

    Raises:
        ValueError: it is none; the message goes on after the name of what was given.
    """
    parts = given if isinstance(given, list | tuple) else [given]
    if any(np.ma.is_masked(part) for part in parts):
        raise ValueError("has masked values; fill them, or leave them out")
    try:
        array = _to_numpy(given)
        if array.dtype == object:
            array = np.array(array.tolist())
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        raise ValueError(f"is no array: {error}") from error
    if array.dtype == object:
        array = _of_objects(array)
    if array.dtype.kind not in REAL_KINDS:
        raise ValueError(f"holds {array.dtype}; it must hold real numbers")
    return array


def _to_numpy(given: Any) -> npt.NDArray[Any]:
    if hasattr(given, "as_py"):
        # An element of a pyarrow array: a list inside it.
        return np.asarray(given.as_py())
    if hasattr(given, "__dlpack__") and not hasattr(given, "__array__"):
        return np.from_dlpack(given)
    return np.asarray(given)


def _of_objects(array: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
    """Numbers that numpy has no type for, as float64; raises ValueError where one is none."""
    for number in array.flat:
        if not isinstance(number, numbers.Real):
            raise ValueError(
                f"holds object, such as {reprlib.repr(number)}; it must hold real numbers"
            )
        if isinstance(number, numbers.Integral) and not -(2**63) <= number < 2**64:
            raise ValueError(
                "holds an integer of more than 64 bits; pass floats to have it rounded"
            )
    try:
        return array.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"is no array: {error}") from error


def column_names(table: Any) -> list[str] | None:
    """The names of a table's columns: pandas, polars or pyarrow; None where they are no strings."""
    names = getattr(table, "column_names", None)
    if names is None:
        names = getattr(table, "columns", None)
    if names is None or not all(isinstance(name, str) for name in names):
        return None
    return list(names) or None
