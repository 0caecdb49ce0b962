import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tritserve.service.forms import json_numbers as module
from tritserve.service.forms.json_numbers import PIECE_NUMBERS, json_numbers


@given(
    array=arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.uint8]),
        array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=40),
    ),
    piece_numbers=st.integers(1, 100),
)
def test_pieces_are_the_whole(array, piece_numbers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_NUMBERS", piece_numbers)
        written = orjson.dumps({"x": json_numbers(array)})
    assert written == orjson.dumps({"x": array}, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("shape", [(5000, 64), (320_000,), (3, PIECE_NUMBERS)])
def test_no_call_of_the_writer_takes_much(monkeypatch, shape):
    sizes = []

    def dumps(array, option, write=orjson.dumps):
        sizes.append(array.size)
        return write(array, option=option)

    monkeypatch.setattr(module.orjson, "dumps", dumps)
    json_numbers(np.zeros(shape, np.float32))
    assert max(sizes) <= PIECE_NUMBERS
    assert sum(sizes) == np.prod(shape)
