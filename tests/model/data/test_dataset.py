import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import DATA
from tritserve.model.data.dataset import DataError, Dataset, load
from tritserve.model.data.split import hold_out
from tritserve.model.data.writing import write
from tritserve.model.sequences import Sequences


def write_arrays(path, **arrays):
    np.savez(path, **arrays)
    return path


def good(n=6):
    lengths = np.arange(1, n + 1)
    values = np.arange(2 * lengths.sum(), dtype=np.float32).reshape(-1, 2)
    return {"train_values": values, "train_lengths": lengths, "y_train": np.arange(n) % 2}


def test_real_speech_is_what_its_readme_says():
    train, test = (
        load(DATA / "JapaneseVowels.npz", "train"),
        load(DATA / "JapaneseVowels.npz", "test"),
    )
    assert (len(train.sequences), len(test.sequences)) == (270, 370)
    assert train.sequences.values.shape[1] == 12
    assert train.classes == test.classes == 9
    lengths = np.concatenate([train.sequences.lengths, test.sequences.lengths])
    assert (lengths.min(), lengths.max()) == (7, 29)


def test_labels_may_be_left_out(tmp_path):
    arrays = good()
    del arrays["y_train"]
    data = load(write_arrays(tmp_path / "x.npz", **arrays), "train")
    assert data.labels is None
    assert data.classes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_values": np.zeros(21)}, "must be real numbers of shape"),
        ({"train_values": np.full((21, 2), "a")}, "must be real numbers of shape"),
        ({"train_values": np.full((21, 2), 2**24 + 1)}, "holds 16777217, which float32 rounds to"),
        ({"train_lengths": np.array([20])}, "add up to 20 timesteps, values hold 21"),
        ({"y_train": np.zeros(5, int)}, "one label a sequence"),
        ({"y_train": np.zeros(6)}, "must be integers"),
        ({"y_train": np.array([0, 1, 0, 1, 0, -1])}, "labels count from 0"),
        ({"y_train": np.array([0, 1, 0, 1, 0, 6])}, "label 6, and there are 6 sequences"),
        ({"y_train": np.array([0, 1, 0, 1, 0, 2**64 - 1], np.uint64)}, "number the classes 0, 1"),
        (
            {"y_train": np.zeros(6, "m8[s]")},
            r"y_train is timedelta64\[s\] \[6\]; it must be integers",
        ),
        ({"train_lengths": np.full(6, 3, "m8[s]")}, r"lengths are timedelta64\[s\] of shape"),
        ({"y_train": np.array([object()] * 6)}, "allow_pickle"),
        ({"train_values": np.full((21, 2), np.nan)}, "must be finite"),
        ({"train_values": np.full((21, 2), 1e300)}, "feature 0 is inf; values must be finite"),
        ({"train_values": np.zeros((21, 0))}, "train_values have 0 features; a model takes 1 to"),
        ({"train_values": np.zeros((21, 65_537))}, "65537 features; a model takes 1 to 65536"),
    ],
)
def test_a_file_of_another_form_is_an_error_that_says_so(tmp_path, change, message):
    path = write_arrays(tmp_path / "x.npz", **(good() | change))
    with pytest.raises(DataError, match=message):
        load(path, "train")


def test_what_is_no_data_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no array 'test_values'"):
        load(write_arrays(tmp_path / "x.npz", **good()), "test")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("one.npy", "text.npz", "empty.npz"):
        with pytest.raises(DataError, match="is not an"):
            load(tmp_path / name, "train")


@given(st.integers(0, 2**31), st.integers(0, 255), st.sampled_from([np.savez, np.savez_compressed]))
def test_a_damaged_file_is_a_data_error(where, byte, save):
    content = io.BytesIO()
    save(content, **good())
    damaged = bytearray(content.getvalue())
    damaged[where % len(damaged)] = byte
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        file.write(damaged)
        file.flush()
        with contextlib.suppress(DataError):
            load(Path(file.name), "train")


def test_holding_out_keeps_every_class_and_loses_nothing():
    data = load(DATA / "JapaneseVowels.npz", "train")
    train, held = hold_out(data, 0.2, np.random.default_rng(0))
    assert np.bincount(held.labels).tolist() == [6] * 9
    assert np.bincount(train.labels).tolist() == [24] * 9
    both = {part.tobytes() for part in train.sequences.split() + held.sequences.split()}
    assert both == {part.tobytes() for part in data.sequences.split()}
    assert hold_out(data, 0.0, np.random.default_rng(0)) == (data, None)


