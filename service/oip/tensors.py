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
from tritserve.service.errors import InvalidError
from tritserve.service.forms.options import Options
from tritserve.service.forms.wire import (
    EmbedAnswer,
    EmbedRequest,
    Limits,
    checked,
    to_sequences,
)
from tritserve.service.oip.parameters import RequestParameters

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
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
    ),
    "grpc.health.v1.Health": ("Check",),
}
# What calls of any other method are counted under.
OTHER = "other"
DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8"}
DATATYPES = {"float16": "FP16", "float32": "FP32", "int8": "INT8", "uint8": "UINT8"}


def check_shape(name: str, shape: Sequence[int]) -> None:
    """Raises InvalidError unless an input of this shape has elements."""
    if min(shape) < 0:
        raise invalid_input(name, f"has shape {list(shape)}; sizes must be 1 or more")
    if shape[0] == 0:
        raise InvalidError(
            f"the batch is empty: input '{name}' has shape {list(shape)}; "
            "a batch needs at least one sequence",
            field=f"inputs.{name}",
        )
    if 0 in shape:
        raise invalid_input(
            name,
            f"of shape {list(shape)} is empty; a sequence needs at least one timestep, a timestep "
            "at least one feature",
        )


def invalid_input(name: str, wrong: str) -> InvalidError:
    """An error that says what is wrong with an input, in words that follow its name."""
    return InvalidError(f"input '{name}' {wrong}", field=f"inputs.{name}")


def from_bytes(name: str, datatype: str, shape: Sequence[int], data: bytes) -> Array:
    """The input whose bytes are `data`.

    Raises:
        InvalidError: they are more or less than shape and datatype ask for.
    """
    dtype = np.dtype(DTYPES[datatype])
    if dtype.itemsize * math.prod(shape) != len(data):
        raise invalid_input(
            name, f"of shape {list(shape)} and type {datatype} does not have {len(data)} bytes"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def from_numbers(name: str, datatype: str, shape: Sequence[int], numbers: Array) -> Array:
    """The input whose elements are `numbers`, one after the other.

    Raises:
        InvalidError: there are more or fewer than shape asks for.
    """
    if len(numbers) != math.prod(shape):
        raise invalid_input(
            name, f"of shape {list(shape)} and type {datatype} does not have {len(numbers)} numbers"
        )
    return numbers.reshape(shape)


def to_request(
    tensors: dict[str, Array], parameters: RequestParameters, limits: Limits
) -> EmbedRequest:
    """The request that inputs make, checked.

    Raises:
        InvalidError: they do not fit each other, or the limits.
    """
    if "values" not in tensors:
        raise InvalidError("the input 'values' is missing", field="inputs")
    sequences = _to_sequences(tensors["values"], tensors.get("lengths"))
    return checked(EmbedRequest(sequences, parameters, parameters.timeout_seconds), limits)


def _to_sequences(values: Array, lengths: Array | None) -> Sequences:
    if lengths is not None:
        return to_sequences(values, lengths)
    if values.ndim != 3:
        raise InvalidError(
            f"'values' have shape {list(values.shape)}; without 'lengths' they must be "
            "[batch, seq_len, embed_dim]",
            field="inputs.values",
        )
    batch, seq_len, width = values.shape
    return to_sequences(values.reshape(batch * seq_len, width), np.full(batch, seq_len))


def check_unique(kind: str, names: list[str]) -> None:
    """Raises InvalidError if a name is there twice."""
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise InvalidError(f"the {kind} '{name}' is given twice", field=f"{kind}s")


def choose_outputs(wanted: list[str], options: Options) -> list[str]:
    """The names of the outputs that the answer has: those wanted, all if none are.

    Raises:
        InvalidError: one of them is unknown, given twice, or not there with these options.
    """
    there = ["embeddings", *(["scales"] if options.precision == "int8" else [])]
    check_unique("output", wanted)
    for name in wanted:
        if name == "scales" and name not in there:
            raise InvalidError(
                "the output 'scales' comes with precision int8 only", field="outputs"
            )
        if name not in there:
            raise InvalidError(
                f"there is no output '{name}', only {' and '.join(there)}", field="outputs"
            )
    return wanted or there


def read_output(answer: EmbedAnswer, name: str) -> Array:
    """An answer's output, one that `choose_outputs` has given."""
    array = answer.embeddings.scales if name == "scales" else answer.embeddings.rows
    assert array is not None
    return array
