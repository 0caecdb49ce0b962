"""More sequences than one call of the engine takes."""

from collections.abc import Iterator

import numpy as np

from tritserve.model.engine.engine import Engine
from tritserve.model.sequences import FloatArray, SequenceError, Sequences
from tritserve.service.commands.progress import progress_bar
from tritserve.service.forms.wire import invalid

EMBED_TIMESTEPS = 8_192


def chunks(sequences: Sequences, timesteps: int) -> Iterator[Sequences]:
    """Consecutive parts of a batch, of about `timesteps` timesteps each."""
    ends = np.cumsum(sequences.lengths)
    cuts = np.flatnonzero(np.diff(ends // timesteps)) + 1
    for rows in np.split(np.arange(len(sequences)), cuts):
        yield sequences.select(rows)


def embed_all(engine: Engine, sequences: Sequences) -> FloatArray:
    """Embeddings `[batch, hidden_size]`, made part by part with a progress bar.

    Raises:
        InvalidError: the model cannot take a sequence.
    """
    parts: list[FloatArray] = []
    with progress_bar(len(sequences), "sequence") as bar:
        for part in chunks(sequences, EMBED_TIMESTEPS):
            try:
                parts.append(engine.embed(part.values, part.lengths))
            except SequenceError as error:
                raise invalid(error, first_row=sum(map(len, parts))) from error
            bar.update(len(part))
    return np.concatenate(parts)
