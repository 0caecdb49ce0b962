"""Channels seen one by one: what is read of a series, and what becomes of many."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import CHANNELS, cosines, random_packed, shared_engine
from tritserve.model import channels
from tritserve.model.config import ModelConfig
from tritserve.model.engine import _native
from tritserve.model.engine.calibration import calibrate
from tritserve.model.engine.engine import Engine
from tritserve.model.engine.reference import Reference
from tritserve.model.packed.file import parse
from tritserve.model.sequences import SequenceError

LENGTHS = np.array([1, 2, 3, 23, 24, 25, 59, 60, 61, 119, 1000])


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return random_packed(tmp_path_factory.mktemp("channels") / "m", **CHANNELS)


def walks(lengths, width, seed=0, missing=0.02):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((int(lengths.sum()), width)).cumsum(axis=0).astype(np.float32)
    values[rng.random(values.shape) < missing] = np.nan
    return values


@pytest.mark.parametrize("width", [1, 2, 7, 40])
def test_engine_reference_and_torch_agree_on_any_length_and_width(packed, width):
    model, file = packed
    values = walks(LENGTHS, width)
    got = Engine(file).embed(values, LENGTHS)
    assert got.shape == (len(LENGTHS), model.config.output_size)
    assert cosines(got, Reference(file).embed(values, LENGTHS)).min() > 0.9999
    with torch.inference_mode():
        trained = model(torch.from_numpy(values), torch.from_numpy(LENGTHS)).numpy()
    assert cosines(got, trained).min() > 0.9999


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    width=st.integers(1, 6),
    apart=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_an_answer_depends_on_nothing_but_its_sequence(packed, lengths, width, apart, seed):
    lengths = np.array(lengths)
    values = walks(lengths, width, seed, missing=0.1)
    one = Engine(packed[1], threads=1, isa="scalar")
    ends = np.cumsum(lengths)
    alone = [
        one.embed(values[end - n : end], np.array([n]), apart=apart)
        for end, n in zip(ends, lengths, strict=True)
    ]
    for isa in _native.supported():
        together = shared_engine(packed[1], threads=2, isa=isa).embed(values, lengths, apart=apart)
        assert together.tobytes() == np.concatenate(alone).tobytes()


def test_channels_kept_apart_stand_in_order_and_know_nothing_of_each_other(packed):
    values, engine = walks(LENGTHS, 3), Engine(packed[1])
    together = engine.embed(values, LENGTHS, apart=True)
    size = packed[0].config.channel_size
    assert together.shape == (len(LENGTHS), 3 * size)
    for channel in range(3):
        alone = engine.embed(values[:, [channel]], LENGTHS, apart=True)
        assert np.array_equal(together[:, channel * size : (channel + 1) * size], alone)


def test_it_matters_which_channel_is_which(packed):
    lengths = np.full(6, 40)
    values, engine = walks(lengths, 3), Engine(packed[1])
    turned = engine.embed(np.ascontiguousarray(values[:, [1, 0, 2]]), lengths)
    assert cosines(engine.embed(values, lengths), turned).max() < 0.95


HARD = {
    "constant": np.full(50, 3.25),
    "zero": np.zeros(50),
    "one timestep": np.array([2.0]),
    "a spike": np.r_[np.zeros(25), 1e9, np.zeros(24)],
    "largest float32": np.r_[np.full(25, 3e38), np.full(25, -3e38)],
    "tiny": np.r_[np.full(25, 1e-44), np.zeros(25)],
    "all missing": np.full(50, np.nan),
    "one known": np.r_[np.full(20, np.nan), 7.0, np.full(29, np.nan)],
    "far from zero": 1e6 + np.sin(np.arange(50) / 5),
}


@pytest.mark.parametrize("series", HARD.values(), ids=HARD)
def test_any_series_has_an_embedding(packed, series):
    values, lengths = series.astype(np.float32)[:, None], np.array([len(series)])
    got = Engine(packed[1]).embed(values, lengths)
    assert np.isfinite(got).all()
    assert cosines(got, Reference(packed[1]).embed(values, lengths)).min() > 0.999


def test_what_is_missing_is_drawn_between_its_neighbours_and_told():
    series = np.array([[np.nan], [1.0], [np.nan], [np.nan], [4.0], [np.nan]])
    filled, missing = channels.fill(series)
    assert filled[:, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert missing.tolist() == [4 / 6]


def test_infinity_is_not_missing(packed):
    with pytest.raises(SequenceError, match="sequence 0, timestep 1, feature 0 is inf"):
        Engine(packed[1]).embed(np.array([[1.0], [np.inf]], np.float32), np.array([2]))


def test_level_and_scale_change_the_levels_alone(packed):
    engine = Engine(packed[1])
    values, lengths = walks(np.array([50]), 1, missing=0.0), np.array([50])
    size = packed[0].config.pooled_size
    before = engine.embed(values, lengths, apart=True)[0]
    after = engine.embed(values * 4 + 1, lengths, apart=True)[0]
    assert np.allclose(before[:size], after[:size], atol=0.1)
    assert not np.allclose(before[size:], after[size:], atol=0.1)


def test_a_calibrated_model_sees_its_channels_in_their_own_units(packed):
    values, lengths = walks(LENGTHS, 2, missing=0.0), LENGTHS
    center, spread = np.array([5, -2], np.float32), np.array([4, 0.5], np.float32)
    calibrated = parse(calibrate(packed[1], center, spread))
    got = Engine(calibrated).embed(values * spread + center, lengths)
    assert (
        cosines(got, Reference(calibrated).embed(values * spread + center, lengths)).min() > 0.999
    )
    same = parse(calibrate(packed[1], np.zeros(2, np.float32), np.ones(2, np.float32)))
    assert cosines(got, Engine(same).embed(values, lengths)).min() > 0.9999


def test_the_shape_of_a_calibrated_channel_counts_by_how_much_it_moves(packed):
    calibrated = parse(calibrate(packed[1], np.zeros(2, np.float32), np.ones(2, np.float32)))
    values, lengths = walks(np.array([200]), 2, missing=0.0), np.array([200])
    values /= values.std(axis=0)
    size, shapes = packed[0].config.pooled_size, []
    for deviation in (1.0, 4.0, 1 / 16):
        moving = values * np.array([1.0, deviation], np.float32)
        got = Engine(calibrated).embed(moving, lengths, apart=True)[0]
        reference = Reference(calibrated).embed(moving, lengths)
        assert cosines(Engine(calibrated).embed(moving, lengths), reference).min() > 0.9999
        shapes.append(np.linalg.norm(np.split(got, 2)[1][:size]))
    usual, much, little = shapes
    assert much == pytest.approx(usual, rel=0.1)
    assert little == pytest.approx(usual / 2, rel=0.1)


@pytest.mark.parametrize("timesteps", [1, 5, 24, 60, 61, 1000, 100_000])
def test_windows_cover_a_series_and_are_none_too_long(timesteps):
    cuts = channels.windows(timesteps, 60)
    if len(cuts) > 1:
        assert cuts.pop() == slice(0, timesteps)
    assert [cut.start for cut in cuts] == [0, *(cut.stop for cut in cuts[:-1])]
    assert cuts[-1].stop == timesteps
    sizes = {cut.stop - cut.start for cut in cuts}
    assert max(sizes) <= 60
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 400), st.integers(1, 40))
def test_drawing_keeps_what_is_constant_and_the_mean_of_what_is_long(timesteps, points):
    assert np.allclose(channels.draw(np.full((timesteps, 1), 2.5), points), 2.5)
    series = np.random.default_rng(timesteps).standard_normal((timesteps, 1))
    if timesteps > points:
        assert np.isclose(channels.draw(series, points).mean(), series.mean())


def test_a_model_has_a_width_or_sees_channels_one_by_one():
    with pytest.raises(ValueError, match="either an embed_dim or channels"):
        ModelConfig()
    with pytest.raises(ValueError, match="either an embed_dim or channels"):
        ModelConfig(**CHANNELS | {"embed_dim": 3})
    with pytest.raises(ValueError, match="stride is 1"):
        ModelConfig(**CHANNELS | {"stride": 2})
