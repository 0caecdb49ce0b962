import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.service.errors import InvalidError, ServiceError, UnparseableError
from tritserve.service.forms.json_pieces import MAX_REST_BYTES, MAX_VALUES
from tritserve.service.forms.wire import Limits
from tritserve.service.oip.rest.form import InferForm
from tritserve.service.oip.rest.json import cut_data, read_numbers

LIMITS = Limits(embed_dim=2, max_timesteps=9, max_sequences=50, max_request_timesteps=1000)


def inner(data, **options):
    return json.dumps(data, **options).encode()[1:-1]


def read(text, shape=(4, 2), datatype="FP64", piece_bytes=5):
    return read_numbers("values", datatype, shape, text, piece_bytes)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    piece_bytes=st.integers(0, 200),
    nested=st.booleans(),
    indent=st.sampled_from([None, 1]),
    data=st.data(),
)
def test_pieces_give_what_the_whole_gives(shape, piece_bytes, nested, indent, data):
    count = int(np.prod(shape))
    floats = st.floats(allow_nan=False, allow_infinity=False)
    flat = np.array(data.draw(st.lists(floats, min_size=count, max_size=count)))
    text = inner((flat.reshape(shape) if nested else flat).tolist(), indent=indent)
    assert read(text, shape, piece_bytes=piece_bytes).tolist() == flat.tolist()


@pytest.mark.parametrize("text", [b",", b"1,", b",1", b"1,,2", b"1 2", b"1,2]", b"[1,2],", b"1e"])
@pytest.mark.parametrize("piece_bytes", [0, 1, 100])
def test_what_is_no_json_is_refused(text, piece_bytes):
    with pytest.raises(UnparseableError):
        read(text, piece_bytes=piece_bytes)


@pytest.mark.parametrize(
    "text", [b"[1,2],3", b"[1],[2]", b"[[1,2]]", b"true", b"[1,null]", b"[1,true]", b"[1,[2]]"]
)
def test_what_is_not_nested_as_its_shape_says_is_refused(text):
    with pytest.raises(InvalidError):
        read(text)


def test_integers_are_exact():
    assert read(b"9007199254740993", [1], "INT64").tolist() == [9007199254740993]
    for text in (b"1.0", b"9223372036854775808", b"1e3"):
        with pytest.raises(InvalidError):
            read(text, [1], "INT64")


def test_nothing_in_a_list_is_there():
    assert read(b" ").tolist() == []


def test_only_lists_of_numbers_are_cut_out():
    text = rb'{"id": "\"data\": [1]", "data" : [1, [2]], "x": [3], "data": ["4"]}'
    rest, lists = cut_data(text)
    assert lists == [b"1, [2]"]
    assert rest == rb'{"id": "\"data\": [1]", "data" : [0], "x": [3], "data": ["4"]}'


def test_what_is_beside_the_numbers_is_short():
    with pytest.raises(InvalidError, match="beside its numbers"):
        cut_data(b" " * (MAX_REST_BYTES + 1))
    cut_data(b'"data": [' + b"1," * MAX_REST_BYTES + b"1]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"data": [1] ' * 200_000, "more than 2 lists"),
        (b'"data": [' + b"1," * 2_000_000, "beside its numbers"),
        (b'"data": [' * 2_000_000 + b"]", "beside its numbers"),
    ],
)
def test_lists_without_end_or_number_are_refused_cheaply(text, message):
    assert peak_of_refusal(lambda: cut_data(text), message) < 3 * len(text)


@pytest.mark.parametrize("element", ["[1],", "[],", "1,"])
def test_one_sequence_is_not_the_whole_of_a_large_body(element):
    text = ("[[1," + element * MAX_VALUES + "1]]").encode()
    peak = peak_of_refusal(lambda: read(text, (1, 1, MAX_VALUES + 2)), "a sequence of more than")
    assert peak < 3 * len(text)


def peak_of_refusal(work, message):
    tracemalloc.start()
    try:
        with pytest.raises(InvalidError, match=message):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def request(values, lengths="[1, 1]"):
    first = f'{{"name": "values", "shape": [2, 2], "datatype": "FP32", {values}}}'
    second = f'{{"name": "lengths", "shape": [2], "datatype": "INT64", "data": {lengths}}}'
    return f'{{"inputs": [{first}, {second}]}}'.encode()


def test_a_large_request_is_read_in_pieces():
    numbers = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    text = request(f'"data": {numbers.tolist()}', str([1] * 20_000)).decode()
    text = text.replace("[2, 2]", "[20000, 2]").replace('"shape": [2]', '"shape": [20000]')
    limits = Limits(2, 9, 50_000, 50_000)
    assert np.array_equal(
        InferForm({}, "random").decode(text.encode(), limits).sequences.values, numbers
    )


@pytest.mark.parametrize(
    "values",
    [
        '"data": [1, 2, 3, 4], "data": [5, 6, 7, 8]',
        r'"d\u0061ta": [0]',
        r'"d\u0061ta": [1]',
        r'"d\u0061ta": [1, 2, 3, 4]',
        '"data": 0',
        '"data": [[0]]',
        '"data": ["0"]',
    ],
)
def test_a_list_is_never_taken_for_another(values):
    with pytest.raises(ServiceError) as caught:
        InferForm({}, "random").decode(request(values), LIMITS)
    assert caught.value.status == 422


def test_not_a_number_is_named_with_its_place():
    with pytest.raises(InvalidError, match="sequence 1, timestep 0, feature 0 is nan"):
        InferForm({}, "random").decode(request('"data": [1, 2, NaN, 4]'), LIMITS)
