"""One push: checks, the call, and what to say of a refusal.

The native engine checks what can harm it, or would not be the answer; only a push that it refuses
is looked at again here, to say what was wrong.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.config import ModelConfig
from tritserve.model.engine import _native
from tritserve.model.engine.saved_stream import MAX_STREAM_TIMESTEPS, StreamError
from tritserve.model.engine.stream import Stream
from tritserve.model.engine.value_check import LARGEST_DEVIATION, check_batch, overflow
from tritserve.model.sequences import FloatArray, LengthArray, SequenceError, check_finite


def push(
    encoder: _native.Encoder,
    config: ModelConfig,
    streams: Sequence[Stream],
    values: npt.NDArray[Any],
    lengths: npt.NDArray[Any],
    every: bool,
) -> FloatArray:
    """Shapes and errors are those of `Engine.push`."""
    for row, stream in enumerate(streams):
        if not isinstance(stream, Stream):
            raise StreamError(f"stream {row} is a {type(stream).__name__}, not a Stream", row)
    if not (_is_plain(values, np.float32) and _is_plain(lengths, np.int64)):
        lengths = check_batch(values, lengths, config.embed_dim)
        values = np.ascontiguousarray(values)
    embeddings = np.empty(
        (len(values) if every else len(streams), config.output_size), dtype=np.float32
    )
    try:
        refusal = encoder.push(
            [stream._native for stream in streams], values, lengths, every, embeddings
        )
    except (TypeError, ValueError):
        checked = check_batch(values, lengths, config.embed_dim)
        if len(checked) != len(streams):
            raise StreamError(
                f"{len(streams)} streams have {len(checked)} lengths; each must have one"
            ) from None
        raise
    if refusal:
        raise _error(refusal, config, streams, values, lengths)
    return embeddings


def _is_plain(array: object, dtype: type) -> bool:
    return type(array) is np.ndarray and array.dtype == dtype and array.flags.c_contiguous


def _error(
    refusal: tuple[str, int, int, int],
    config: ModelConfig,
    streams: Sequence[Stream],
    values: FloatArray,
    lengths: LengthArray,
) -> StreamError | SequenceError:
    reason, row, timestep, feature = refusal
    if reason == "overflow":
        return overflow(row)
    if reason == "value":
        check_finite(values, lengths)
        value = values[int(lengths[:row].sum()) + timestep, feature]
        return SequenceError(
            f"sequence {row}, timestep {timestep}, feature {feature} is {value}; over "
            f"{LARGEST_DEVIATION:.0e} deviations from the mean of the training data",
            row,
            timestep,
        )
    end = (
        f"a stream takes {MAX_STREAM_TIMESTEPS}"
        if config.attention_window
        else f"this model takes {config.max_timesteps}, then a stream ends, unless made with "
        "restart=True"
    )
    said = {
        "foreign": "is of another engine",
        "closed": "is closed",
        "twice": "is in the push twice; its frames must be one portion",
        "ended": f"has had {streams[row].timesteps} timesteps and is given {lengths[row]}; {end}",
    }
    return StreamError(f"stream {row} {said[reason]}", row)
