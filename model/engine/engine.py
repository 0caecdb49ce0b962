"""Embeddings from a packed file: the one door that a service or a script goes through."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tritserve.model.engine import _native
from tritserve.model.engine.push import push
from tritserve.model.engine.stream import Stream, new_stream, restore_stream
from tritserve.model.engine.value_check import ValueCheck, check_batch, overflow
from tritserve.model.environment import ISA_VARIABLE, MAX_THREADS, available_processors
from tritserve.model.errors import UserError
from tritserve.model.packed.content import PackedModel
from tritserve.model.packed.file import PackedFileError, read
from tritserve.model.packed.golden import disagreement
from tritserve.model.sequences import (
    FloatArray,
    LengthArray,
    SequenceError,
    check_longest,
    check_no_infinity,
)


class EngineError(UserError):
    """An engine that cannot be had on this machine."""


class Engine:
    """A loaded model. A process forked while it computes starts when the batch is done.

    Args:
        model: the packed model.
        threads: how many threads compute; as many as the process has processors if not given.
        isa: the instruction set to use; the best one if not given. The environment variable
            TRITSERVE_ISA stands in for it.

    Attributes:
        model: the packed model, checked whole.
        kernel: the instruction set that computes.
        threads: how many threads compute.

    Raises:
        EngineError: the instruction set is not supported here, `threads` is no number of 1 to
            1024, or so many cannot be started.
        PackedFileError: the model does not reproduce its golden vector.
    """

    def __init__(
        self, model: PackedModel, *, threads: int | None = None, isa: str | None = None
    ) -> None:
        self.model = model
        chosen = os.environ.get(ISA_VARIABLE, "") if isa is None else isa
        try:
            self._encoder = _native.Encoder(
                _settings(model),
                _arrays(model),
                chosen,
                _checked_threads(available_processors() if threads is None else threads),
            )
        except (ValueError, RuntimeError) as error:
            raise EngineError(str(error)) from error
        self.kernel = self._encoder.kernels
        self.threads = self._encoder.threads
        self._check_values: Callable[[FloatArray, LengthArray], None] = (
            check_no_infinity
            if model.config.channels
            else ValueCheck(
                model.tensors["standardize.mean"],
                model.tensors["standardize.std"],
                stride=model.config.stride,
                differences=model.config.differences,
            )
        )
        self._check_golden()

    @classmethod
    def load(cls, path: Path | str, **options: Any) -> Self:
        """Reads a packed file, checks it, and reproduces its golden vector.

        Options are those of the constructor.

        Raises:
            OSError: the file cannot be read.
            PackedFileError: it is not a valid packed file, or this engine does not compute
                from it what its exporter computed.
            EngineError: see above.
        """
        return cls(read(Path(path)), **options)

    def embed(
        self, values: npt.NDArray[Any], lengths: npt.NDArray[Any], *, apart: bool = False
    ) -> FloatArray:
        """Embeds a ragged batch.

        The same sequence gives the same bytes, whatever else is in the batch.

        Args:
            values: `[timesteps, embed_dim]` float32, all sequences one after the other.
            lengths: `[batch]` integers of 1 or more whose sum is `timesteps`.
            apart: of a model that sees channels one by one: whether to keep them apart.

        Returns:
            `[batch, output_size]` float32, or `[batch, channels * channel_size]` with `apart`.

        Raises:
            SequenceError: the batch is not of this form or masked in places, a sequence is longer
                than the model takes, a value is not finite, or values are so large that the model
                overflows.
        """
        config = self.model.config
        checked = check_batch(values, lengths, config.embed_dim)
        if apart and config.channels is None:
            raise SequenceError("this model joins its features; it cannot keep channels apart")
        check_longest(checked, config.max_timesteps)
        self._check_values(values, checked)
        width = values.shape[1] * config.channel_size if apart else config.output_size
        embeddings = np.empty((len(checked), width), dtype=np.float32)
        self._encoder.embed(np.ascontiguousarray(values), checked, apart, embeddings)
        overflown = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        if len(overflown):
            raise overflow(int(overflown[0]))
        return embeddings

    def stream(self, *, restart: bool = False) -> Stream:
        """A live stream that has had no frames.

        It has no end if the model has an `attention_window`, and holds at most
        `max_stream_bytes`. Otherwise it ends after `max_timesteps` of the model.

        Args:
            restart: whether it starts anew there.

        Raises:
            StreamError: the model cannot stream, or there is nothing to start anew.
        """
        return new_stream(self._encoder, self.model, restart)

    def restore(self, saved: bytes) -> Stream:
        """The stream that `Stream.save` gave the bytes of.

        Raises:
            StreamError: they are damaged, or of another model.
        """
        return restore_stream(self._encoder, self.model, saved)

    def push(
        self,
        streams: Sequence[Stream],
        values: npt.NDArray[Any],
        lengths: npt.NDArray[Any],
        *,
        every: bool = False,
    ) -> FloatArray:
        """Gives streams their next frames, all in one pass over the weights.

        A stream's embedding is byte for byte `embed` of all frames that it has had since it
        started, whatever shares the call. The frames of one stream are computed by one thread.

        Args:
            streams: of this engine, each once.
            values: `[timesteps, embed_dim]` float32, the frames of all, one stream after the other.
            lengths: `[streams]` integers of 1 or more whose sum is `timesteps`.
            every: whether the embedding after every frame is asked for, not only after the last.

        Returns:
            `[streams, output_size]` float32, or `[timesteps, output_size]` with `every`.

        Raises:
            SequenceError: values and lengths are refused as `embed` refuses them.
            StreamError: a stream is closed, of another engine, in `streams` twice, or would have
                had more timesteps than the model takes.
            After either, every stream is as it was.
        """
        return push(self._encoder, self.model.config, streams, values, lengths, every)

    @property
    def stream_bytes(self) -> int:
        """What all streams hold now. What they give back is kept for later ones."""
        return self._encoder.stream_bytes

    @property
    def max_stream_bytes(self) -> int:
        """What one stream comes to hold at most, but for the time of a push."""
        return self._encoder.max_stream_bytes

    def _check_golden(self) -> None:
        values = self.model.tensors["golden.values"]
        expected = self.model.tensors["golden.embedding"]
        try:
            got = self.embed(values, np.array([len(values)]))[0]
        except SequenceError as error:
            raise PackedFileError(f"the golden vector cannot be computed: {error}") from error
        if difference := disagreement(got, expected):
            raise PackedFileError(
                f"the model does not reproduce its golden vector: {difference}; its config or "
                "weights were changed"
            )


def _checked_threads(threads: int) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer):
        raise EngineError(f"threads are {threads!r}; they must be an integer")
    if not 1 <= threads <= MAX_THREADS:
        raise EngineError(f"threads must be 1 to {MAX_THREADS}, not {threads}")
    return int(threads)


def _settings(model: PackedModel) -> dict[str, Any]:
    config = model.config
    settings: dict[str, Any] = {
        # The encoder's own, of tokens where channels are seen one by one.
        "embed_dim": config.channels.token_size if config.channels else config.embed_dim,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "key_value_heads": config.key_value_heads,
        "num_layers": config.num_layers,
        "stride": config.stride,
        "differences": config.differences,
        "inner_size": config.inner_size,
        "max_timesteps": config.max_timesteps,
        "binary": config.quantize == "binary",
        "int8_activations": config.activations == "int8",
        "sub_norm": config.sub_norm,
        "layernorm": config.norm == "layernorm",
        "swiglu": config.ffn == "swiglu",
        "rope": config.positions == "rope",
        "bias": config.bias,
        "causal": config.attention == "causal",
        "attention_window": config.attention_window or 0,
        "pooling": config.pooling,
        "rope_theta": config.rope_theta,
    }
    if config.channels:
        settings["channels"] = config.channels.model_dump()
    return settings


def _arrays(model: PackedModel) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = dict(model.tensors)
    for name, layer in model.layers.items():
        arrays[f"{name}.packed"] = layer.packed
        arrays[f"{name}.scale"] = layer.scale
        if layer.bias is not None:
            arrays[f"{name}.bias"] = layer.bias
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
