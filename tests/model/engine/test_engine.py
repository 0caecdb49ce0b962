import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import (
    SETTINGS,
    cosines,
    random_batch,
    random_bitnet,
    random_packed,
    torch_embed,
)
from tritserve.model.engine.engine import Engine
from tritserve.model.engine.reference import Reference
from tritserve.model.inputs import shorten, with_differences
from tritserve.model.sequences import SequenceError, Sequences
from tritserve.model.training.export import ExportError, export


@pytest.mark.parametrize("options", SETTINGS[::113], ids=lambda o: "-".join(map(str, o.values())))
def test_it_computes_what_torch_computes(options, tmp_path):
    model, _ = random_packed(tmp_path / "m", hidden_size=32, **options)
    batch = random_batch([3, 1, 60, 17, 9], 5)
    embeddings = Engine.load(tmp_path / "m").embed(batch.values, batch.lengths)
    assert embeddings.dtype == np.float32
    assert cosines(embeddings, torch_embed(model, batch)).min() > 0.9995


@pytest.fixture(scope="module", params=["int8", "float32"])
def engine(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "m"
    random_packed(path, window_size=40, activations=request.param)
    return Engine.load(path)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_a_sequence_gives_the_same_bytes_in_any_batch(engine, lengths, seed, data):
    batch = random_batch(lengths, 5, seed)
    together = engine.embed(batch.values, batch.lengths)
    order = data.draw(st.permutations(range(len(batch))))
    other = batch.select(order)
    assert engine.embed(other.values, other.lengths).tobytes() == together[order].tobytes()
    alone = batch.select([order[0]])
    assert engine.embed(alone.values, alone.lengths).tobytes() == together[order[0]].tobytes()


def batch_of(values, lengths):
    return np.array(values, dtype=np.float32).reshape(-1, 5), np.array(lengths)


@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        (np.zeros((2, 5)), np.array([2]), "values are float64; they must be float32"),
        ([[0.0] * 5] * 2, np.array([2]), "values are a list; they must be a numpy array"),
        (None, np.array([2]), "values are a NoneType; they must be a numpy array"),
        (np.zeros((2, 5), np.float32), [2], "lengths are a list; they must be a numpy array"),
        (np.zeros((2, 5), np.float32), None, "lengths are a NoneType; they must be a numpy"),
        (np.zeros((2, 4), np.float32), np.array([2]), "this model takes [timesteps, 5]"),
        (np.zeros(5, np.float32), np.array([5]), "this model takes [timesteps, 5]"),
        (np.zeros((), np.float32), np.array([1]), "values hold 0 timesteps, fewer"),
        (np.zeros((2, 5), np.float32), np.array([2.0]), "must be integers of shape [batch]"),
        (np.zeros((2, 5), np.float32), np.array([[2]]), "must be integers of shape [batch]"),
        (np.zeros((0, 5), np.float32), np.array([], int), "at least one sequence"),
        (np.zeros((2, 5), np.float32), np.array([2, 0]), "sequence 1 has length 0"),
        (np.zeros((2, 5), np.float32), np.array([3, -1]), "sequence 1 has length -1"),
        (np.zeros((2, 5), np.float32), np.array([1, 2]), "add up to 3 timesteps, values hold 2"),
        (
            np.zeros((2, 5), np.float32),
            np.ones(3, int),
            "values hold 2 timesteps, fewer than the 3 sequences",
        ),
        (
            np.zeros((4, 5), np.float32),
            np.full(4, 2**62),
            f"sequence 0 has length {2**62}, values hold 4 timesteps",
        ),
        (
            np.zeros((2, 5), np.float32),
            np.array([1, 2**64 - 1], np.uint64),
            f"sequence 1 has length {2**64 - 1}, values hold 2 timesteps",
        ),
        (
            np.ma.masked_greater(np.eye(2, 5, dtype=np.float32), 0.5),
            np.array([2]),
            "values are masked in places",
        ),
        (
            np.zeros((2, 5), np.float32),
            np.ma.masked_equal([1, 1], 1),
            "lengths are masked in places",
        ),
        (np.zeros((43, 5), np.float32), np.array([2, 41]), "sequence 1 has 41 timesteps; this"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error_that_says_why(engine, values, lengths, message):
    with pytest.raises(SequenceError) as caught:
        engine.embed(values, lengths)
    assert message in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found(engine, value):
    batch = random_batch([3, 4], 5)
    batch.values[5, 2] = value
    with pytest.raises(SequenceError, match="sequence 1, timestep 2, feature 2 is") as caught:
        engine.embed(batch.values, batch.lengths)
    assert (caught.value.row, caught.value.timestep) == (1, 2)


@pytest.mark.parametrize("value", [3e38, -3e38, 1e20, 1e14])
def test_values_too_large_to_compute_with_are_an_error_not_a_silent_zero(engine, value):
    batch = random_batch([3, 4], 5)
    batch.values[4, 3] = value
    with pytest.raises(SequenceError, match=r"timestep 1, feature 3 is .* deviations"):
        engine.embed(batch.values, batch.lengths)


def test_a_difference_too_large_to_compute_with_is_an_error(tmp_path):
    engine = Engine(random_packed(tmp_path / "m", differences=2)[1])
    batch = random_batch([3, 4], 5)
    batch.values[4:6, 3] = 3e38, -3e38
    with pytest.raises(SequenceError, match=r"timestep 1, feature 3 is .* deviations"):
        engine.embed(batch.values, batch.lengths)
    batch.values[4:6, 3] = 1e10, -1e10
    expected = Reference(engine.model).embed(batch.values, batch.lengths)
    assert cosines(engine.embed(batch.values, batch.lengths), expected).min() > 0.999


@pytest.mark.parametrize("order", [1, 2])
def test_a_difference_is_checked_where_the_values_themselves_are_small_enough(tmp_path, order):
    model = random_bitnet(differences=2)
    model.standardize.mean.zero_()
    model.standardize.std.fill_(1)
    engine = Engine(export(model, tmp_path / "m", name="x", training={}))
    batch = random_batch([4, 4], 5)
    # Of 7e11 and -7e11 the first difference is over 1e12, of 3e11, -3e11, 3e11 only the second.
    batch.values[4:7, 3] = np.array([1, -1, 1]) * (7e11 if order == 1 else 3e11)
    with pytest.raises(SequenceError, match=r"sequence 1, timestep [12], feature 3 is .* over 1e"):
        engine.embed(batch.values, batch.lengths)
    batch.values[4:7, 3] *= 0.3
    assert np.isfinite(engine.embed(batch.values, batch.lengths)).all()


def test_a_stride_averages_what_belongs_together():
    values = np.array([[1], [3], [8], [2], [7], [20], [30], [40]], dtype=np.float32)
    shorter, lengths = shorten(values, np.array([3, 1, 4]), 2)
    assert shorter.ravel().tolist() == [2, 8, 2, 13.5, 35]
    assert lengths.tolist() == [2, 1, 2]
    alone, _ = shorten(values[:3], np.array([3]), 2)
    assert alone.tobytes() == shorter[:2].tobytes()


@pytest.mark.parametrize("stride", [3, 9])
def test_a_model_with_a_stride_computes_what_torch_computes(stride, tmp_path):
    model, packed = random_packed(tmp_path / "m", stride=stride, differences=2, window_size=600)
    engine = Engine(packed)
    batch = random_batch([7, 1, 9, 600], 5)
    got = engine.embed(batch.values, batch.lengths)
    assert cosines(got, torch_embed(model, batch)).min() > 0.999
    assert cosines(got, Reference(packed).embed(batch.values, batch.lengths)).min() > 0.9999
    alone = engine.embed(batch.values[8:17], np.array([9]))
    assert alone.tobytes() == got[2:3].tobytes()
    # Averaging first, as training does, is the same to the last bit.
    golden = packed.tensors["golden.values"]
    shorter, _ = shorten(golden, np.array([len(golden)]), stride)
    plain = replace(
        packed,
        config=packed.config.model_copy(update={"stride": 1}),
        tensors=packed.tensors | {"golden.values": shorter},
    )
    averaged = Engine(plain).embed(*shorten(batch.values, batch.lengths, stride))
    assert averaged.tobytes() == got.tobytes()
    batch.values[16, 4] = 1e30
    with pytest.raises(SequenceError, match=r"sequence 2, timestep [0-8], feature 4 is"):
        engine.embed(batch.values, batch.lengths)


def test_differences_start_anew_with_each_sequence():
    values = np.array([[1], [4], [9], [2], [7]], dtype=np.float32)
    got = with_differences(values, np.array([3, 2]), 2)
    assert got.tolist() == [[1, 0, 0], [4, 3, 3], [9, 5, 2], [2, 0, 0], [7, 5, 5]]


def test_large_values_are_computed(engine):
    batch = random_batch([3, 4], 5)
    batch.values[4, 3] = 1e10
    with np.errstate(all="raise"):
        expected = Reference(engine.model).embed(batch.values, batch.lengths)
    assert cosines(engine.embed(batch.values, batch.lengths), expected).min() > 0.999


def test_sequences_join_and_split():
    parts = [np.full((n, 2), n, dtype=np.float32) for n in (2, 1, 3)]
    batch = Sequences.from_list(parts)
    assert batch.lengths.tolist() == [2, 1, 3]
    assert batch.offsets.tolist() == [0, 2, 3, 6]
    for got, want in zip(batch.split(), parts, strict=True):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(SequenceError, match="sequence 1 has 3 features per timestep, sequence 0"):
        Sequences.from_list([np.zeros((1, 2)), np.zeros((1, 3))])
    with pytest.raises(SequenceError, match="at least one"):
        Sequences.from_list([])
    with pytest.raises(SequenceError, match="sequence 0 has shape"):
        Sequences.from_list([np.zeros((0, 2))])


def test_a_float_twin_cannot_be_packed(tmp_path):
    with pytest.raises(ExportError, match="no ternary or binary weights"):
        random_packed(tmp_path / "m", quantize="none")
    assert not (tmp_path / "m").exists()


def test_arrays_in_another_order_are_the_same_model(tmp_path):
    _, packed = random_packed(tmp_path / "m")
    batch = random_batch([3, 9], packed.config.embed_dim)
    expected = Engine(packed).embed(batch.values, batch.lengths)
    tensors = {name: np.asfortranarray(tensor) for name, tensor in packed.tensors.items()}
    assert any(not tensor.flags.c_contiguous for tensor in tensors.values())
    got = Engine(replace(packed, tensors=tensors)).embed(batch.values, batch.lengths)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_model_of_any_unit_refuses_what_is_not_finite(tmp_path, value):
    model = random_bitnet(0)
    model.standardize.std.fill_(1e36)
    engine = Engine(export(model, tmp_path / "m", name="x", training={}))
    values = np.full((3, model.config.embed_dim), 1e30, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.embed(values, np.array([3]))
        values[1, 0] = value
        with pytest.raises(SequenceError, match="timestep 1, feature 0"):
            engine.embed(values, np.array([3]))


def test_lengths_that_rise_give_what_they_give_at_once(tmp_path):
    _, packed = random_packed(tmp_path / "m", positions="rope", window_size=300)
    engine = Engine(packed)
    for length in (1, 2, 3, 7, 100, 101, 299, 300):
        batch = random_batch([length], packed.config.embed_dim)
        got = engine.embed(batch.values, batch.lengths)
        np.testing.assert_array_equal(got, Engine(packed).embed(batch.values, batch.lengths))
