"""What a request may choose, apart from how services read it: clients use this too."""

from typing import Literal

import numpy as np

from tritserve.model.sequences import Sequences
from tritserve.service.errors import InvalidError

Overlong = Literal["error", "keep_last", "keep_first"]
Precision = Literal["float32", "float16", "int8", "binary"]
Channels = Literal["joined", "apart"]


def truncate(
    sequences: Sequences, overlong: Overlong, max_timesteps: int
) -> tuple[Sequences, list[int]]:
    """Shortens sequences that are too long, where that was asked for.

    Returns:
        The sequences, and which rows were shortened.

    Raises:
        InvalidError: a sequence is too long and `overlong` is `error`.
    """
    if sequences.lengths.max() <= max_timesteps:
        return sequences, []
    rows = np.flatnonzero(sequences.lengths > max_timesteps).tolist()
    if overlong == "error":
        raise InvalidError(
            f"sequence {rows[0]} has {sequences.lengths[rows[0]]} timesteps, the model takes at "
            f"most {max_timesteps}; shorten it, or ask for it with overlong=keep_last or "
            "keep_first",
            row=rows[0],
        )
    kept = np.minimum(sequences.lengths, max_timesteps)
    starts = sequences.offsets[:-1]
    if overlong == "keep_last":
        starts = starts + sequences.lengths - kept
    # At once: what takes a turn for each of very many sequences holds up the event loop.
    shift = starts - (np.cumsum(kept) - kept)
    index = np.arange(kept.sum()) + np.repeat(shift, kept)
    return Sequences(sequences.values[index], kept), rows
