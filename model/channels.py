"""Channels seen one by one: what a model reads of one channel's series, whatever its length.

A series `v[0..n-1]` of one channel goes through

    1  missing values, NaN, are interpolated between their neighbours; the ends hold the nearest
       known value, and a series without any is zero
    2  calibrated: `(v - center) / spread` of its channel, where a model knows them, else as it is
    3  cut into windows of at most `window` timesteps, as few and as equal as can be
    4  each window drawn at `points` points: between timesteps linearly where it has fewer, as means
       over equal spans of time where it has more
    5  normalised by the window's own mean and deviation, which are not lost: see `levels`; what the
       shape then counts beside other channels', see `activity`
    6  patches of `patch` points, one token each: the points less their mean, the differences
       between neighbours over the window's deviation of them, the patch's mean, and the fourth root
       of its deviation, which tells small ones apart and needs no logarithm

and the tokens of each window are one sequence for the encoder. Of a series that has several windows
the whole, drawn at as many points, is one more.

The native engine computes the same in the order in which this page is written, in double precision
and without a library's functions but for the square root, so that the bytes are one machine's as
another's; numpy's sums run in another order, and agree to rounding.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.config import Channels
from tritserve.model.sequences import FloatArray, LengthArray, Sequences

# Center and spread of each channel, `[channels]` float32.
Calibration = tuple[FloatArray, FloatArray]
Series = npt.NDArray[np.float64]

# A normalised point is no further from the mean, in deviations.
MOST_DEVIATIONS = 8.0
# Of the spread of a channel that is calibrated, or of the largest magnitude of one that is not:
# what varies by less is rather constant than worth to be made as large as a signal.
FLOOR = 0.05
UNCALIBRATED_FLOOR = 1e-6
# They bring what is told of calibrated channels to about one deviation, the segments to less, for
# they are many; chosen by the nearest neighbour on training splits, where they count much.
LEVEL_WEIGHTS = (2.4, 3.4, 1.8, 1.8, 3.8, 8.0, 4.0)
SEGMENT_WEIGHT = 0.8
# Odd, and not near a simple share of the usual widths: the next channel's numbers lie elsewhere.
MOVE = 157


def fill(values: npt.NDArray[Any]) -> tuple[Series, npt.NDArray[np.float64]]:
    """Replaces missing values.

    Args:
        values: `[timesteps, channels]` real, NaN where one is missing.

    Returns:
        `[timesteps, channels]` float64 without NaN, and the share that was missing `[channels]`.
    """
    filled = values.astype(np.float64)
    missing = np.isnan(filled)
    time = np.arange(len(filled))
    for channel in np.flatnonzero(missing.any(axis=0)):
        known = ~missing[:, channel]
        filled[:, channel] = (
            np.interp(time, time[known], filled[known, channel]) if known.any() else 0.0
        )
    return filled, missing.mean(axis=0)


def windows(timesteps: int, window: int) -> list[slice]:
    """Where a series is cut, and the whole of it last, where that is not one window itself."""
    count = -(-timesteps // window)
    ends = [timesteps * i // count for i in range(count + 1)]
    parts = [slice(begin, end) for begin, end in pairwise(ends)]
    return parts if count == 1 else [*parts, slice(0, timesteps)]


def windows_each(sequences: Sequences, config: Channels) -> float:
    """Mean number of windows that a sequence is seen in, those of all its channels."""
    cuts = [len(windows(length, config.window)) for length in sequences.lengths.tolist()]
    width: int = sequences.values.shape[1]
    return width * float(np.mean(cuts))


def draw(series: Series, points: int) -> Series:
    """Draws `[timesteps, channels]` at `points` points in time, float64 `[points, channels]`."""
    timesteps = len(series)
    if timesteps <= points:
        at = np.arange(points) * ((timesteps - 1) / max(points - 1, 1))
        before = np.minimum(at.astype(np.int64), max(timesteps - 2, 0))
        share = (at - before)[:, None]
        after = np.minimum(before + 1, timesteps - 1)
        drawn: Series = series[before] * (1.0 - share) + series[after] * share
        return drawn
    # The integral over time at the ends of equal spans, whose differences are the spans' means.
    total = np.concatenate([np.zeros((1, series.shape[1])), np.cumsum(series, axis=0)])
    at = np.arange(points + 1) * (timesteps / points)
    before = np.minimum(at.astype(np.int64), timesteps - 1)
    integral = total[before] + (at - before)[:, None] * series[before]
    means: Series = np.diff(integral, axis=0) / (timesteps / points)
    return means


def normalize(drawn: Series, floor: npt.NDArray[np.float64]) -> FloatArray:
    """Normalises each channel of `[points, channels]`; `floor [channels]` joins its deviation."""
    centered = drawn - drawn.mean(axis=0)
    scale = np.sqrt(np.square(centered).mean(axis=0)) + floor
    # A constant of zero has neither deviation nor floor.
    scaled = np.divide(centered, scale, out=np.zeros_like(centered), where=scale > 0)
    normalized: FloatArray = np.clip(scaled, -MOST_DEVIATIONS, MOST_DEVIATIONS).astype(np.float32)
    return normalized


def tokens(points: FloatArray, patch: int) -> FloatArray:
    """Tokens of normalised windows.

    Args:
        points: `[windows, points]` float32; `points` is a multiple of `patch`.
        patch: points to a token.

    Returns:
        `[windows, points / patch, 2 * patch + 2]` float32.
    """
    steps = np.diff(points, axis=1, append=points[:, -1:])
    steps = steps / (steps.std(axis=1, keepdims=True) + np.float32(1e-3))
    shape = (len(points), -1, patch)
    patches, changes = points.reshape(shape), steps.reshape(shape)
    mean = patches.mean(axis=2, keepdims=True)
    centered = patches - mean
    deviation = np.sqrt(np.square(centered).mean(axis=2, keepdims=True))
    parts = [centered, changes, mean, np.sqrt(np.sqrt(deviation))]
    joined: FloatArray = np.concatenate(parts, axis=2).astype(np.float32)
    return joined


def levels(series: Series, missing: npt.NDArray[np.float64], segments: int) -> FloatArray:
    """What normalisation takes from a series, squashed by the inverse hyperbolic sine, weighted.

    Args:
        series: `[timesteps, channels]`, calibrated.
        missing: `[channels]`, the share that was missing.
        segments: equal spans of time whose means stand at the end.

    Returns:
        `[channels, 7 + segments]` float32: mean, deviation, lowest, highest, mean magnitude of
        change, fourth root of the deviation, share missing, means of the segments.
    """
    change = np.abs(np.diff(series, axis=0)).mean(axis=0) if len(series) > 1 else 0.0 * series[0]
    deviation = series.std(axis=0)
    rows = np.stack(
        [
            series.mean(axis=0),
            deviation,
            series.min(axis=0),
            series.max(axis=0),
            change,
            np.sqrt(np.sqrt(deviation)),
            missing,
        ]
    )
    both = np.concatenate([rows, draw(series, segments)])
    weights = np.append(LEVEL_WEIGHTS, np.full(segments, SEGMENT_WEIGHT))
    weighted: FloatArray = (np.arcsinh(both).T * weights).astype(np.float32)
    return weighted


def activity(series: Series, calibrated: npt.NDArray[np.bool_]) -> FloatArray:
    """What each channel's shape counts, for what hardly moves is mostly noise once normalised.

    Args:
        series: `[timesteps, channels]`, calibrated.
        calibrated: `[channels]`, of which the deviation is known in general.

    Returns:
        `[channels]` float32: fourth root of the deviation, at most 1; 1 of other channels.
    """
    root = np.sqrt(np.sqrt(series.std(axis=0)))
    counted: FloatArray = np.where(calibrated, np.minimum(1.0, root), 1.0).astype(np.float32)
    return counted


@dataclass(frozen=True, eq=False)
class Read:
    """What the encoder reads of a batch, series by series: each sequence's channels in order.

    Attributes:
        tokens: `[windows, tokens, token_size]` float32.
        windows: `[series]` int64, how many of them belong to each series.
        activity: `[series]` float32.
        levels: `[series, levels]` float32.
    """

    tokens: FloatArray
    windows: LengthArray
    activity: FloatArray
    levels: FloatArray


def read(
    values: FloatArray,
    lengths: LengthArray,
    config: Channels,
    calibration: Calibration | None = None,
) -> Read:
    """Steps 1 to 6 for a batch.

    Args:
        values: `[timesteps, channels]` float32, NaN where a value is missing.
        lengths: `[batch]` int64; their sum is `timesteps`.
        config: how channels are seen.
        calibration: center and spread of the first channels, float32.
    """
    channels = values.shape[1]
    center, spread = np.zeros(channels), np.ones(channels)
    known = 0
    if calibration is not None:
        known = min(channels, len(calibration[0]))
        center[:known], spread[:known] = calibration[0][:known], calibration[1][:known]
    calibrated = np.arange(channels) < known
    all_tokens, counts, all_activity, all_levels = [], [], [], []
    for part in Sequences(values, lengths).split():
        filled, missing = fill(part)
        series = (filled - center) / spread
        floor = np.where(calibrated, FLOOR, UNCALIBRATED_FLOOR * np.abs(series).max(axis=0))
        cuts = windows(len(series), config.window)
        # [windows, channels, tokens, token_size], then channel by channel
        made = [
            tokens(normalize(draw(series[cut], config.points), floor).T, config.patch)
            for cut in cuts
        ]
        all_tokens.append(np.stack(made).swapaxes(0, 1).reshape(-1, *made[0].shape[1:]))
        counts += [len(cuts)] * channels
        all_activity.append(activity(series, calibrated))
        all_levels.append(levels(series, missing, config.segments))
    return Read(
        np.concatenate(all_tokens),
        np.array(counts, np.int64),
        np.concatenate(all_activity),
        np.concatenate(all_levels),
    )


def weights(windows: LengthArray) -> FloatArray:
    """What each window counts in its series' row: `[windows]` float32.

    One alone counts all; of several, the whole counts half and the others share the rest.
    """
    parts = [
        np.append(np.full(n - 1, 0.5 / (n - 1)), 0.5) if n > 1 else np.ones(1) for n in windows
    ]
    return np.concatenate(parts).astype(np.float32)


def signs(count: int, width: int) -> FloatArray:
    """`[count, width]` of -1 and 1: how each channel's numbers change sign before they are joined.

    The bits of SplitMix64 (Steele, Lea and Flood 2014), one set where the sign changes.
    """
    x = (np.arange(count)[:, None] * 2**32 + np.arange(-(-width // 64))).astype(np.uint64)
    with np.errstate(over="ignore"):
        x += np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    bits = np.unpackbits(x.astype("<u8").view(np.uint8), axis=1, bitorder="little")[:, :width]
    return np.where(bits, np.float32(-1), np.float32(1))


def moved(channel: int, width: int) -> int:
    """By how many places a channel's numbers move on round the embedding."""
    return channel * MOVE % width
