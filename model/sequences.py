"""Ragged batches of numeric sequences: flat values and lengths, no padding anywhere."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.errors import UserError

FloatArray = npt.NDArray[np.float32]
LengthArray = npt.NDArray[np.int64]


class SequenceError(UserError):
    """A batch of sequences that the model cannot take.

    Attributes:
        row: the offending sequence, where there is one.
        timestep: the offending timestep within it, where there is one.
    """

    def __init__(self, message: str, row: int | None = None, timestep: int | None = None) -> None:
        super().__init__(message)
        self.row = row
        self.timestep = timestep


@dataclass(frozen=True, eq=False)
class Sequences:
    """A ragged batch.

    Attributes:
        values: `[timesteps, embed_dim]` float32, all sequences one after the other, C-contiguous.
        lengths: `[batch]` int64, each 1 or more, their sum is `timesteps`.
    """

    values: FloatArray
    lengths: LengthArray

    @classmethod
    def from_list(cls, sequences: Iterable[npt.ArrayLike]) -> "Sequences":
        """Joins arrays `[seq_len, embed_dim]` into one ragged batch.

        Integers and booleans are taken as numbers; what float32 cannot hold becomes infinite.

        Raises:
            SequenceError: there is none, one is not two-dimensional, is empty, is masked in
                places, holds something else than real numbers or integers that float32 would
                round, or widths differ.
        """
        arrays = [_read(sequence, row) for row, sequence in enumerate(sequences)]
        if not arrays:
            raise SequenceError("a batch needs at least one sequence")
        for row, array in enumerate(arrays):
            if array.ndim != 2 or not array.size:
                raise SequenceError(
                    f"sequence {row} has shape {list(array.shape)}; "
                    "it must be [seq_len, embed_dim], not empty",
                    row,
                )
            if array.shape[1] != arrays[0].shape[1]:
                raise SequenceError(
                    f"sequence {row} has {array.shape[1]} features per timestep, "
                    f"sequence 0 has {arrays[0].shape[1]}",
                    row,
                )
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        return cls(np.concatenate(arrays), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> LengthArray:
        """`[batch + 1]` int64: sequence i is `values[offsets[i]:offsets[i + 1]]`."""
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        self.lengths.cumsum(out=offsets[1:])
        return offsets

    def split(self) -> list[FloatArray]:
        """The sequences one by one, each `[seq_len, embed_dim]`, as views."""
        return np.split(self.values, self.offsets[1:-1])

    def select(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> "Sequences":
        """The batch of the given sequences, in the given order."""
        offsets = self.offsets
        return Sequences.from_list([self.values[offsets[i] : offsets[i + 1]] for i in rows])


def _read(sequence: npt.ArrayLike, row: int) -> FloatArray:
    parts = sequence if isinstance(sequence, list | tuple) else [sequence]
    if any(np.ma.is_masked(part) for part in parts):
        raise SequenceError(f"sequence {row} has masked values; fill them, or leave them out", row)
    try:
        array = np.asarray(sequence)
    except (ValueError, TypeError) as error:
        raise SequenceError(f"sequence {row} is no array: {error}", row) from error
    if array.dtype.kind not in "fiub":
        raise SequenceError(f"sequence {row} holds {array.dtype}; it must hold real numbers", row)
    numbers = to_float32(array)
    if array.dtype.kind in "iu":
        rounded = numbers.astype(np.longdouble) != array.astype(np.longdouble)
        if rounded.any():
            first = array[rounded][0]
            raise SequenceError(
                f"sequence {row} holds {first}, which float32 rounds to {np.float32(first):.0f}; "
                "subtract an offset, or pass floats to have it rounded",
                row,
            )
    return numbers


def to_float32(numbers: npt.NDArray[Any]) -> FloatArray:
    """As float32, C-contiguous, uncopied if it is; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(numbers, np.float32, order="C")


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


def check_lengths(lengths: npt.NDArray[Any], timesteps: int) -> LengthArray:
    """Returns `lengths` as int64 once they are known to divide `timesteps` rows.

    Raises:
        SequenceError: they are not a non-empty `[batch]` of integers of 1 or more, or their
            sum is not `timesteps`.
    """
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise SequenceError(
            f"lengths are {lengths.dtype} of shape {list(lengths.shape)}; "
            "they must be integers of shape [batch]"
        )
    if not len(lengths):
        raise SequenceError("a batch needs at least one sequence")
    shortest = int(lengths.argmin())
    if lengths[shortest] < 1:
        raise SequenceError(
            f"sequence {shortest} has length {lengths[shortest]}; a sequence has 1 timestep or "
            "more",
            shortest,
        )
    # No sum overflows of what is not refused here.
    if len(lengths) > timesteps:
        raise SequenceError(
            f"values hold {timesteps} timesteps, fewer than the {len(lengths)} sequences; "
            "each has 1 or more"
        )
    longest = int(lengths.argmax())
    if lengths[longest] > timesteps:
        raise SequenceError(
            f"sequence {longest} has length {lengths[longest]}, values hold {timesteps} timesteps",
            longest,
        )
    total = int(lengths.sum(dtype=np.int64))
    if total != timesteps:
        raise SequenceError(f"lengths add up to {total} timesteps, values hold {timesteps}")
    return lengths.astype(np.int64)


def check_width(values: FloatArray, embed_dim: int) -> None:
    """Raises SequenceError unless `values` are `[timesteps, embed_dim]`."""
    if values.ndim != 2 or values.shape[1] != embed_dim:
        raise SequenceError(
            f"values have shape {list(values.shape)}; this model takes [timesteps, {embed_dim}]"
        )


def check_longest(lengths: LengthArray, max_timesteps: int) -> None:
    """Raises SequenceError if a sequence is longer than `max_timesteps`."""
    too_long = np.flatnonzero(lengths > max_timesteps)
    if len(too_long):
        row = int(too_long[0])
        raise SequenceError(
            f"sequence {row} has {lengths[row]} timesteps; this model takes at most "
            f"{max_timesteps}",
            row,
        )


def check_finite(values: FloatArray, lengths: LengthArray) -> None:
    """Raises SequenceError if a value is NaN or infinite."""
    finite = np.isfinite(values)
    if not finite.all():
        refuse_values(~finite, values, lengths, "values must be finite float32 numbers")


def check_no_infinity(values: FloatArray, lengths: LengthArray) -> None:
    """Raises SequenceError if a value is infinite; NaN is one that is missing."""
    infinite = np.isinf(values)
    refuse_values(infinite, values, lengths, "values must be finite, or NaN where one is missing")


def refuse_values(
    wrong: npt.NDArray[np.bool_], values: FloatArray, lengths: LengthArray, reason: str
) -> None:
    """Raises SequenceError about the first of `values` where `wrong` is true, if there is one."""
    if not wrong.any():
        return
    flat, feature = np.argwhere(wrong)[0]
    ends = np.cumsum(lengths)
    row = int(np.searchsorted(ends, flat, side="right"))
    timestep = int(flat - (ends[row] - lengths[row]))
    place = f"sequence {row}, timestep {timestep}, feature {feature}"
    raise SequenceError(f"{place} is {values[flat, feature]}; {reason}", row, timestep)
