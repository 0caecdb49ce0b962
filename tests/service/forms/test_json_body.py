import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritserve.service.errors import InvalidError, ServiceError, UnparseableError
from tritserve.service.forms.json_body import decode_json
from tritserve.service.forms.json_pieces import MAX_VALUES, cut

SPACES = st.text(" \t\n\r", max_size=2)
HEADS = st.sampled_from(
    [
        '{"sequences":[',
        '{"normalize":true, "sequences" : [',
        '{"a\\"sequences":[',
        '{"sequences":[[[1,2]]],"sequences":[',
        '{"overlong":"{\\"sequences\\":[","sequences":[',
        '{"x":{"sequences":[',
        '{"sequ\\u0065nces":[',
        '{"sequ\\u0065nces":[[[9,9]]],"sequences":[',
    ]
)
TAILS = st.sampled_from(["]}", '],"normalize":false}', '] , "precision" : "int8"}', "]}]}", "]}}"])
LISTS = st.lists(st.sampled_from(["[[1,2]]", "[[1,2],[3,4]]", " [ [ -2.5e3 ,0]\n] "]), max_size=6)
FAULTS = st.sampled_from(
    [
        "",
        "1",
        "NaN",
        "1e400",
        "true",
        '"a"',
        '"]],"',
        "[",
        "]",
        "[]",
        ",",
        "{}",
        "[1,2]",
        ",[[1,2]]",
    ]
)


@st.composite
def bodies(draw):
    """Bodies that are right but for up to two places where something was put in or taken out."""
    text = draw(HEADS) + ",".join(draw(LISTS)) + draw(TAILS)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(FAULTS) + text[place + draw(st.integers(0, 1)) :]
    return text.encode()


def outcome(body, piece_bytes):
    try:
        sequences, options = decode_json(body, 2, piece_bytes)
    except ServiceError as error:
        return error.status, error.details.get("row"), error.details.get("timestep")
    return sequences.values.tolist(), sequences.lengths.tolist(), options


@given(bodies(), st.integers(0, 20))
def test_pieces_say_what_the_whole_says(body, piece_bytes):
    whole, pieces = outcome(body, len(body)), outcome(body, piece_bytes)
    # Of several faults, pieces may find another one first.
    assert whole == pieces or (isinstance(whole[0], int) and isinstance(pieces[0], int))


@given(
    st.lists(st.lists(st.tuples(SPACES, st.integers(-9, 9)), min_size=1, max_size=3), min_size=1),
    st.integers(0, 40),
)
def test_right_bodies_are_cut_and_read(rows, piece_bytes):
    sequences = ",".join(
        f"{space}[{','.join(f'[{n},{space}{n}]{space}' for _, n in row)}]{row[0][0]}"
        for row in rows
        for space in [row[-1][0]]
    )
    body = f'{{"sequences": [{sequences}], "normalize": true}}'.encode()
    assert cut(body, piece_bytes) is not None
    read, options = decode_json(body, 2, piece_bytes)
    assert options.normalize
    assert read.lengths.tolist() == [len(row) for row in rows]
    assert read.values[:, 0].tolist() == [n for row in rows for _, n in row]


@pytest.mark.parametrize(
    ("sequences", "error"),
    [
        ("[[1,2]],", UnparseableError),
        ("[[1,2]], ", UnparseableError),
        (",[[1,2]]", UnparseableError),
        ("[[1,2]],,[[1,2]]", UnparseableError),
        (" ", InvalidError),
        ("", InvalidError),
        ("[[1,2]],[]", InvalidError),
        ("[[1,2]],[[1]]", InvalidError),
    ],
)
def test_a_comma_needs_a_sequence_on_both_sides(sequences, error):
    body = f'{{"sequences": [{sequences}]}}'.encode()
    for piece_bytes in (0, 1000):
        with pytest.raises(error):
            decode_json(body, 2, piece_bytes)


def test_errors_in_later_pieces_name_the_right_place():
    good = "[[1,2],[3,4]]"
    for bad, row, timestep in (
        ("[[1,2],[3,NaN]]", 2, 1),
        ('[[1,"a"]]', 2, 0),
        ("[[1,2],[3]]", 2, 1),
        ("[]", 2, None),
        ("[[1,2],7]", 2, 1),
        ("7", 2, None),
    ):
        body = f'{{"sequences": [{good},{good},{bad}]}}'.encode()
        with pytest.raises(InvalidError) as caught:
            decode_json(body, 2, 0)
        assert (caught.value.details.get("row"), caught.value.details.get("timestep")) == (
            row,
            timestep,
        ), bad


