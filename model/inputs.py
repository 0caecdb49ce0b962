"""What a model reads of raw values: averages over time, and their differences."""

import numpy as np

from tritserve.model.sequences import FloatArray, LengthArray


def shorten(
    values: FloatArray, lengths: LengthArray, stride: int
) -> tuple[FloatArray, LengthArray]:
    """Averages each `stride` timesteps of a sequence into one; the last may be of fewer.

    Sums are taken in the order of time, so that a sequence gives the same bytes in any batch.

    Args:
        values: `[timesteps, embed_dim]` float32.
        lengths: `[batch]` int64; their sum is `timesteps`.
        stride: 1 or more.

    Returns:
        `[shorter, embed_dim]` float32, and `[batch]` int64 whose sum is `shorter`.
    """
    if stride == 1:
        return values, lengths
    short = -(-lengths // stride)
    row = np.repeat(np.arange(len(lengths)), short)
    done = (np.arange(len(row)) - (np.cumsum(short) - short)[row]) * stride
    starts = (np.cumsum(lengths) - lengths)[row] + done
    counts = np.minimum(stride, lengths[row] - done)
    sums = values[starts]
    for i in range(1, stride):
        more = counts > i
        sums[more] += values[starts[more] + i]
    means: FloatArray = sums / counts[:, None].astype(np.float32)
    return means, short


def with_differences(values: FloatArray, lengths: LengthArray, order: int) -> FloatArray:
    """Each timestep's features followed by their differences over time.

    The n-th difference is `d[t] = e[t] - e[t - 1]` of the one before it, 0 at a sequence's start.

    Args:
        values: `[timesteps, embed_dim]` float32.
        lengths: `[batch]` int64; their sum is `timesteps`.
        order: how many differences, 0 or more.

    Returns:
        `[timesteps, (1 + order) * embed_dim]` float32.
    """
    if order == 0:
        return values
    starts = np.cumsum(lengths) - lengths
    parts = [values]
    for _ in range(order):
        difference = np.diff(parts[-1], axis=0, prepend=parts[-1][:1])
        difference[starts] = 0.0
        parts.append(difference)
    return np.concatenate(parts, axis=1)


def model_inputs(
    values: FloatArray, lengths: LengthArray, stride: int, differences: int
) -> tuple[FloatArray, LengthArray]:
    """What a model reads of raw values, before it standardises them.

    Args:
        values: `[timesteps, embed_dim]` float32.
        lengths: `[batch]` int64; their sum is `timesteps`.
        stride: timesteps that are averaged into one.
        differences: how many orders of differences over time there are.

    Returns:
        `[shorter, (1 + differences) * embed_dim]` float32, and `[batch]` int64 whose sum is
        `shorter`. What overflows float32 becomes infinite, or NaN.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        shorter, short = shorten(values, lengths, stride)
        return with_differences(shorter, short, differences), short
