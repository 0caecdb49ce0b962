"""Ternary weights five to a byte, binary weights eight to a byte.

Ternary: `byte = sum over i of (t[5j + i] + 1) * 3**i`, so 243 of the 256 bytes are valid and the
last byte is filled with zeros (code 1): 1.6 bits a weight, against log2(3) = 1.585 of information.
Binary: bit i of byte j is set where `t[8j + i] = +1`; the last byte is filled with zero bits.
"""

import numpy as np
import numpy.typing as npt

from tritserve.model.config import Quantize
from tritserve.model.errors import UserError

TRITS_PER_BYTE = 5
BITS_PER_BYTE = 8

Trits = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]

_POWERS = 3 ** np.arange(TRITS_PER_BYTE)
# [243, 5] int8: the five trits of each valid byte.
_TRITS_OF_BYTE = (np.arange(3**TRITS_PER_BYTE)[:, None] // _POWERS % 3 - 1).astype(np.int8)


class TritError(UserError):
    """Bytes that are not packed weights."""


def packed_size(count: int, quantize: Quantize) -> int:
    """Number of bytes that `count` packed weights take."""
    per_byte = TRITS_PER_BYTE if quantize == "ternary" else BITS_PER_BYTE
    return -(-count // per_byte)


def pack_ternary(trits: Trits) -> Bytes:
    """Packs int8 values of -1, 0 and +1, any shape, five to a byte."""
    codes = np.ones(packed_size(trits.size, "ternary") * TRITS_PER_BYTE, dtype=np.uint8)
    codes[: trits.size] = trits.ravel() + 1
    return (codes.reshape(-1, TRITS_PER_BYTE) @ _POWERS).astype(np.uint8)


def unpack_ternary(packed: Bytes, count: int) -> Trits:
    """The first `count` trits of `packed`, int8 `[count]`.

    Raises:
        TritError: a byte over 242, or a last byte that is not filled with zeros.
    """
    wrong = np.flatnonzero(packed >= len(_TRITS_OF_BYTE))
    if len(wrong):
        raise TritError(f"byte {wrong[0]} is {packed[wrong[0]]}; five trits are at most 242")
    trits = _TRITS_OF_BYTE[packed].ravel()
    if trits[count:].any():
        raise TritError("the last byte is not filled with zero trits")
    return trits[:count]


def pack_binary(signs: Trits) -> Bytes:
    """Packs int8 values of -1 and +1, any shape, eight to a byte."""
    return np.packbits(signs.ravel() > 0, bitorder="little")


def unpack_binary(packed: Bytes, count: int) -> Trits:
    """The first `count` signs of `packed`, int8 `[count]`, each -1 or +1.

    Raises:
        TritError: the last byte is not filled with zero bits.
    """
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count:].any():
        raise TritError("the last byte is not filled with zero bits")
    return bits[:count].astype(np.int8) * 2 - 1
