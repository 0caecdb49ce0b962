"""Tensors of the Open Inference Protocol, version 2, whatever carries them: REST or gRPC.

Inputs are `values`, floats `[timesteps, embed_dim]`, all sequences one after the other, with
`lengths`, integers `[batch]`; or `values` `[batch, seq_len, embed_dim]` alone. The output is
`embeddings`, and with precision int8 also `scales`. Bytes are little-endian, rows one after the
other.

Source: the KServe open inference protocol (kserve/open-inference-protocol).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.sequences import Sequences
from tritserve.service.errors import InvalidError, UnknownPathError
from tritserve.service.forms.options import Options
from tritserve.service.forms.wire import (
    EmbedAnswer,
    EmbedRequest,
    Limits,
    checked,
    to_sequences,
)

Array = npt.NDArray[Any]

MODEL_VERSION = "1"
# Over gRPC, by service.
METHODS = {
    "inference.GRPCInferenceService": (
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
    ),
    "grpc.health.v1.Health": ("Check",),
}
DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8"}
DATATYPES = {"float16": "FP16", "float32": "FP32", "int8": "INT8", "uint8": "UINT8"}


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Array:
    """The input whose bytes are `data`.

    Raises:
        InvalidError: they are more or less than shape and datatype ask for.
    """
    dtype = np.dtype(DTYPES[datatype])
    if min(shape) < 1 or dtype.itemsize * math.prod(shape) != len(data):
        raise InvalidError(
            f"input '{name}' of shape {list(shape)} and type {datatype} does not have "
            f"{len(data)} bytes"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def from_numbers(name: str, datatype: str, shape: Sequence[int], numbers: Array) -> Array:
    """The input whose elements are `numbers`, one after the other.

    Raises:
        InvalidError: there are more or fewer than shape asks for.
    """
    if min(shape) < 1 or len(numbers) != math.prod(shape):
        raise InvalidError(
            f"input '{name}' of shape {list(shape)} and type {datatype} does not have "
            f"{len(numbers)} numbers"
        )
    return numbers.reshape(shape)


def to_request(tensors: dict[str, Array], options: Options, limits: Limits) -> EmbedRequest:
    """The request that inputs make, checked.

    Raises:
        InvalidError: they do not fit each other, or the limits.
    """
    if "values" not in tensors:
        raise InvalidError("the input 'values' is missing")
    request = EmbedRequest(_to_sequences(tensors["values"], tensors.get("lengths")), options)
    return checked(request, limits)


def _to_sequences(values: Array, lengths: Array | None) -> Sequences:
    if lengths is not None:
        return to_sequences(values, lengths)
    if values.ndim != 3:
        raise InvalidError(
            f"'values' have shape {list(values.shape)}; without 'lengths' they must be "
            "[batch, seq_len, embed_dim]"
        )
    batch, seq_len, width = values.shape
    return to_sequences(values.reshape(batch * seq_len, width), np.full(batch, seq_len))


def check_unique(kind: str, names: list[str]) -> None:
    """Raises InvalidError if a name is there twice."""
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise InvalidError(f"the {kind} '{name}' is given twice")


def choose_outputs(wanted: list[str], options: Options) -> list[str]:
    """The names of the outputs that the answer has: those wanted, all if none are.

    Raises:
        InvalidError: one of them is unknown, given twice, or not there with these options.
    """
    there = ["embeddings", *(["scales"] if options.precision == "int8" else [])]
    check_unique("output", wanted)
    for name in wanted:
        if name == "scales" and name not in there:
            raise InvalidError("the output 'scales' comes with precision int8 only")
        if name not in there:
            raise InvalidError(f"there is no output '{name}', only {' and '.join(there)}")
    return wanted or there


def read_output(answer: EmbedAnswer, name: str) -> Array:
    """An answer's output, one that `choose_outputs` has given."""
    array = answer.embeddings.scales if name == "scales" else answer.embeddings.rows
    assert array is not None
    return array


def server_metadata(version: str) -> dict[str, Any]:
    """What the server says of itself."""
    return {"name": "tritserve", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, embed_dim: int, hidden_size: int) -> dict[str, Any]:
    """What the server says of its model."""
    return {
        "name": name,
        "versions": [MODEL_VERSION],
        "platform": "tritserve",
        "inputs": [
            {"name": "values", "datatype": "FP32", "shape": [-1, embed_dim]},
            {"name": "lengths", "datatype": "INT64", "shape": [-1]},
        ],
        "outputs": [{"name": "embeddings", "datatype": "FP32", "shape": [-1, hidden_size]}],
    }


def check_model(given: str, served: str, version: str | None) -> None:
    """Raises UnknownPathError unless the model asked for is the one that is served."""
    if given != served:
        raise UnknownPathError(f"there is no model {given[:200]!r}, only {served!r}")
    if version not in {None, MODEL_VERSION}:
        raise UnknownPathError(
            f"{served!r} has no version {version[:200]!r}, only {MODEL_VERSION!r}"
        )
