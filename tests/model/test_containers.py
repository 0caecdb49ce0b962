"""The same numbers in another container are the same batch, or one error that says why not."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from tritserve.model.data.dataset import DataError
from tritserve.model.data.writing import write
from tritserve.model.sequences import SequenceError, Sequences

ROWS = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
NAMES = ["x", "y", "z"]
COLUMNS = dict(zip(NAMES, zip(*ROWS, strict=True), strict=True))


class OnlyDlpack:
    """An array that speaks nothing but the protocol for exchanging them."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.array(ROWS, np.int16))
    return np.load(tmp_path / "a.npy", mmap_mode="r")


CONTAINERS = {
    "objects": lambda: np.array(ROWS, object),
    "array of lists": lambda: np.array([*map(list, ROWS), None], object)[:-1],
    "column order": lambda: np.asfortranarray(ROWS),
    "bytes swapped": lambda: np.array(ROWS, ">f8"),
    "torch": lambda: torch.tensor(ROWS),
    "dlpack": lambda: OnlyDlpack(np.array(ROWS)),
    "pandas": lambda: pd.DataFrame(COLUMNS),
    "pandas nullable": lambda: pd.DataFrame(COLUMNS).astype({"x": "Int64", "y": "Float32"}),
    "pandas arrow": lambda: pd.DataFrame(COLUMNS).astype("int32[pyarrow]"),
    "polars": lambda: pl.DataFrame(COLUMNS),
    "polars mixed": lambda: pl.DataFrame(COLUMNS).with_columns(pl.col("x").cast(pl.Float32)),
    "pyarrow": lambda: pa.table({name: list(column) for name, column in COLUMNS.items()}),
    "pyarrow lists": lambda: pa.array(ROWS),
    "pyarrow list in a list": lambda: pa.array([ROWS])[0],
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_a_sequence_is_the_same_in_every_container(make):
    batch = Sequences.from_list([make(), ROWS])
    assert batch.values.flags.c_contiguous
    assert batch.values.tolist() == ROWS + ROWS
    assert batch.lengths.tolist() == [4, 4]


def test_a_memory_map_is_an_array(tmp_path):
    assert Sequences.from_list([mapped(tmp_path)]).values.tolist() == ROWS


@pytest.mark.parametrize("lengths", [[4, 3], [4, 4]], ids=["unequal", "equal"])
@pytest.mark.parametrize(
    "join",
    [
        lambda parts: np.array([*parts, None], object)[:-1],
        lambda parts: np.array(parts, object) if len({*map(len, parts)}) == 1 else parts,
        pd.Series,
        lambda parts: pl.Series([part.tolist() for part in parts]),
        lambda parts: pa.array([part.tolist() for part in parts]),
    ],
    ids=["objects", "objects of numbers", "pandas", "polars", "pyarrow"],
)
def test_a_batch_is_the_same_in_every_container_whatever_its_lengths(join, lengths):
    parts = [np.array(ROWS[:length]) for length in lengths]
    batch = Sequences.from_list(join(parts))
    assert batch.values.tolist() == [row for part in parts for row in part.tolist()]
    assert batch.lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("sequence", "reason"),
    [
        (pd.DataFrame({"x": ["a", "b"]}), "holds <U1; it must hold real numbers"),
        (pl.DataFrame({"x": ["a", "b"]}), "holds <U1; it must hold real numbers"),
        (np.array([[1, {}]], object), "holds object, such as {}; it must hold real numbers"),
        (np.array([[1, 2], [3]], object), "is no array: .*inhomogeneous"),
        (torch.ones((2, 2), requires_grad=True), "is no array: .*requires grad"),
    ],
    ids=["pandas text", "polars text", "dict", "ragged", "gradient"],
)
def test_what_holds_no_numbers_is_refused_in_every_container(sequence, reason):
    with pytest.raises(SequenceError, match=f"sequence 1 {reason}"):
        Sequences.from_list([[[1.0]], sequence])


@pytest.mark.parametrize(
    "sequence",
    [
        pd.DataFrame({"x": pd.array([1, None], "Int64")}),
        pl.DataFrame({"x": [1, None]}),
        pa.array([[1], [None]]),
        np.array([[1], [None]], object),
        [[1], [float("nan")]],
    ],
    ids=["pandas", "polars", "pyarrow", "objects", "list"],
)
def test_a_missing_value_is_an_error_in_every_container(tmp_path, sequence):
    with pytest.raises(
        DataError, match=r"train: sequence 1(, timestep 1, feature 0 is nan| holds )"
    ):
        write(tmp_path / "x.npz", [[[1.0]], sequence])


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pa.table])
def test_tables_of_one_batch_have_one_order_of_columns(kind):
    columns = {name: list(column) for name, column in COLUMNS.items()}
    turned = {name: columns[name] for name in ("z", "x", "y")}
    assert Sequences.from_list([kind(columns), kind(turned)]).values.tolist() == ROWS + ROWS
    other = {"x": [1], "y": [2], "w": [3]}
    message = r"sequence 1 has other columns than the features: missing \['z'\], unknown \['w'\]"
    with pytest.raises(SequenceError, match=message):
        Sequences.from_list([kind(columns), kind(other)])
    with pytest.raises(SequenceError, match="a table is one sequence; a batch is a list of them"):
        Sequences.from_list(kind(columns))


@pytest.mark.parametrize("order", ["aba", "baa"])
@pytest.mark.parametrize(
    "make",
    [
        lambda names: pd.DataFrame([[1, 2, 3]], columns=list(names)),
        lambda names: pa.Table.from_arrays([pa.array([1])] * 3, names=list(names)),
    ],
    ids=["pandas", "pyarrow"],
)
def test_columns_of_the_same_name_are_refused(make, order):
    with pytest.raises(SequenceError, match="sequence 1 has two columns named 'a'") as refused:
        Sequences.from_list([[[1, 2, 3]], make(order)])
    assert refused.value.row == 1


def test_channels_first_is_said_or_asked_about():
    parts = [np.arange(12.0).reshape(3, 4), np.arange(15.0).reshape(3, 5)]
    batch = Sequences.from_list(parts, layout="channels_first")
    assert batch.lengths.tolist() == [4, 5]
    assert [part.T.tolist() for part in batch.split()] == [part.tolist() for part in parts]
    with pytest.raises(SequenceError, match=r"all have 3 timesteps: transposed\? A sequence is \["):
        Sequences.from_list(parts)
    with pytest.raises(SequenceError) as unlike:
        Sequences.from_list([parts[0], parts[1][:2]])
    assert "transposed" not in str(unlike.value)
