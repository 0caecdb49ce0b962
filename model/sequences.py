"""Ragged batches of numeric sequences: flat values and lengths, no padding anywhere."""

import reprlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tritserve.model.arrays import column_names, read_array
from tritserve.model.errors import DataWarning, UserError

FloatArray = npt.NDArray[np.float32]
LengthArray = npt.NDArray[np.int64]
# Which axis of a sequence comes first: its timesteps, or its features.
Layout = Literal["time_first", "channels_first"]

# So many times wider than long, sequences that are all of one length are doubtful.
_DOUBTFUL_WIDTH = 4
TRANSPOSED = "transposed? A sequence is [seq_len, embed_dim]"


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
    def from_list(
        cls,
        sequences: Iterable[Any],
        layout: Layout = "time_first",
        feature_names: Sequence[str] = (),
    ) -> "Sequences":
        """Joins arrays `[seq_len, embed_dim]` into one ragged batch.

        Integers and booleans are taken as numbers; what float32 cannot hold becomes infinite.
        Tables whose columns are in another order than the features are put into theirs.

        Args:
            sequences: of real numbers, each an array or what numpy makes one of.
            layout: `channels_first` if they are `[embed_dim, seq_len]`; the columns of tables are
                timesteps then, and their names are not looked at.
            feature_names: one a feature. If not given, the columns of the first table name them.

        Raises:
            SequenceError: the layout is unknown, there is no sequence, one is not
                two-dimensional, is empty, is masked in places, holds something else than real
                numbers or integers that float32 would round, two columns of a table have one name,
                or widths or columns differ.
        """
        if layout not in get_args(Layout):
            raise SequenceError(f"layout is {layout!r}; it must be {' or '.join(get_args(Layout))}")
        if column_names(sequences):
            raise SequenceError("a table is one sequence; a batch is a list of them")
        arrays: list[npt.NDArray[Any]] = []
        for row, sequence in enumerate(sequences):
            try:
                array = read_array(sequence)
            except ValueError as error:
                raise SequenceError(f"sequence {row} {error}", row) from error
            if layout == "time_first" and (names := column_names(sequence)):
                feature_names = feature_names or names
                array = array[:, _feature_columns(names, feature_names, row)]
            arrays.append(array if layout == "time_first" else array.T)
        if not arrays:
            raise SequenceError("a batch needs at least one sequence")
        _check_shapes([array.shape for array in arrays])
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        values = [
            exact_float32(array, lengths[row : row + 1], row) for row, array in enumerate(arrays)
        ]
        return cls(np.concatenate(values), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> LengthArray:
        """`[batch + 1]` int64: sequence i is `values[offsets[i]:offsets[i + 1]]`."""
        return running_total(self.lengths)

    def split(self) -> list[FloatArray]:
        """The sequences one by one, each `[seq_len, embed_dim]`, as views."""
        return np.split(self.values, self.offsets[1:-1])

    def select(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> "Sequences":
        """The batch of the given sequences, in the given order."""
        offsets = self.offsets
        return Sequences.from_list([self.values[offsets[i] : offsets[i + 1]] for i in rows])


def _feature_columns(names: list[str], features: Sequence[str], row: int) -> slice | list[int]:
    """Which columns of a table each feature is; all as they are where that is their order."""
    column = {name: at for at, name in enumerate(names)}
    if len(column) < len(names):
        twice = next(name for at, name in enumerate(names) if column[name] != at)
        raise SequenceError(f"sequence {row} has two columns named {reprlib.repr(twice)}", row)
    missing = [name for name in features if name not in column]
    unknown = sorted(column.keys() - set(features))
    if missing or unknown:
        raise SequenceError(
            f"sequence {row} has other columns than the features: "
            f"missing {reprlib.repr(missing)}, unknown {reprlib.repr(unknown)}",
            row,
        )
    return slice(None) if names == list(features) else [column[name] for name in features]


def _check_shapes(shapes: list[tuple[int, ...]]) -> None:
    for row, shape in enumerate(shapes):
        if len(shape) != 2 or not all(shape):
            raise SequenceError(
                f"sequence {row} has shape {list(shape)}; "
                "it must be [seq_len, embed_dim], not empty",
                row,
            )
        if shape[1] != shapes[0][1]:
            alike = len({len(other) and other[0] for other in shapes}) == 1
            hint = f"; all have {shape[0]} timesteps: {TRANSPOSED}" if alike else ""
            raise SequenceError(
                f"sequence {row} has {shape[1]} features per timestep, "
                f"sequence 0 has {shapes[0][1]}{hint}",
                row,
            )


def exact_float32(
    numbers: npt.NDArray[Any], lengths: LengthArray, first_row: int = 0
) -> FloatArray:
    """Real numbers as `to_float32` gives them, known to be what they were if they are integers.

    Args:
        numbers: `[timesteps, embed_dim]`, floats, integers or booleans.
        lengths: `[batch]` int64; their sum is `timesteps`.
        first_row: what the first sequence is called in the error.

    Raises:
        SequenceError: float32 would round an integer.
    """
    taken = to_float32(numbers)
    if numbers.dtype.kind not in "iu" or numbers.dtype.itemsize <= 2:
        return taken
    # What is rounded up to beyond the type cannot be compared in it.
    beyond = np.float32(2.0 ** int(np.iinfo(numbers.dtype).max).bit_length())
    with np.errstate(invalid="ignore"):
        rounded = (taken.astype(numbers.dtype) != numbers) | (taken >= beyond)
    if rounded.any():
        at, feature = np.argwhere(rounded)[0]
        row = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        raise SequenceError(
            f"sequence {first_row + row} holds {numbers[at, feature]}, which float32 rounds to "
            f"{taken[at, feature]:.0f}; subtract an offset, or pass floats to have it rounded",
            first_row + row,
            int(at - (np.cumsum(lengths) - lengths)[row]),
        )
    return taken


def warn_if_transposed(sequences: Sequences, name: str) -> None:
    """Warns where sequences are so short, so wide and so alike that features may be timesteps.

    Args:
        sequences: values `[timesteps, embed_dim]`.
        name: what they are called in the warning.

    Warns:
        DataWarning: they are.
    """
    length, width = sequences.lengths[0], sequences.values.shape[1]
    if width >= _DOUBTFUL_WIDTH * length and (sequences.lengths == length).all():
        warnings.warn(
            f"every sequence of {name} has {length} timesteps of {width} features; {TRANSPOSED}",
            DataWarning,
            stacklevel=3,
        )


def running_total(counts: LengthArray) -> LengthArray:
    """`[n + 1]` int64: what the counts before each, `[n]` int64, add up to."""
    total = np.zeros(len(counts) + 1, np.int64)
    counts.cumsum(out=total[1:])
    return total


def to_float32(numbers: npt.NDArray[Any]) -> FloatArray:
    """As float32, C-contiguous, uncopied if it is; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(numbers, np.float32, order="C")


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


def check_width(values: FloatArray, embed_dim: int | None, lengths: LengthArray) -> None:
    """Raises SequenceError unless `values` are `[timesteps, embed_dim]`, of any width if None."""
    if embed_dim is None:
        if values.ndim != 2 or not values.shape[1]:
            raise SequenceError(
                f"values have shape {list(values.shape)}; they must be [timesteps, channels], "
                "with one channel or more"
            )
        return
    if values.ndim != 2 or values.shape[1] != embed_dim:
        hint = f"; {TRANSPOSED}" if (lengths == embed_dim).all() else ""
        raise SequenceError(
            f"values have shape {list(values.shape)}; this model takes [timesteps, {embed_dim}]"
            + hint
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
