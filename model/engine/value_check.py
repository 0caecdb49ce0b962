"""Which values a model takes: none so far from what it was trained on that float32 would overflow.

Sums of squares must stay far below the largest float32: beyond it they would become infinite, and
norms would silently turn every feature into zero.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.inputs import model_inputs
from tritserve.model.sequences import (
    FloatArray,
    LengthArray,
    SequenceError,
    check_finite,
    check_lengths,
    check_width,
    refuse_values,
)

LARGEST_DEVIATION = 1e12


class ValueCheck:
    """Refuses values whose inputs to a model are over 1e12 deviations from the mean.

    Args:
        mean: `[input_size]` float32, of the model's inputs in training: the features, then their
            differences over time.
        std: `[input_size]` float32, what the model divides by.
        stride: timesteps that are averaged into one.
        differences: how many orders of differences over time there are.
    """

    def __init__(self, mean: FloatArray, std: FloatArray, *, stride: int, differences: int) -> None:
        self._mean, self._stride, self._differences = mean, stride, differences
        self._limit = LARGEST_DEVIATION * std.astype(np.float64)
        # A difference is at most twice, and one of the second order four times the largest value.
        orders = np.repeat(np.arange(1 + differences), len(mean) // (1 + differences))
        small = ((self._limit - np.abs(mean)) / 2.0**orders).min()
        # Of a width that no float32 has, infinity would be within.
        self._surely_small = float(min(small, np.finfo(np.float32).max))

    def __call__(self, values: FloatArray, lengths: LengthArray) -> None:
        """Checks a batch.

        Args:
            values: `[timesteps, embed_dim]` float32, raw.
            lengths: `[batch]` int64; their sum is `timesteps`.

        Raises:
            SequenceError: a value is not finite, or too far from the mean.
        """
        if np.maximum(values.max(), -values.min()) <= self._surely_small:
            return
        check_finite(values, lengths)
        inputs, short = model_inputs(values, lengths, self._stride, self._differences)
        within = np.abs(inputs.astype(np.float64) - self._mean) <= self._limit
        # Back to the raw features and timesteps that the inputs are made of.
        fine = np.all(within.reshape(len(within), -1, values.shape[1]), axis=1)
        if self._stride > 1:
            ends = np.cumsum(short)
            position = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            fine = fine[np.repeat(ends - short, lengths) + position // self._stride]
        reason = f"over {LARGEST_DEVIATION:.0e} deviations from the mean of the training data"
        refuse_values(~fine, values, lengths, reason)


def check_batch(
    values: npt.NDArray[Any], lengths: npt.NDArray[Any], embed_dim: int | None
) -> LengthArray:
    """Returns `lengths` as int64 once they and the form of `values` are known to be a batch's.

    Raises:
        SequenceError: they are no arrays or masked in places, values are not `[timesteps,
            embed_dim]` float32, or lengths do not divide them.
    """
    for name, given in (("values", values), ("lengths", lengths)):
        if not isinstance(given, np.ndarray):
            raise SequenceError(f"{name} are a {type(given).__name__}; they must be a numpy array")
        if np.ma.is_masked(given):
            raise SequenceError(f"{name} are masked in places; fill them, or leave them out")
    if values.dtype != np.float32:
        raise SequenceError(f"values are {values.dtype}; they must be float32")
    checked = check_lengths(lengths, len(values) if values.ndim else 0)
    check_width(values, embed_dim, checked)
    return checked


def overflow(row: int) -> SequenceError:
    """What to raise of a sequence whose embedding is not finite."""
    return SequenceError(
        f"sequence {row} holds values so large that float32 overflows inside the model", row
    )
