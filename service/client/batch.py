"""What a client is given to embed: sequences, and the names of their features."""

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tritserve.model.arrays import column_names
from tritserve.model.sequences import SequenceError, Sequences


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch that may name its features.

    Attributes:
        sequences: all of them.
        features: their names in the order of the columns; None where they have none.
        of_tables: whether the names are those of tables, which have some for any model: only one
            that knows its own is told.
    """

    sequences: Sequences
    features: Sequence[str] | None
    of_tables: bool

    @classmethod
    def read(cls, sequences: Iterable[Any], features: Sequence[str] | None) -> "Batch":
        """Reads arrays and tables, `[seq_len, embed_dim]` each.

        Args:
            sequences: to embed; tables with the same columns in another order than the first
                one's are put into its order.
            features: the names of the columns; None if they are not given beside the sequences.

        Raises:
            SequenceError: the sequences are no batch, tables have other columns than `features`
                or than each other, or some sequences name their columns and others do not.
        """
        # A table by itself is refused as what it is; an iterator is read once.
        given = sequences if column_names(sequences) else list(sequences)
        batch = Sequences.from_list(given)
        names = [column_names(sequence) for sequence in given]
        columns = next((found for found in names if found), None)
        if columns is None:
            return cls(batch, features, of_tables=False)
        row = names.index(columns)
        if features is None and None in names:
            raise SequenceError(
                f"sequence {row} names its columns, sequence {names.index(None)} does not; pass "
                "tables alone or arrays alone, or name the columns of all in features",
                row,
            )
        if features is not None and list(features) != columns:
            raise SequenceError(
                f"features are {_shown(features)}, the columns of sequence {row} are "
                f"{_shown(columns)}; leave features out, or give the columns' names in their order",
                row,
            )
        return cls(batch, columns, of_tables=features is None)


def _shown(names: Sequence[str]) -> str:
    return reprlib.repr(list(names))
