"""The npy format: a short header of Python text, and the array's bytes after it.

numpy reads and writes the header, which takes longer than the array of a small request; since
clients send the same few headers again and again, both are remembered.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.arrays import REAL_KINDS
from tritserve.service.errors import InvalidError, UnparseableError

MAGIC = b"\x93NUMPY"
HEADER_BYTES = 10_000
LARGEST = 2**63
_REMEMBERED = 256
# By version: numpy's reader, and how many bytes tell the header's length.
_READERS = {
    (1, 0): (np.lib.format.read_array_header_1_0, 2),
    (2, 0): (np.lib.format.read_array_header_2_0, 4),
}

Header = tuple[tuple[Any, ...], bool, np.dtype[Any]]


def read_npy(body: bytes) -> npt.NDArray[Any]:
    """The array `[batch, seq_len, embed_dim]` in an npy body, of real numbers of up to 64 bits.

    Nothing is allocated: the array is a view of the body.

    Raises:
        UnparseableError: the body is not npy, or not as long as its header says.
        InvalidError: the array has another type or number of dimensions, or is empty.
    """
    text = _header_text(body)
    shape, fortran_order, dtype = _parse_header(text)
    needed, there = dtype.itemsize * shape[0] * shape[1] * shape[2], len(body) - len(text)
    if needed != there:
        raise UnparseableError(
            f"an array of shape {list(shape)} and type {dtype} has {needed} bytes; "
            f"{there} follow the npy header"
        )
    array = np.frombuffer(body, dtype, offset=len(text))
    return array.reshape(shape, order="F" if fortran_order else "C")


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """An array as npy."""
    return _write_header(array.dtype, array.shape) + array.tobytes()


def _header_text(body: bytes) -> bytes:
    if len(body) < 8 or body[:6] != MAGIC:
        raise UnparseableError("the body is not npy: it does not begin with \\x93NUMPY")
    version = (body[6], body[7])
    if version not in _READERS:
        raise UnparseableError(f"the body is npy of version {version}; 1.0 and 2.0 are read")
    start = 8 + _READERS[version][1]
    size = int.from_bytes(body[8:start], "little")
    if size > HEADER_BYTES or start + size > len(body):
        raise UnparseableError(
            f"the body is not npy: its header of {size} bytes is cut off, or over {HEADER_BYTES}"
        )
    return body[: start + size]


@lru_cache(_REMEMBERED)
def _parse_header(text: bytes) -> Header:
    read, _ = _READERS[text[6], text[7]]
    stream = io.BytesIO(text)
    stream.seek(8)
    try:
        shape, fortran_order, dtype = read(stream, HEADER_BYTES)
        if any(abs(size) > LARGEST for size in shape):
            # Of the digits that a header has room for, Python makes no text.
            raise ValueError("no array is so large")
    except Exception as error:
        # The header is Python text; on hostile bytes its parser raises almost anything.
        raise UnparseableError(f"the body is not npy: {error}") from error
    if dtype.kind not in REAL_KINDS or dtype.itemsize > 8:
        raise InvalidError(
            f"the array is {dtype}; it must be float16, float32, float64, integers or booleans"
        )
    if len(shape) != 3 or any(type(size) is not int or size < 1 for size in shape):
        raise InvalidError(
            f"the array has shape {list(shape)}; it must be [batch, seq_len, embed_dim], not empty"
        )
    return shape, fortran_order, dtype


@lru_cache(_REMEMBERED)
def _write_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()
