from fractions import Fraction

import numpy as np
import pytest

from tritserve.model.sequences import SequenceError, Sequences, check_finite

GOOD = np.ones((2, 3))


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        ([["a", "b", "c"]], "holds <U1; it must hold real numbers"),
        ([[1, 2, 3], [1]], "is no array: .*inhomogeneous"),
        ([[None, 1, 2]], "holds object"),
        ([[2**64, 1, 2]], "holds an integer of more than 64 bits; pass floats to have it rounded"),
        ([[-(2**63) - 1, 1, 2]], "holds an integer of more than 64 bits"),
        (np.array([[10**5000, 0.5, 2]], object), "holds an integer of more than 64 bits"),
        ([[Fraction(10**400), 1, 2]], "is no array: "),
        (GOOD * 1j, "holds complex128"),
        (np.full((2, 3), "2020-01-01", "datetime64[D]"), "holds datetime64"),
        (np.ma.masked_greater(np.arange(6.0).reshape(2, 3), 4), "has masked values"),
        ([GOOD[0], np.ma.masked_greater(np.arange(3.0), 1)], "has masked values"),
        (np.ones(3), r"has shape \[3\]"),
    ],
    ids=[
        "text",
        "ragged",
        "none",
        "65 bits",
        "minus 65 bits",
        "digits",
        "fraction",
        "complex",
        "dates",
        "masked",
        "masked timestep",
        "flat",
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_not_an_array_of_real_numbers_is_refused_with_its_row(sequence, reason):
    with pytest.raises(SequenceError, match=f"sequence 1 {reason}") as caught:
        Sequences.from_list([GOOD, sequence])
    assert caught.value.row == 1


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "longdouble"])
def test_numbers_of_every_kind_are_taken(dtype):
    batch = Sequences.from_list([GOOD.astype(dtype), [[1, True, 1.0]]])
    assert batch.values.dtype == np.float32
    assert batch.values.tolist() == [[1.0] * 3] * 3
    assert batch.lengths.tolist() == [2, 1]


def test_fractions_are_numbers_and_rounded_as_floats_are():
    batch = Sequences.from_list([[[Fraction(1, 2), Fraction(1, 3), True, 2**53 + 1]]])
    assert batch.values.tolist() == [[0.5, np.float32(1 / 3), 1.0, 2.0**53]]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_integers_that_float32_would_round_are_refused(dtype):
    exact = np.array([[2**24], [2**30]], dtype)
    np.testing.assert_array_equal(Sequences.from_list([exact]).values, exact)
    with pytest.raises(SequenceError, match=r"sequence 1 holds 1700000001, .* to 1700000000"):
        Sequences.from_list([exact, np.array([[1_700_000_001]], dtype)])
    highest = np.iinfo(dtype).max
    with pytest.raises(SequenceError, match=f"holds {highest}, which float32 rounds to "):
        Sequences.from_list([np.array([[highest]], dtype)])
    Sequences.from_list([np.array([[1_700_000_001.0]])])


def test_an_array_that_could_be_masked_and_is_not_is_taken():
    assert Sequences.from_list([np.ma.array(GOOD)]).values.tolist() == GOOD.tolist()


@pytest.mark.filterwarnings("error")
def test_what_float32_cannot_hold_is_found_with_its_row():
    batch = Sequences.from_list([GOOD, [[1.0, 1e300, 1.0]]])
    with pytest.raises(SequenceError, match="sequence 1, timestep 0, feature 1 is inf"):
        check_finite(batch.values, batch.lengths)
