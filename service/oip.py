"""The Open Inference Protocol, version 2, over REST, with its binary tensor extension.

A request is JSON, or JSON followed by the bytes of tensors, little-endian, in the order of the
inputs that have a `binary_data_size`; `Inference-Header-Content-Length` then tells how long the
JSON is. Answers are built the same way.

Inputs are `values`, floats `[timesteps, embed_dim]`, all sequences one after the other, with
`lengths`, integers `[batch]`; or `values` `[batch, seq_len, embed_dim]` alone. The output is
`embeddings`, and with precision int8 also `scales`. Our options are parameters of the request.

Source: the KServe open inference protocol (open-inference-protocol, inference_rest) and Triton's
binary data extension.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import explain
from model.sequences import Sequences
from service.errors import InvalidError, UnknownPathError, UnparseableError
from service.media import JSON
from service.options import Options
from service.wire import EmbedAnswer, EmbedRequest, Limits, check_request, to_sequences

BINARY = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
MODEL_VERSION = "1"

_DTYPES = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT32": "<i4", "INT64": "<i8"}
_DATATYPES = {"float16": "FP16", "float32": "FP32", "int8": "INT8", "uint8": "UINT8"}


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _InputParameters(_Message):
    binary_data_size: int | None = Field(default=None, ge=0)


class _Input(_Message):
    name: Literal["values", "lengths"]
    shape: list[int] = Field(min_length=1, max_length=3)
    datatype: Literal["FP16", "FP32", "FP64", "INT32", "INT64"]
    parameters: _InputParameters = _InputParameters()
    data: list[Any] | None = None


class _OutputParameters(_Message):
    binary_data: bool | None = None


class _Output(_Message):
    name: Literal["embeddings", "scales"]
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(Options):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    binary_data_output: bool = False


class _Request(_Message):
    id: str | None = None
    parameters: _Parameters = _Parameters()
    inputs: list[_Input] = Field(min_length=1, max_length=2)
    outputs: list[_Output] | None = None


class InferForm:
    """How one `infer` request and its answer are written."""

    content_type: str | None = BINARY
    answer_type = BINARY

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._header_length = headers.get(HEADER_LENGTH.lower())
        self._request: _Request | None = None

    def decode(self, body: bytes, limits: Limits) -> EmbedRequest:
        """Reads and checks a request.

        Raises:
            UnparseableError: the body is not JSON, or not as long as it says.
            InvalidError: the JSON or a tensor is wrong.
        """
        json_bytes = self._json_length(body)
        try:
            request = _Request.model_validate_json(body[:json_bytes])
        except ValidationError as error:
            if error.errors(include_input=False)[0]["type"] == "json_invalid":
                raise UnparseableError(f"the request is not JSON: {explain(error)}") from error
            raise InvalidError(explain(error)) from error
        self._request = request
        tensors = _read_tensors(request.inputs, body[json_bytes:])
        if "values" not in tensors:
            raise InvalidError("the input 'values' is missing")
        fields = request.parameters.model_dump(exclude={"binary_data_output"})
        embed_request = EmbedRequest(_to_sequences(tensors), Options.model_validate(fields))
        check_request(embed_request, limits)
        return embed_request

    def encode(self, answer: EmbedAnswer) -> tuple[bytes, dict[str, str]]:
        """The answer's body and headers.

        Raises:
            InvalidError: an output was asked for that this request does not have.
        """
        assert self._request is not None
        there = {"embeddings": answer.embeddings.rows}
        if answer.embeddings.scales is not None:
            there["scales"] = answer.embeddings.scales
        wanted = self._request.outputs or [_Output.model_validate({"name": name}) for name in there]
        outputs, blobs = [], []
        for output in wanted:
            if output.name not in there:
                raise InvalidError(f"the output '{output.name}' comes with precision int8 only")
            described, blob = self._write(output, there[output.name])
            outputs.append(described)
            blobs.append(blob)
        head: dict[str, Any] = {
            "model_name": answer.model["name"],
            "model_version": MODEL_VERSION,
            "parameters": {"truncated": len(answer.usage["truncated"])},
            "outputs": outputs,
        }
        if self._request.id is not None:
            head["id"] = self._request.id
        text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
        tail = b"".join(blobs)
        if not tail:
            return text, {"Content-Type": JSON}
        return text + tail, {"Content-Type": BINARY, HEADER_LENGTH: str(len(text))}

    def _write(self, output: _Output, array: npt.NDArray[Any]) -> tuple[dict[str, Any], bytes]:
        assert self._request is not None
        binary = output.parameters.binary_data
        if binary is None:
            binary = self._request.parameters.binary_data_output
        described: dict[str, Any] = {
            "name": output.name,
            "datatype": _DATATYPES[array.dtype.name],
            "shape": list(array.shape),
        }
        if binary:
            blob = array.tobytes()
            return described | {"parameters": {"binary_data_size": len(blob)}}, blob
        if array.dtype == np.float16:
            raise InvalidError("FP16 has no JSON form; ask for binary_data, or for float32")
        return described | {"data": array.ravel()}, b""

    def _json_length(self, body: bytes) -> int:
        text = self._header_length
        if text is None:
            return len(body)
        if not text.isdecimal() or len(text) > 18 or int(text) > len(body):
            raise UnparseableError(
                f"{HEADER_LENGTH} is {text[:20]!r}; it must be at most the body's {len(body)} bytes"
            )
        return int(text)


def _read_tensors(inputs: list[_Input], tail: bytes) -> dict[str, npt.NDArray[Any]]:
    tensors: dict[str, npt.NDArray[Any]] = {}
    at = 0
    for given in inputs:
        if given.name in tensors:
            raise InvalidError(f"the input '{given.name}' is given twice")
        size = given.parameters.binary_data_size
        if (size is None) == (given.data is None):
            raise InvalidError(f"input '{given.name}' needs either data or binary_data_size")
        if size is None:
            tensors[given.name] = _from_data(given)
        else:
            tensors[given.name] = _from_bytes(given, tail[at : at + size], size)
            at += size
    if at != len(tail):
        raise UnparseableError(f"{len(tail)} bytes follow the JSON, the inputs tell of {at}")
    return tensors


def _from_bytes(given: _Input, blob: bytes, size: int) -> npt.NDArray[Any]:
    dtype = np.dtype(_DTYPES[given.datatype])
    if len(blob) != size:
        raise UnparseableError(f"the bytes of input '{given.name}' are cut off")
    if min(given.shape) < 1 or dtype.itemsize * _product(given.shape) != size:
        raise InvalidError(
            f"input '{given.name}' of shape {given.shape} and type {given.datatype} does not have "
            f"{size} bytes"
        )
    return np.frombuffer(blob, dtype).reshape(given.shape)


def _from_data(given: _Input) -> npt.NDArray[Any]:
    if given.datatype == "FP16":
        raise InvalidError("FP16 has no JSON form; send it as binary data")
    try:
        array = np.array(given.data)
    except ValueError as error:
        raise InvalidError(f"input '{given.name}': data is ragged: {error}") from error
    wanted = "f" if given.datatype.startswith("FP") else "i"
    if array.dtype.kind not in ("fi" if wanted == "f" else "i"):
        raise InvalidError(f"input '{given.name}': data must be {given.datatype} numbers")
    if min(given.shape) < 1 or array.size != _product(given.shape):
        raise InvalidError(
            f"input '{given.name}' of shape {given.shape} does not have {array.size} numbers"
        )
    return array.astype(np.float64 if wanted == "f" else np.int64).reshape(given.shape)


def _product(shape: list[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def _to_sequences(tensors: dict[str, npt.NDArray[Any]]) -> Sequences:
    values, lengths = tensors["values"], tensors.get("lengths")
    if lengths is not None:
        return to_sequences(values, lengths)
    if values.ndim != 3:
        raise InvalidError(
            f"'values' have shape {list(values.shape)}; without 'lengths' they must be "
            "[batch, seq_len, embed_dim]"
        )
    batch, seq_len, width = values.shape
    return to_sequences(values.reshape(batch * seq_len, width), np.full(batch, seq_len))


def server_metadata(version: str) -> dict[str, Any]:
    """The answer of `GET /v2`."""
    return {"name": "tritserve", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, embed_dim: int, hidden_size: int) -> dict[str, Any]:
    """The answer of `GET /v2/models/NAME`."""
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
        raise UnknownPathError(f"there is no model {given!r}, only {served!r}")
    if version not in {None, MODEL_VERSION}:
        raise UnknownPathError(f"{served!r} has no version {version!r}, only {MODEL_VERSION!r}")
