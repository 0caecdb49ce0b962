"""A saved stream: the sha256 of what follows, then a safetensors file.

Its metadata have one key, `stream`: JSON of `SavedStream`. Its tensors are float32:

- `state`, flat: the sum of the frames of the row that has begun `[embed_dim]`; the features of the
  rows before it, and its own, `[differences + 1, embed_dim]`; of a model that pools by mean the sum
  of whole parts of 64 rows, what rounding put too much into it, and the sum of the part that has
  begun `[3, hidden_size]`; with `mean_max` the largest numbers `[hidden_size]`. Rows of
  `hidden_size` are filled up to a multiple of 16.
- `keys` and `values`, `[rows, num_layers, key_value_heads, head_dim]`, of those whole rows that a
  later one attends to; keys are rotated.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritserve.model.errors import UserError, explain
from tritserve.model.packed.tensors import read_metadata, save_tensors
from tritserve.model.sequences import FloatArray

MAX_STREAM_TIMESTEPS = 2**48
_DIGEST_BYTES = 32
_KEY = "stream"
_TENSORS = {"state": 1, "keys": 4, "values": 4}


class StreamError(UserError):
    """A stream that cannot be had, or cannot be given what it is given.

    Attributes:
        row: which of the streams of a push, where there is one.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class SavedStream(BaseModel):
    """What a saved stream is of."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["tritserve-stream/1"] = "tritserve-stream/1"
    revision: str = Field(pattern="^[0-9a-f]{64}$")
    """sha256 of the packed file."""
    timesteps: int = Field(ge=0, le=MAX_STREAM_TIMESTEPS)
    restart: bool


def serialize(saved: SavedStream, tensors: Mapping[str, FloatArray]) -> bytes:
    """A saved stream's bytes; the same content gives the same ones."""
    data = save_tensors(tensors, {_KEY: saved.model_dump_json()})
    return hashlib.sha256(data).digest() + data


def parse(data: bytes) -> tuple[SavedStream, dict[str, FloatArray]]:
    """Checks a saved stream's bytes, but for what only the model tells.

    Raises:
        StreamError: they are not a valid saved stream.
    """
    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise StreamError("the saved stream is damaged: its checksum is not that of its bytes")
    tensors = _tensors(content)
    metadata = read_metadata(content)
    if metadata.keys() != {_KEY} or tensors.keys() != _TENSORS.keys():
        raise StreamError(
            f"the saved stream has metadata {sorted(metadata)} and tensors {sorted(tensors)}; they "
            f"must be {[_KEY]} and {sorted(_TENSORS)}"
        )
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.ndim != _TENSORS[name]:
            raise StreamError(
                f"the saved stream's {name} are {tensor.dtype} {list(tensor.shape)}; they must be "
                f"float32 of {_TENSORS[name]} dimensions"
            )
        if not np.isfinite(tensor).all():
            raise StreamError(f"the saved stream's {name} are NaN or infinite in places")
    try:
        return SavedStream.model_validate_json(metadata[_KEY]), tensors
    except ValidationError as error:
        raise StreamError(f"the saved stream is not valid: {explain(error)}") from error


def _tensors(content: bytes) -> dict[str, npt.NDArray[Any]]:
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError) as error:
        raise StreamError(f"the saved stream is no valid safetensors file: {error}") from error
