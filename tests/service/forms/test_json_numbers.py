import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tritserve.service.forms import json_numbers as module
from tritserve.service.forms.json_numbers import PIECE_NUMBERS, write_json


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
        content = {"x": array, "y": "a \0 in a string", "z": [{"x": array}, None]}
        written = write_json(content)
    assert written == orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("shape", [(5000, 64), (320_000,), (3, PIECE_NUMBERS)])
def test_no_call_of_the_writer_takes_much(monkeypatch, shape):
    sizes = []

    def dumps(*given, write=orjson.dumps, **options):
        text = write(*given, **options)
        sizes.append(len(text))
        return text

    monkeypatch.setattr(module.orjson, "dumps", dumps)
    written = write_json({"x": np.ones(shape, np.float32)})
    # Each of the numbers is written as `1.0,`, with a bracket or two.
    assert max(sizes) <= 5 * PIECE_NUMBERS
    assert len(written) > 4 * np.prod(shape)
