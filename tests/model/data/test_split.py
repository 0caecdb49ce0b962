"""A validation part of whole groups."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritserve.model.data.dataset import DataError, Dataset, load
from tritserve.model.data.split import hold_out
from tritserve.model.data.writing import write
from tritserve.model.sequences import Sequences


def grouped(groups, labels=None):
    groups = np.array(groups)
    sequences = Sequences(
        np.arange(len(groups), dtype=np.float32)[:, None], np.ones(len(groups), np.int64)
    )
    labels = None if labels is None else np.array(labels)
    return Dataset(sequences, labels, "x", "", groups)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=8),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 9),
)
def test_of_few_groups_the_share_is_the_nearest_that_whole_ones_make(sizes, fraction, seed):
    data = grouped(np.repeat(np.arange(len(sizes)) * 7, sizes))
    train, held = hold_out(data, fraction, np.random.default_rng(seed))
    assert not set(train.groups) & set(held.groups)
    assert len(train.sequences) + len(held.sequences) == sum(sizes)
    choices = [np.dot(chosen, sizes) for chosen in product([0, 1], repeat=len(sizes))][1:-1]
    wanted = fraction * sum(sizes)
    nearest = min(abs(choice - wanted) for choice in choices)
    assert abs(len(held.sequences) - wanted) == pytest.approx(nearest)


def test_of_many_groups_the_share_and_the_classes_are_near():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 40, 60))
    labels = rng.integers(0, 5, len(groups))
    train, held = hold_out(grouped(groups, labels), 0.2, np.random.default_rng(1))
    assert not set(train.groups) & set(held.groups)
    assert len(held.sequences) / len(groups) == pytest.approx(0.2, abs=0.01)
    shares = np.bincount(held.labels) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.05


def test_classes_keep_their_shares_where_groups_allow():
    # Of four groups of five, only the last two have both classes.
    groups = np.repeat([0, 1, 2, 3], 5)
    labels = [0] * 5 + [1] * 5 + [0, 0, 0, 1, 1] + [1, 1, 1, 0, 0]
    for seed in range(5):
        _, held = hold_out(grouped(groups, labels), 0.25, np.random.default_rng(seed))
        assert set(held.groups) <= {2, 3}


def test_another_seed_may_hold_other_groups_out():
    data = grouped(np.repeat(np.arange(10), 3))
    held = [set(hold_out(data, 0.2, np.random.default_rng(s))[1].groups) for s in range(8)]
    assert all(len(groups) == 2 for groups in held)
    assert any(groups != held[0] for groups in held)
    assert held[0] == set(hold_out(data, 0.2, np.random.default_rng(0))[1].groups)


def test_groups_that_cannot_be_held_out_are_an_error():
    with pytest.raises(DataError, match="all sequences are of one group; a validation part needs"):
        hold_out(grouped([4, 4, 4], [0, 1, 0]), 0.2, np.random.default_rng(0))
    with pytest.raises(
        DataError, match=r"no group can be held out .* each alone has a class, which training"
    ):
        hold_out(grouped([0, 0, 1, 1], [0, 0, 1, 1]), 0.5, np.random.default_rng(0))
    many = np.arange(12)
    with pytest.raises(DataError, match="no group can be held out"):
        hold_out(grouped(many, many), 0.5, np.random.default_rng(0))


def test_of_many_groups_those_that_alone_hold_a_class_stay():
    # 50 sessions of 4; each of the first 25 holds a class that is seen nowhere else.
    labels = np.zeros(200, np.int64)
    labels[:100:4] = np.arange(1, 26)
    for seed in range(5):
        train, held = hold_out(
            grouped(np.repeat(np.arange(50), 4), labels), 0.2, np.random.default_rng(seed)
        )
        assert held.groups.min() >= 25
        assert len(held.sequences) == 40
        assert set(train.labels) == set(labels)


def test_where_the_wanted_share_cannot_be_held_out_a_smaller_one_is():
    # Of 12 sessions, only the last three have a class in common.
    labels = np.repeat([*range(10), 9, 9], 4)
    for fraction in (0.1, 0.25, 0.5):
        _, held = hold_out(
            grouped(np.repeat(np.arange(12), 4), labels), fraction, np.random.default_rng(0)
        )
        assert len(held.sequences) == min(8, round(fraction * 48 / 4) * 4)


@settings(deadline=None)
@given(
    where=st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=12),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 9),
)
def test_of_many_groups_one_is_held_out_if_one_can_be(where, fraction, seed):
    # Each class is in the groups given, and one more in all of them.
    pairs = [(group, label) for label, groups in enumerate(where) for group in groups]
    pairs += [(group, len(where)) for group in range(13)]
    groups, labels = np.array(pairs).T
    can_be = {group for group in range(13) if {group} not in where}
    try:
        train, held = hold_out(grouped(groups, labels), fraction, np.random.default_rng(seed))
    except DataError:
        assert not can_be
    else:
        assert set(held.groups) <= can_be
        assert not set(train.groups) & set(held.groups)
        assert set(train.labels) == set(labels)


@pytest.mark.parametrize(
    "groups", [["b", "a", "b"], [30, -4, 30], np.array(["b", "a", "b"], object)]
)
def test_groups_are_read_as_they_were_written(tmp_path, groups):
    write(tmp_path / "x.npz", np.ones((3, 5, 2)), groups=groups, test=np.ones((1, 5, 2)))
    assert load(tmp_path / "x.npz", "train").groups.tolist() == [1, 0, 1]
    assert load(tmp_path / "x.npz", "test").groups is None


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b"], r"groups are <U1 \[2\]; they must be integers or strings of shape \[3\]"),
        ([0.5, 1.0, 2.0], "groups hold 0.5; they must be integers or strings, one a"),
        (["a", 1, "b"], "groups hold 'a' and 1; they must be of one type"),
    ],
)
def test_groups_are_one_a_sequence(tmp_path, groups, message):
    with pytest.raises(DataError, match=message):
        write(tmp_path / "x.npz", np.ones((3, 5, 2)), groups=groups)
