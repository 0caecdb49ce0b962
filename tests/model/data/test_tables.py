"""Tables in a data set: each by the names of its own columns."""

import numpy as np
import pandas as pd
import pytest

from tritserve.model.data.dataset import DataError, load
from tritserve.model.data.writing import write

AB = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
BA = AB[["b", "a"]]
ARRAY = np.array([[5.0, 6.0]])


def written(path, train, **given):
    write(path, train, **given)
    data = load(path, "train")
    return data.signature.feature_names, [part.tolist() for part in data.sequences.split()]


@pytest.mark.parametrize("table", [AB, BA], ids=["ab", "ba"])
@pytest.mark.parametrize("first", ["array", "table"])
def test_of_arrays_and_tables_each_table_is_put_into_the_order_of_the_features(
    tmp_path, table, first
):
    parts = [ARRAY, table] if first == "array" else [table, ARRAY]
    names, rows = written(tmp_path / "x.npz", parts, feature_names=["b", "a"])
    assert names == ("b", "a")
    expected = [[[5, 6]], [[3, 1], [4, 2]]]
    assert rows == (expected if first == "array" else expected[::-1])


def test_the_first_table_names_the_features_wherever_it_stands(tmp_path):
    names, rows = written(tmp_path / "x.npz", [ARRAY, BA, AB], test=[ARRAY, AB])
    assert names == ("b", "a")
    assert rows == [[[5, 6]], [[3, 1], [4, 2]], [[3, 1], [4, 2]]]
    assert load(tmp_path / "x.npz", "test").sequences.values.tolist() == [[5, 6], [3, 1], [4, 2]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": [ARRAY, AB], "feature_names": ["b", "c"]},
            r"^train: sequence 1 has other columns than the features: missing \['c'\], "
            r"unknown \['a'\]$",
        ),
        (
            {"train": [AB], "test": [AB.assign(c=1.0)]},
            r"^test: sequence 0 has other columns than the features: missing \[\], unknown \['c'\]",
        ),
        (
            {"train": [ARRAY], "test": [AB]},
            "^test: tables name their columns, and the features have no names; give feature_names$",
        ),
        ({"train": [ARRAY, AB.set_axis(["a", "a"], axis=1)]}, "the feature 'a' is named twice"),
    ],
    ids=["features", "split", "no names", "twice"],
)
def test_columns_that_are_not_the_features_are_refused(tmp_path, given, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "x.npz", **given)


def test_tables_with_channels_first_may_differ_in_length(tmp_path):
    parts = [np.arange(10.0).reshape(2, 5), np.arange(12.0).reshape(2, 6)]
    tables = [
        pd.DataFrame(parts[0], columns=list("abcde")),
        pd.DataFrame(parts[1], columns=list("fedcba")),
    ]
    names, rows = written(
        tmp_path / "x.npz", tables, layout="channels_first", feature_names=["x", "y"]
    )
    assert names == ("x", "y")
    assert rows == [part.T.tolist() for part in parts]