@example(sizes=[1] * 6 + [6], fraction=0.5, seed=0)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=25),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 9),
)
def test_the_share_held_out_is_the_share_asked_for(sizes, fraction, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    sequences = Sequences(np.zeros((len(labels), 1), np.float32), np.ones(len(labels), np.int64))
    data = Dataset(sequences, labels, "x", "")
    # One more than its share, rounded down, is the most that a class gives.
    room = sum(min(size - 1, int(fraction * size) + 1) for size in sizes)
    wanted = min(round(fraction * len(labels)), room)
    if not wanted:
        with pytest.raises(DataError, match="is none"):
            hold_out(data, fraction, np.random.default_rng(seed))
        return
    train, held = hold_out(data, fraction, np.random.default_rng(seed))
    assert len(held.sequences) == wanted
    counts = np.bincount(held.labels, minlength=len(sizes))
    assert (np.abs(counts - fraction * np.array(sizes)) < 1 + 1e-9).all()
    assert set(train.labels) == set(labels)


def test_values_in_column_order_are_read_into_row_order(tmp_path):
    values = np.asfortranarray(np.arange(12, dtype=np.float64).reshape(6, 2))
    np.savez(tmp_path / "x.npz", train_values=values, train_lengths=[2, 4])
    read = load(tmp_path / "x.npz", "train").sequences
    assert read.values.flags.c_contiguous
    assert all(sequence.flags.c_contiguous for sequence in read.split())
    np.testing.assert_array_equal(read.values, values)


def test_a_data_set_is_read_as_it_was_written(tmp_path):
    sequences = [np.arange(2 * n).reshape(n, 2) for n in (1, 4, 2)]
    path = tmp_path / "x.npz"
    write(path, sequences, ["b", "a", "b"], test=sequences[:2], test_labels=["a", "a"])
    train, test = load(path, "train"), load(path, "test")
    for split, count in ((train, 3), (test, 2)):
        for read, written in zip(split.sequences.split(), sequences[:count], strict=True):
            np.testing.assert_array_equal(read, written)
    assert train.labels.tolist() == [1, 0, 1]
    assert test.labels.tolist() == [0, 0]
    with np.load(path) as file:
        assert file["classes"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        ([30, 4, 30], [1, 0, 1], ["4", "30"]),
        (np.array([2, 0, 1], np.uint8), [2, 0, 1], ["0", "1", "2"]),
        (np.array(["30", "4", "4"], object), [0, 1, 1], ["30", "4"]),
        ([np.str_("b"), "a", "b"], [1, 0, 1], ["a", "b"]),
        ([np.int64(7), 2, np.uint8(7)], [1, 0, 1], ["2", "7"]),
        (np.array([2**64 - 1, 2, 3], np.uint64), [2, 0, 1], ["2", "3", str(2**64 - 1)]),
    ],
)
def test_labels_are_numbered_in_sorted_order(tmp_path, labels, numbers, classes):
    write(tmp_path / "x.npz", np.ones((3, 5, 2)), labels)
    assert load(tmp_path / "x.npz", "train").labels.tolist() == numbers
    with np.load(tmp_path / "x.npz") as file:
        assert file["classes"].tolist() == classes


def test_sequences_alone_are_a_data_set(tmp_path):
    write(tmp_path / "x.npz", np.ones((3, 5, 2)), test=np.ones((1, 7, 2)))
    assert load(tmp_path / "x.npz", "train").labels is None
    assert load(tmp_path / "x.npz", "test").sequences.lengths.tolist() == [7]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": []}, "train: a batch needs at least one sequence"),
        ({"train": [np.ones((2, 2)), np.ones(2)]}, r"train: sequence 1 has shape \[2\]"),
        ({"train": [[[np.nan]]]}, "train: sequence 0, timestep 0, feature 0 is nan"),
        ({"train_labels": ["a"]}, r"train: y_train is int64 \[1\]; .* one label a sequence"),
        ({"train_labels": [0.5, 1]}, "^train labels hold 0.5; they must be integers or strings, "),
        ({"train_labels": [["a"], ["b"]]}, r"^train labels have shape \[2, 1\]; they must be one"),
        ({"train_labels": "ab"}, r"^train labels have shape \[\]; they must be one a sequence"),
        ({"train_labels": [["a"], ["b", "c"]]}, r"^train labels hold \['a'\]; they must be"),
        ({"train_labels": ["a", None]}, "^train labels hold None; they must be"),
        ({"train_labels": [True, False]}, "^train labels hold True; they must be"),
        ({"train_labels": [1, "a"]}, "^train labels hold 1 and 'a'; they must be of one type"),
        (
            {"train_labels": [2**64, 1]},
            "^train labels hold integers that no type of 64 bits holds all; give strings",
        ),
        ({"train_labels": ["run", "walk "]}, r"^classes\.1: .* no space at either end: 'walk '$"),
        ({"train_labels": ["a", "b" * 101]}, r"^classes\.1: .* at most 100 characters: 'bbbb"),
        ({"test_labels": ["a"]}, "there are test labels, but no test sequences"),
        ({"test": [[[1, 2]]]}, "train has 1 features, test has 2"),
        ({"test": [[[1]]], "test_labels": ["a"]}, "test: the label 'a' is of no training seq"),
        (
            {"train_labels": [0, 1], "test": [[[1]]], "test_labels": ["1"]},
            "test: the label '1' is of no training sequence",
        ),
        ({"test": [[[1]]], "test_labels": [1, 1]}, "test: the label 1 is of no training"),
    ],
)
def test_what_makes_no_data_set_is_not_written(tmp_path, given, message):
    path = tmp_path / "x.npz"
    path.write_bytes(b"as it was")
    with pytest.raises(DataError, match=message):
        write(path, **({"train": [[[1.0]], [[2.0]]]} | given))
    assert path.read_bytes() == b"as it was"


def test_missing_values_are_taken_where_they_are_asked_for(tmp_path):
    path = tmp_path / "holes.npz"
    write(path, [[[1.0, np.nan]], [[2.0, 3.0]]], missing=True)
    with pytest.raises(DataError, match="sequence 0, timestep 0, feature 1 is nan"):
        load(path, "train")
    values = load(path, "train", missing=True).sequences.values
    np.testing.assert_array_equal(values, [[1, np.nan], [2, 3]])
    with pytest.raises(DataError, match="feature 0 is inf; values must be finite, or NaN"):
        write(path, [[[np.inf]]], missing=True)
