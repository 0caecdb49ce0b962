import io
import json
import sys

import numpy as np
import orjson
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.builders import npy, random_batch
from tritserve.service.errors import (
    InvalidError,
    NotAcceptableError,
    ServiceError,
    UnparseableError,
    UnsupportedMediaTypeError,
)
from tritserve.service.forms.choices import truncate
from tritserve.service.forms.media import JSON, NPY, SAFETENSORS, negotiate
from tritserve.service.forms.options import Embeddings, Options, finish
from tritserve.service.forms.wire import EmbedAnswer, Limits, decode, encode

LIMITS = Limits(embed_dim=3, max_timesteps=9, max_sequences=50)
floats = st.floats(-(2.0**100), 2.0**100, width=32)
ragged = st.lists(
    st.integers(1, 6).flatmap(lambda n: arrays(np.float32, (n, 3), elements=floats)),
    min_size=1,
    max_size=5,
)


def tensors(**arrays):
    return safetensors.numpy.save(arrays)


def bfloat16():
    header = b'{"values":{"dtype":"BF16","shape":[1,3],"data_offsets":[0,6]}}'
    return len(header).to_bytes(8, "little") + header + bytes(6)


def read(body, content_type=JSON, query=None):
    return decode(body, content_type, query or {}, LIMITS)


@given(ragged)
def test_json_and_safetensors_say_the_same(parts):
    lengths = [len(part) for part in parts]
    from_json = read(orjson.dumps({"sequences": [part.tolist() for part in parts]}))
    from_tensors = read(
        tensors(values=np.concatenate(parts), lengths=np.array(lengths)), SAFETENSORS
    )
    for request in (from_json, from_tensors):
        assert request.sequences.values.tobytes() == np.concatenate(parts).tobytes()
        assert request.sequences.lengths.tolist() == lengths


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5), st.just(3)), elements=floats
    ),
    st.sampled_from(["<f4", ">f4", "<f8", ">f8"]),
    st.sampled_from(["C", "F"]),
)
def test_npy_of_any_float_and_order(array, dtype, order):
    request = read(npy(np.array(array, dtype=dtype, order=order)), NPY)
    assert request.sequences.values.dtype == np.float32
    assert request.sequences.values.tobytes() == array.tobytes()
    assert request.sequences.lengths.tolist() == [array.shape[1]] * len(array)


