import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tritserve.model.packed.trits import (
    TritError,
    pack_binary,
    pack_ternary,
    packed_size,
    unpack_binary,
    unpack_ternary,
)

trits = arrays(np.int8, st.integers(0, 300), elements=st.integers(-1, 1))


@given(trits)
def test_ternary_weights_survive_packing(weights):
    packed = pack_ternary(weights)
    assert packed.shape == (packed_size(len(weights), "ternary"),)
    np.testing.assert_array_equal(unpack_ternary(packed, len(weights)), weights)


@given(trits.map(lambda t: np.where(t > 0, 1, -1).astype(np.int8)))
def test_binary_weights_survive_packing(weights):
    packed = pack_binary(weights)
    assert packed.shape == (packed_size(len(weights), "binary"),)
    np.testing.assert_array_equal(unpack_binary(packed, len(weights)), weights)


def test_the_bytes_are_those_of_the_format():
    # (0 + 1) * 1 + (1 + 1) * 3 + (-1 + 1) * 9 + (1 + 1) * 27 + (0 + 1) * 81
    assert pack_ternary(np.array([0, 1, -1, 1, 0], dtype=np.int8)).tolist() == [142]
    # The filling counts as zeros, code 1: 2 + 3 + 9 + 27 + 81.
    assert pack_ternary(np.array([1], dtype=np.int8)).tolist() == [122]
    assert pack_binary(np.array([1, -1, 1, -1, -1, -1, -1, 1, 1], dtype=np.int8)).tolist() == [
        0b10000101,
        1,
    ]


def test_bytes_that_are_not_trits_are_refused():
    with pytest.raises(TritError, match="byte 1 is 243"):
        unpack_ternary(np.array([0, 243], dtype=np.uint8), 10)
    with pytest.raises(TritError, match="not filled with zero trits"):
        unpack_ternary(np.array([242], dtype=np.uint8), 3)
    with pytest.raises(TritError, match="not filled with zero bits"):
        unpack_binary(np.array([255], dtype=np.uint8), 3)
