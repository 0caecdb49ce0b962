"""What augmentation does to sequences."""

import numpy as np
import pytest

from tests.builders import random_batch
from tritserve.model.sequences import Sequences
from tritserve.model.training.augment import augment
from tritserve.model.training.recipe import Augmentation


def test_augmentation_changes_sequences_within_bounds():
    batch = random_batch([10, 20, 1, 30], 3)
    mean, std = np.zeros(3, dtype=np.float32), np.ones(3, dtype=np.float32)
    rng = np.random.default_rng(0)
    assert augment(batch, Augmentation(), mean, std, 30, rng) is batch

    noisy = augment(batch, Augmentation(jitter=0.1), mean, std, 30, rng)
    assert noisy.lengths.tolist() == batch.lengths.tolist()
    assert 0.08 < np.std(noisy.values - batch.values) < 0.12

    warped = augment(batch, Augmentation(warp=0.5), mean, std, 30, rng)
    assert (warped.lengths <= 30).all()
    assert (warped.lengths >= batch.lengths * 0.4).all()
    assert warped.lengths.tolist() != batch.lengths.tolist()
    for before, after in zip(batch.split(), warped.split(), strict=True):
        np.testing.assert_allclose(after[0], before[0], atol=1e-6)
        if len(after) > 1:
            np.testing.assert_allclose(after[-1], before[-1], atol=1e-5)


def test_a_crop_is_a_contiguous_part():
    batch = random_batch([10] * 200, 3)
    cropped = augment(
        batch,
        Augmentation(crop=0.4),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
        99,
        np.random.default_rng(0),
    )
    assert set(cropped.lengths.tolist()) == {6, 7, 8, 9, 10}
    starts = set()
    for whole, part in zip(batch.split(), cropped.split(), strict=True):
        start = int(np.flatnonzero((whole == part[0]).all(1))[0])
        starts.add(start)
        np.testing.assert_array_equal(part, whole[start : start + len(part)])
    assert starts == {0, 1, 2, 3, 4}


def test_a_mix_is_a_linear_map_around_the_mean_in_units_of_deviation():
    rng = np.random.default_rng(0)
    mean = np.array([5, -3, 100, 7], np.float32)
    std = np.array([1, 10, 0.1, 0], np.float32)
    batch = Sequences.from_list(
        [mean + std * rng.standard_normal((20, 4)).astype(np.float32) for _ in range(300)]
    )
    mixed = augment(batch, Augmentation(mix=0.3), mean, std, 99, rng)
    assert mixed.lengths.tolist() == batch.lengths.tolist()
    scale = np.where(std, std, 1)
    changes = []
    for before, after in zip(batch.split(), mixed.split(), strict=True):
        x, y = (before - mean) / scale, (after - mean) / scale
        turn, *_ = np.linalg.lstsq(x[:, :3], y[:, :3], rcond=None)
        np.testing.assert_allclose(x[:, :3] @ turn, y[:, :3], atol=1e-4)
        changes.append(turn - np.eye(3))
    assert np.std(changes) == pytest.approx(0.3 / np.sqrt(4), rel=0.1)
    assert abs(np.mean(changes)) < 0.02
    np.testing.assert_array_equal(mixed.values[:, 3], np.float32(7))


def drawn(mean, std, count=300):
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((count, 20, len(mean)))
    return Sequences.from_list([(mean + std * one).astype(np.float32) for one in noise])


def test_a_scale_is_a_gain_for_each_feature_of_a_sequence():
    mean, std = np.array([0, 3], np.float32), np.array([1, 2], np.float32)
    batch = drawn(mean, std)
    scaled = augment(batch, Augmentation(scale=0.1), mean, std, 99, np.random.default_rng(0))
    gains = []
    for before, after in zip(batch.split(), scaled.split(), strict=True):
        gain = (after / before).mean(0)
        np.testing.assert_allclose(after, before * gain, rtol=1e-4)
        gains.append(np.log(gain))
    assert np.std(gains, axis=0) == pytest.approx([0.1, 0.1], rel=0.15)


def test_a_scale_moves_no_feature_far_however_far_its_zero_is():
    mean, std = np.array([300, -101_325, 7], np.float32), np.array([1, 2, 0], np.float32)
    batch = drawn(mean, std)
    scaled = augment(batch, Augmentation(scale=0.1), mean, std, 99, np.random.default_rng(0))
    moved = (scaled.values - batch.values).std(0)
    assert moved[:2] / std[:2] == pytest.approx([0.4, 0.4], rel=0.15)
    assert moved[2] == 0


def test_a_constant_is_mixed_into_nothing_however_it_is_rounded():
    mean, std = np.array([0, 1.7e12], np.float32), np.array([1, 0], np.float32)
    batch = drawn(mean, np.array([1, 1e5]))
    mixed = augment(batch, Augmentation(mix=0.3), mean, std, 99, np.random.default_rng(0))
    assert mixed.values[:, 0].std() < 1.5
    assert mixed.values[:, 1].tobytes() == batch.values[:, 1].tobytes()


def test_a_missing_value_stays_missing_and_mixes_into_nothing():
    batch = random_batch([10], 3)
    batch.values[4, 1] = np.nan
    mixed = augment(
        batch,
        Augmentation(mix=0.4),
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
        10,
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(np.isnan(mixed.values), np.isnan(batch.values))