def test_a_large_body_leaves_the_interpreter_to_others():
    sequence = "[" + ",".join(["[0,0,0,0]"] * 60) + "]"
    body = f'{{"sequences": [{",".join([sequence] * 20_000)}]}}'.encode()
    # In one call of the parser, another thread always waits for half the time or more. A busy
    # machine may keep one waiting too, but not every time.
    assert any(longest_wait(lambda: decode_json(body, 4)) < 0.45 for _ in range(5))


def longest_wait(work):
    """For how much of the time that `work` took another thread was kept waiting at a stretch."""
    done, longest = threading.Event(), 0.0

    def watch():
        nonlocal longest
        while not done.is_set():
            start = time.perf_counter()
            time.sleep(0.001)
            longest = max(longest, time.perf_counter() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        work()
        took = time.perf_counter() - start
    finally:
        done.set()
        watcher.join()
    return longest / took


NUMBERS = ",".join(["[[0.125, -3.5]]"] * 200_000)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (
            '{"sequences": [[[' + "0," * MAX_VALUES + "0]]]}",
            InvalidError,
            f"a sequence of more than {MAX_VALUES} values",
        ),
        (
            '{"sequences": [[[0,0]]], "x": [' + "0," * MAX_VALUES + "0]}",
            InvalidError,
            "2097179 bytes of JSON beside its numbers; at most 65536",
        ),
        ('{"x": [' + "[]," * MAX_VALUES + "0]}", UnparseableError, "but it holds none"),
        ("[" * (MAX_VALUES + 1), UnparseableError, "but it holds none"),
        (f'{{"sequences": [{NUMBERS}, [["x", 0]]]}}', UnparseableError, """ ', \\[\\["x", 0"""),
        (f'{{"sequences": [{NUMBERS}, {{}}]}}', UnparseableError, "from byte 3200014 .* ', {}]}'"),
        (f'{{"sequences": [{NUMBERS}', UnparseableError, "from byte 3200014 .* ''"),
        (
            f'{{"sequences": [[[0,0]]], "sequences": [{NUMBERS}]}}',
            UnparseableError,
            "it holds several",
        ),
        ('"sequences":[]' * 200_000, UnparseableError, "it holds several"),
        ('{"sequences":[' * 200_000, UnparseableError, "it holds none"),
        (f'{{"sequences":[{NUMBERS}], "s\\u0065quences": []}}', UnparseableError, "from byte"),
        (f'{{"sequences": [{NUMBERS}], "x": 1}}', InvalidError, "^x: "),
        (f'{{"sequences": [{NUMBERS}], normalize}}', UnparseableError, "no JSON: ', normalize}'"),
    ],
)
def test_large_bodies_that_are_wrong_are_refused_cheaply(body, error, message):
    body = body.encode()
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            decode_json(body, 2)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", ['"sequences":[', '"sequences":[1],', '{"sequences":[[1]]},'])
def test_a_body_full_of_keys_takes_time_in_proportion_to_its_length(part):
    def seconds(count):
        body, start = part.encode() * count, time.process_time()
        with pytest.raises(UnparseableError):
            decode_json(body, 2)
        return time.process_time() - start

    short, long = (min(seconds(count) for _ in range(3)) for count in (20_000, 320_000))
    assert long < 5 * 16 * short


@pytest.mark.parametrize("piece_bytes", [10, 2**20])
@pytest.mark.parametrize(
    ("members", "field"),
    [
        ('"sequences": [[[1, 2]]], "normalize": true, "normalize": true', "normalize"),
        ('"normalize": {"a": [1e9, {}]}, "sequences": [[[1, 2]]], "normalize": false', "normalize"),
        ('"sequences": [[[3, 4]]], "sequences": [[[1, 2]]]', "sequences"),
        ('"sequ\\u0065nces": [[[3, 4]]], "sequences": [[[1, 2]]]', "sequences"),
        ('"overlong": [":", "\\":"], "sequences": [[[1, 2]]], "overlong": "error"', "overlong"),
    ],
)
def test_a_key_that_is_given_twice_is_an_error(members, field, piece_bytes):
    with pytest.raises(InvalidError, match=f"^{field} is given twice$") as caught:
        decode_json(f"{{{members}}}".encode(), 2, piece_bytes)
    assert caught.value.details["field"] == field


def test_numbers_that_float32_cannot_hold_become_infinite():
    values = decode_json(b'{"sequences": [[[1e39, -1e39]]]}', 2)[0].values
    assert np.isinf(values).all()
