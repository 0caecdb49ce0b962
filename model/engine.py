"""Embeddings from a packed file: the one door that a service or a script goes through."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from model.packed import PackedFileError, PackedModel, read
from model.reference import Reference
from model.sequences import FloatArray, SequenceError, check_lengths, check_values

GOLDEN_COSINE = 0.999


class Engine:
    """A loaded model.

    Attributes:
        model: the packed model, checked whole.
        kernel: the instruction set that computes.
        threads: how many threads compute.
    """

    def __init__(self, model: PackedModel) -> None:
        self.model = model
        self.kernel = "numpy"
        self.threads = 1
        self._forward = Reference(model)
        self._check_golden()

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads a packed file, checks it, and reproduces its golden vector.

        Raises:
            OSError: the file cannot be read.
            PackedFileError: it is not a valid packed file, or this engine does not compute
                from it what its exporter computed.
        """
        return cls(read(Path(path)))

    def embed(self, values: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> FloatArray:
        """Embeds a ragged batch.

        The same sequence gives the same bytes, whatever else is in the batch.

        Args:
            values: `[timesteps, embed_dim]` float32, all sequences one after the other.
            lengths: `[batch]` integers of 1 or more whose sum is `timesteps`.

        Returns:
            `[batch, hidden_size]` float32.

        Raises:
            SequenceError: the batch is not of this form, a sequence is longer than the model
                takes, a value is not finite, or values are so large that the model overflows.
        """
        config = self.model.config
        if values.dtype != np.float32:
            raise SequenceError(f"values are {values.dtype}; they must be float32")
        checked = check_lengths(lengths, len(values) if values.ndim else 0)
        check_values(values, checked, config.embed_dim, config.max_timesteps)
        with np.errstate(over="ignore", invalid="ignore"):
            embeddings = self._forward.embed(values, checked)
        overflown = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if len(overflown):
            row = int(overflown[0])
            raise SequenceError(
                f"sequence {row} holds values so large that float32 overflows inside the model",
                row,
            )
        return embeddings

    def _check_golden(self) -> None:
        values = self.model.tensors["golden.values"]
        expected = self.model.tensors["golden.embedding"]
        try:
            got = self.embed(values, np.array([len(values)]))[0]
        except SequenceError as error:
            raise PackedFileError(f"the golden vector cannot be computed: {error}") from error
        norms = np.linalg.norm(got) * np.linalg.norm(expected)
        cosine = float(got @ expected / norms) if norms else float(np.array_equal(got, expected))
        if not cosine >= GOLDEN_COSINE:
            raise PackedFileError(
                f"the model does not reproduce its golden vector: cosine {cosine:.6f}, "
                f"at least {GOLDEN_COSINE} is needed; its config or weights were changed"
            )
