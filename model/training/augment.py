"""Random changes to training sequences, in numpy, one batch at a time."""

import numpy as np

from tritserve.model.sequences import FloatArray, Sequences
from tritserve.model.training.recipe import Augmentation

# Deviations between a feature's mean and the zero that it is scaled about, at most.
MAX_FROM_ZERO = 4.0


def augment(
    batch: Sequences,
    how: Augmentation,
    mean: FloatArray,
    std: FloatArray,
    max_timesteps: int,
    rng: np.random.Generator,
) -> Sequences:
    """A changed copy of a batch.

    Args:
        batch: the sequences.
        how: strength of each change; with all of them 0 the batch comes back as it is.
        mean: `[embed_dim]` float32, mean of each feature over the training set.
        std: `[embed_dim]` float32, its deviation; 0 where it is constant.
        max_timesteps: warped sequences are not made longer than this.
        rng: the only source of chance.
    """
    if not any(how.model_dump().values()):
        return batch
    # A gain acts about zero; where zero is far from all that was measured, as Kelvin's is, it would
    # move a sequence much further than it scales it.
    centre = mean - np.clip(mean, -MAX_FROM_ZERO * std, MAX_FROM_ZERO * std)
    return Sequences.from_list(
        [
            _augment(sequence, how, mean, std, centre, max_timesteps, rng)
            for sequence in batch.split()
        ]
    )


def _augment(
    x: FloatArray,
    how: Augmentation,
    mean: FloatArray,
    std: FloatArray,
    centre: FloatArray,
    max_timesteps: int,
    rng: np.random.Generator,
) -> FloatArray:
    features = x.shape[1]
    if how.mix:
        # Each feature gains about `mix` of its own deviation, however many there are.
        turn = how.mix / np.sqrt(features) * rng.standard_normal((features, features))
        standard = np.where(std, (x - mean) / np.where(std, std, 1), 0)
        # A missing value mixes as its mean, and stays missing.
        standard = np.nan_to_num(standard, copy=False)
        x = x + standard @ turn.astype(np.float32) * std
    if how.crop:
        length = max(1, round(len(x) * rng.uniform(1 - how.crop, 1)))
        start = rng.integers(len(x) - length + 1)
        x = x[start : start + length]
    if how.warp:
        x = _warp(x, how.warp, max_timesteps, rng)
    scale = np.exp(how.scale * rng.standard_normal(features))
    offset = how.offset * rng.standard_normal(features) * std
    noise = how.jitter * rng.standard_normal(x.shape) * std
    changed: FloatArray = (centre + (x - centre) * scale + offset + noise).astype(np.float32)
    return changed


def _warp(
    x: FloatArray, strength: float, max_timesteps: int, rng: np.random.Generator
) -> FloatArray:
    length = round(len(x) * rng.uniform(1 - strength, 1 + strength))
    length = min(max(length, 1), max_timesteps)
    # Positive increments of uneven speed, so that time never runs backwards.
    speed = np.exp(strength * rng.standard_normal(4))
    knots = np.linspace(0, 1, len(speed))
    steps = np.interp(np.linspace(0, 1, length), knots, speed)
    at = np.cumsum(steps) - steps[0]
    at *= (len(x) - 1) / max(at[-1], 1e-9)
    low = np.minimum(at.astype(np.int64), len(x) - 1)
    high = np.minimum(low + 1, len(x) - 1)
    share = (at - low)[:, None].astype(np.float32)
    warped: FloatArray = x[low] * (1 - share) + x[high] * share
    return warped
