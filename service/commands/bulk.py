"""More sequences than one call of the engine takes."""

from collections.abc import Iterator

import numpy as np

from tritserve.model.engine.engine import Engine
from tritserve.model.sequences import FloatArray, SequenceError, Sequences
from tritserve.service.commands.progress import progress_bar
from tritserve.service.embedding.served import cost_of
from tritserve.service.forms.cost import Cost
from tritserve.service.forms.wire import invalid

EMBED_TIMESTEPS = 8_192


def chunks(sequences: Sequences, timesteps: int, cost: Cost) -> Iterator[Sequences]:
    """Consecutive parts of a batch, that count about `timesteps` timesteps each."""
    ends = cost.offsets(sequences)[1:]
    cuts = np.flatnonzero(np.diff(ends // timesteps)) + 1
    for rows in np.split(np.arange(len(sequences)), cuts):
        yield sequences.select(rows)


def embed_all(engine: Engine, sequences: Sequences, *, apart: bool = False) -> FloatArray:
    """Embeddings as `Engine.embed` gives them, made part by part with a progress bar.

    Raises:
        InvalidError: the model cannot take a sequence.
    """
    parts: list[FloatArray] = []
    with progress_bar(len(sequences), "sequence") as bar:
        for part in chunks(sequences, EMBED_TIMESTEPS, cost_of(engine.model.config)):
            try:
                parts.append(engine.embed(part.values, part.lengths, apart=apart))
            except SequenceError as error:
                raise invalid(error, first_row=sum(map(len, parts))) from error
            bar.update(len(part))
    return np.concatenate(parts)