@pytest.mark.parametrize("dtype", ["int8", "uint16", ">i4", "uint64", "bool", "float16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_every_kind_say_what_json_says(dtype, order):
    array = np.array([[[1, 0, 1], [0, 1, 1]]], dtype, order=order)
    json = read(orjson.dumps({"sequences": [[[1, 0, 1], [0, 1, 1]]]}))
    flat = np.ascontiguousarray(array[0], array.dtype.newbyteorder("="))
    for request in (
        read(npy(array), NPY),
        read(tensors(values=flat, lengths=np.array([2])), SAFETENSORS),
    ):
        assert request.sequences.values.dtype == np.float32
        assert request.sequences.values.tolist() == json.sequences.values.tolist()


def test_json_has_one_type_of_number_and_rounds_it():
    rounded = [[2.0**24, 2.0**24, 2.0**70]]
    body = f'{{"sequences": [[[{2**24 + 1}, {2**24 + 1}.0, {2**70 + 1}]]]}}'
    assert read(body.encode()).sequences.values.tolist() == rounded


def test_half_precision_is_read():
    array = np.ones((1, 2, 3), np.float16)
    assert read(npy(array), NPY).sequences.values.tolist() == [[1] * 3] * 2


GOOD = [[1.0, 2, 3]]


@pytest.mark.parametrize(
    ("body", "error", "message", "row", "timestep"),
    [
        (b"", UnparseableError, "not JSON", None, None),
        (b"{", UnparseableError, "not JSON", None, None),
        (b"\xff\xfe", UnparseableError, "not JSON", None, None),
        (b"[" * 100_000, ServiceError, "", None, None),
        ({"sequences": [GOOD] * 51}, InvalidError, "51 sequences; at most 50", None, None),
        ({}, InvalidError, "sequences: Field required", None, None),
        ([], InvalidError, "", None, None),
        ({"sequences": []}, InvalidError, "at least one sequence", None, None),
        ({"sequences": [GOOD, []]}, InvalidError, "sequence 1 is empty", 1, None),
        ({"sequences": [GOOD, [[1, 2, 3], [1, 2]]]}, InvalidError, "has 2 features", 1, 1),
        ({"sequences": [GOOD, [[1, 2, "3"]]]}, InvalidError, "valid number", 1, 0),
        ({"sequences": [GOOD, [[1, 2, True]]]}, InvalidError, "valid number", 1, 0),
        ({"sequences": [GOOD, [[1, 2, None]]]}, InvalidError, "valid number", 1, 0),
        ({"sequences": [GOOD, [[1, 2, [3]]]]}, InvalidError, "valid number", 1, 0),
        ({"sequences": [GOOD, [1, 2, 3]]}, InvalidError, "valid array", 1, 0),
        (b'{"sequences": [[[1, 2, NaN]]]}', InvalidError, "finite", 0, 0),
        (b'{"sequences": [[[1, 2, Infinity]]]}', InvalidError, "finite", 0, 0),
        (b'{"sequences": [[[1, 2, 3], [1e400, 2, 3]]]}', InvalidError, "", 0, 1),
        (b'{"sequences": [[[1, 2, 1' + b"0" * 400 + b"]]]}", InvalidError, "", 0, 0),
        ({"sequences": [[[1, 2, 1e39]]]}, InvalidError, "must be finite float32", 0, 0),
        ({"sequences": [GOOD], "normalise": True}, InvalidError, "normalise: Extra", None, None),
        ({"sequences": [GOOD], "normalize": "yes"}, InvalidError, "valid boolean", None, None),
        ({"sequences": [GOOD], "overlong": "cut"}, InvalidError, "'keep_last'", None, None),
        ({"sequences": [GOOD], "precision": 8}, InvalidError, "'int8'", None, None),
    ],
)
def test_json_that_does_not_fit_is_an_error_that_says_where(body, error, message, row, timestep):
    with pytest.raises(error) as caught:
        read(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert message in caught.value.message
    assert caught.value.details.get("row") == row
    assert caught.value.details.get("timestep") == timestep
    assert caught.value.status in {400, 422}


VALUES = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", UnparseableError, "not safetensors"),
        (bfloat16(), InvalidError, "type 'BF16'; 'values' are F16, F32, F64, integers or bool"),
        (tensors(values=VALUES), InvalidError, "tensors ['values']; they must be"),
        (tensors(values=VALUES, lengths=np.array([4]), x=VALUES), InvalidError, "'x'"),
        (
            tensors(**{f"x{i}" * 99: VALUES for i in range(50)}),
            InvalidError,
            "tensors ['x0x0x0x0x0x0...0x0x0x0x0x0x0', ",
        ),
        (
            tensors(**{f"x{i}": VALUES[:0] for i in range(2000)}),
            InvalidError,
            "bytes; at most 65536 are read",
        ),
        (b"\xff\xff\xff" + bytes(100), UnparseableError, "not safetensors"),
        (tensors(values=VALUES, lengths=np.array([3])), InvalidError, "add up to 3"),
        (tensors(values=VALUES, lengths=np.array([4.0])), InvalidError, "must be integers"),
        (tensors(values=VALUES, lengths=np.array([5, -1])), InvalidError, "length -1"),
        (tensors(values=VALUES, lengths=np.array([[4]])), InvalidError, "shape [batch]"),
        (tensors(values=VALUES[None], lengths=np.array([4])), InvalidError, "float32 [1, 4, 3]"),
        (
            tensors(values=VALUES.astype(int) + 2**24 + 1, lengths=np.array([1, 3])),
            InvalidError,
            "sequence 0 holds 16777217, which float32 rounds to 16777216",
        ),
        (tensors(values=VALUES[0], lengths=np.array([3])), InvalidError, "[timesteps, embed_dim]"),
        (tensors(values=VALUES[:, :2], lengths=np.array([4])), InvalidError, "[timesteps, 3]"),
        (tensors(values=VALUES + np.nan, lengths=np.array([4])), InvalidError, "timestep 0"),
        (
            tensors(values=VALUES.astype(float) + 1e300, lengths=np.array([4])),
            InvalidError,
            "must be finite float32",
        ),
    ],
)
def test_safetensors_that_do_not_fit(body, error, message):
    with pytest.raises(error) as caught:
        read(body, SAFETENSORS)
    assert message in caught.value.message
    assert len(caught.value.message) < 500


def header_of(shape, descr="<f4"):
    """An npy header whose shape is that text."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}"
    header = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def lying_header(shape, descr="<f4"):
    return header_of(repr(shape), descr)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (b"", UnparseableError, "not npy"),
        (b"\x93NUMPY\x03\x00", UnparseableError, "version (3, 0)"),
        (npy(VALUES[None])[:-1], UnparseableError, "has 48 bytes; 47 follow"),
        (npy(VALUES[None]) + b"0", UnparseableError, "has 48 bytes; 49 follow"),
        (lying_header((2**40, 2**40, 3)), UnparseableError, "; 0 follow"),
        (lying_header((-1, -4, 3)) + bytes(48), ServiceError, ""),
        # Python makes no text of over 4300 digits.
        (header_of("(1, 0x" + "f" * 8000 + ", 3)"), UnparseableError, "no array is so large"),
        (header_of("(" + ("9" * 3000 + ", ") * 3 + ")"), UnparseableError, "no array is so large"),
        (header_of("(1, 1, 1, -0x" + "f" * 8000 + ")"), UnparseableError, "no array is so large"),
        (npy(np.array([{}]), allow_pickle=True), InvalidError, "float64, integers or booleans"),
        (lying_header((1, 1, 3), "<M8[s]") + bytes(24), InvalidError, "must be float16"),
        (lying_header((1, 1, 3), [("a", "<f4")]) + bytes(12), InvalidError, "must be float16"),
        (npy(VALUES), InvalidError, "must be [batch, seq_len, embed_dim]"),
        (npy(VALUES[None][:0]), InvalidError, "not empty"),
        (npy(VALUES[None].astype(np.longdouble)), InvalidError, "must be float16"),
        (npy(VALUES[None].astype(complex)), InvalidError, "complex128"),
        (
            npy(VALUES[None].astype(int) + 2**24 + 1),
            InvalidError,
            "sequence 0 holds 16777217, which float32 rounds to 16777216",
        ),
        (npy(VALUES[None, :, :2]), InvalidError, "[timesteps, 3]"),
    ],
)
def test_npy_that_does_not_fit(body, error, message):
    with pytest.raises(error) as caught:
        read(body, NPY)
    assert message in caught.value.message


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from([JSON, NPY, SAFETENSORS]))
@example(b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 300, NPY)
@example(b"\x93NUMPY\x01\x00\x05\x00{1:2}", NPY)
def test_any_bytes_are_read_or_refused(body, content_type):
    with pytest.raises(ServiceError):
        read(body, content_type)


@settings(max_examples=300)
@given(st.data(), st.sampled_from([JSON, NPY, SAFETENSORS]))
def test_damaged_bodies_are_read_or_refused(data, content_type):
    good = {
        JSON: orjson.dumps({"sequences": [GOOD, GOOD]}),
        NPY: npy(VALUES[None]),
        SAFETENSORS: tensors(values=VALUES, lengths=np.array([1, 3])),
    }[content_type]
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        request = read(bytes(body), content_type)
    except ServiceError as error:
        assert error.status in {400, 422}
    else:
        assert np.isfinite(request.sequences.values).all()


def test_options_come_in_the_query():
    body = npy(VALUES[None])
    options = read(body, NPY, {"normalize": "true", "precision": "int8"}).options
    assert options == Options(normalize=True, precision="int8")
    with pytest.raises(InvalidError, match="speed: Extra inputs"):
        read(body, NPY, {"speed": "1"})
    with pytest.raises(InvalidError, match="valid boolean"):
        read(body, NPY, {"normalize": "perhaps"})
    body = orjson.dumps({"sequences": [GOOD], "overlong": "keep_last"})
    options = read(body, JSON, {"normalize": "true"}).options
    assert options == Options(normalize=True, overlong="keep_last")
    with pytest.raises(InvalidError, match="overlong is in the body and in the query"):
        read(body, JSON, {"overlong": "keep_last"})


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/octet-stream"])
def test_other_content_types_are_refused(content_type):
    with pytest.raises(UnsupportedMediaTypeError, match="application/x-npy"):
        read(b"{}", content_type)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (NPY, NPY),
        (f"{JSON};q=0.5, {SAFETENSORS}", SAFETENSORS),
        (f"*/*;q=0.1, {NPY};q=0.2", NPY),
        (f"{JSON};q=0, */*", NPY),
        ("TEXT/HTML, Application/JSON ; q=0.9", JSON),
    ],
)
def test_accept_picks_the_form(accept, media_type):
    assert negotiate(accept) == media_type


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/json;q=x"])
def test_nothing_acceptable_is_an_error(accept):
    with pytest.raises(NotAcceptableError):
        negotiate(accept)


@given(
    arrays(np.float32, (3, 16), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
)
def test_every_form_carries_the_same_float32(rows):
    usage = {"sequences": 3, "timesteps": 4, "truncated": [1]}
    answer = EmbedAnswer(
        Embeddings(rows),
        {"name": "münchen", "revision": "r", "channels": "joined"},
        usage,
        {"queue": 0.0},
    )
    body, headers = encode(answer, JSON)
    content = json.loads(body)
    assert np.array(content["embeddings"], dtype=np.float32).tobytes() == rows.tobytes()
    assert content["usage"] == usage
    assert headers["Server-Timing"] == "queue;dur=0.000"
    body, headers = encode(answer, NPY)
    assert np.load(io.BytesIO(body)).tobytes() == rows.tobytes()
    assert headers["Tritserve-Truncated"] == "1"
    assert headers["Tritserve-Model"].isascii()
    body, _ = encode(answer, SAFETENSORS)
    assert safetensors.numpy.load(body)["embeddings"].tobytes() == rows.tobytes()


def test_overlong_sequences_are_cut_only_when_asked():
    batch = random_batch([3, 12, 9, 10], 3)
    with pytest.raises(InvalidError, match="sequence 1 has 12 timesteps") as caught:
        truncate(batch, "error", 9)
    assert caught.value.details["row"] == 1
    parts = batch.split()
    for overlong, kept in [("keep_last", slice(-9, None)), ("keep_first", slice(9))]:
        cut, rows = truncate(batch, overlong, 9)
        assert rows == [1, 3]
        assert cut.lengths.tolist() == [3, 9, 9, 9]
        for got, whole in zip(cut.split(), parts, strict=True):
            np.testing.assert_array_equal(got, whole[kept])
    assert truncate(batch, "error", 12) == (batch, [])


@pytest.mark.parametrize("overlong", ["keep_last", "keep_first"])
def test_cutting_takes_no_turn_for_each_sequence(overlong):
    def calls(count):
        batch = random_batch([3] * count, 1)
        made = []
        sys.setprofile(lambda frame, event, argument: made.append(event))
        try:
            truncate(batch, overlong, 2)
        finally:
            sys.setprofile(None)
        return len(made)

    assert calls(2000) == calls(2)


def test_precisions():
    rows = np.array([[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    assert finish(rows, Options(precision="float16")).rows.dtype == np.float16
    int8 = finish(rows, Options(precision="int8"))
    assert int8.rows.tolist() == [[64, -127, 32, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(int8.rows[0] * int8.scales[0], rows[0], atol=2 / 127)
    assert finish(rows, Options(precision="binary")).rows.tolist() == [[0b10100000], [0]]
    unit = finish(rows[:1], Options(normalize=True)).rows
    np.testing.assert_allclose(np.linalg.norm(unit), 1, rtol=1e-6)
    with pytest.raises(InvalidError, match="sequence 1 is zero"):
        finish(rows, Options(normalize=True))
    with pytest.raises(InvalidError, match="too large for float16"):
        finish(rows * 1e6, Options(precision="float16"))
